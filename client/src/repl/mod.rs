//! `mbclient` on a terminal: a line editor below, what arrives above it. This file is the loop between the two;
//! [`prompt`] decides what a line means, `execute` does it, [`editor`] owns the terminal, [`render`] says how things look.

mod account;
pub mod completion;
pub mod editor;
pub mod prompt;
pub mod render;
mod reply;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use messagebase_config::Config;
use messagebase_protocol::json::{Message, Sent};
use messagebase_protocol::name::fold_name;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::Cli;
use crate::client::{Client, Events, Options};
use crate::command::Command;
use crate::error::{ClientError, Unavailable, io_error};
use crate::execute::{Reply, check_delete, execute, remember};
use crate::exit::Exit;
use crate::link::Link;
use crate::notice::{ClientEvent, Notice};
use crate::repl::editor::{Editor, Typed};
use crate::repl::prompt::{Action, PromptState};
use crate::token::Store;

/// A message that is not answered within this goes on in the background; the prompt comes back.
const SEND_GRACE: Duration = Duration::from_secs(1);
/// While the prompt on the screen is out of date its change is tried again this often.
const NUDGE_EVERY: Duration = Duration::from_millis(100);
/// Time for the last acknowledgement at the end; without it the messages are shown again next time.
const GOODBYE: Duration = Duration::from_millis(500);
/// Messages that `/history` shows.
const HISTORY: usize = 100;
/// Messages that are shown when a conversation is opened.
const LAST_LINES: u32 = 5;

/// A message that was not answered at once.
type Late = (String, Result<Sent, ClientError>);

/// Chats until the user leaves.
///
/// # Errors
/// What kept it from beginning.
pub async fn run(cli: &Cli, config: &Config) -> Result<Exit, ClientError> {
    let store = Store::for_cluster(&config.cluster)?;
    let options = cli.options(Options {
        receive: true,
        ..Options::default()
    });
    let (client, events) = Client::start(config, options)?;
    run_with(cli, &config.cluster, store, client, events).await
}

/// Chats with a client that was started to receive.
///
/// # Errors
/// What kept it from beginning.
pub async fn run_with(
    cli: &Cli,
    cluster: &str,
    store: Store,
    client: Client,
    events: Events,
) -> Result<Exit, ClientError> {
    store.create()?;
    // Installed before the editor: between two reads a SIGINT finds this handler instead of ending the process.
    let interrupts = signal(SignalKind::interrupt()).map_err(|e| io_error("signal handler", &e))?;
    let mode = PromptState::default();
    let editor = Editor::start(Some(store.history()), mode.prompt())
        .map_err(|e| ClientError::Usage(format!("the terminal can't be used: {e}")))?;
    let mut repl = Repl {
        link: client.watch(),
        client: Arc::new(client),
        events,
        editor,
        store,
        mode,
        interrupts,
        late: JoinSet::new(),
        queued: BTreeMap::new(),
        last_shown: None,
        account: None,
        warned: false,
    };
    repl.begin(cli, cluster).await?;
    repl.chat().await;
    Ok(Exit::Done)
}

struct Repl {
    client: Arc<Client>,
    events: Events,
    link: watch::Receiver<Link>,
    editor: Editor,
    store: Store,
    mode: PromptState,
    interrupts: Signal,
    /// Messages that wait for the cluster.
    late: JoinSet<Late>,
    /// The newest message that waits for each recipient (folded name), to say when it was delivered.
    queued: BTreeMap<String, u64>,
    last_shown: Option<u64>,
    /// Who is or was last logged in here.
    account: Option<String>,
    /// The user was told that leaving now loses messages.
    warned: bool,
}

impl Repl {
    async fn chat(&mut self) {
        loop {
            self.sync_mode();
            self.editor.ask_line(self.mode.prompt()).await;
            let (text, prompt) = match self.wait_for_line().await {
                Typed::Line { text, prompt } => (text, prompt),
                Typed::Interrupted => {
                    self.editor.print("(Ctrl-D or /quit leaves)").await;
                    continue;
                }
                Typed::Secret(_) => continue,
                Typed::End => break,
            };
            self.sync_mode();
            match self.mode.typed(&text, &prompt) {
                Action::Nothing => {}
                Action::Refused(why) => self.refused(why, &text).await,
                Action::Opened(partner) => self.opened(&partner).await,
                Action::Closed(_) => {}
                Action::Say { to, text } => self.say(to, text).await,
                Action::Run(Command::Quit) => {
                    if self.may_leave().await {
                        break;
                    }
                }
                Action::Run(Command::Msg {
                    to,
                    text: Some(text),
                }) => self.say(to, text).await,
                Action::Run(Command::Register { user, password }) => {
                    self.register(user, password).await;
                }
                Action::Run(Command::Login { user, password }) => {
                    self.switch(user, password).await;
                }
                Action::Run(command) => {
                    if let Some(command) = self.complete(command).await {
                        self.run(command).await;
                    }
                }
            }
        }
        self.acknowledge_shown().await;
    }

    /// What was shown a moment ago may not be acknowledged yet; if this fails it is shown again, never lost.
    async fn acknowledge_shown(&mut self) {
        if let Some(last) = self.last_shown.take() {
            let _ = tokio::time::timeout(GOODBYE, self.client.ack(last)).await;
        }
    }

    /// Text that was addressed to nobody, in a cluster of two people, was probably meant for the other one.
    async fn refused(&mut self, why: String, text: &str) {
        if why.starts_with(prompt::NOT_SENT)
            && let Some(other) = self.only_other_user().await
        {
            let text = text.trim();
            return self
                .editor
                .print(&format!("{}\nHint: /msg {other} {text}", prompt::NOT_SENT))
                .await;
        }
        self.editor.print(&why).await;
    }

    async fn only_other_user(&mut self) -> Option<String> {
        let me = self.client.user()?;
        let client = self.client.clone();
        // Three names are enough to see that there are more than two users.
        let page = self
            .while_showing(tokio::time::timeout(SEND_GRACE, async move {
                client.users_page(None, None, 3).await
            }))
            .await?
            .ok()?
            .ok()?;
        let mut others = page
            .users
            .into_iter()
            .filter(|user| fold_name(&user.name) != fold_name(&me));
        let other = others.next()?;
        (others.next().is_none() && !page.more).then_some(other.name)
    }

    /// Shows the last lines of a conversation that is being opened.
    async fn opened(&mut self, partner: &str) {
        let (client, with) = (self.client.clone(), partner.to_owned());
        let page = self
            .while_showing(tokio::time::timeout(SEND_GRACE, async move {
                client.history(&with, None, LAST_LINES).await
            }))
            .await;
        match page {
            Some(Ok(Ok(page))) if !page.messages.is_empty() => {
                let lines: Vec<String> = page.messages.iter().map(render::record).collect();
                self.editor.print(&lines.join("\n")).await;
            }
            Some(Ok(Err(error @ ClientError::Refused(_)))) => self.complain(&error).await,
            // The cluster is away or slow: the conversation begins without them.
            _ => {}
        }
        self.editor.learn_name(partner);
        self.editor
            .print(&format!(
                "(every line goes to {partner} now; /close leaves)"
            ))
            .await;
    }

    /// Shows what arrives until the user did something.
    async fn wait_for_line(&mut self) -> Typed {
        loop {
            let stale = self.editor.is_prompt_stale();
            let emptied = self.editor.emptied();
            tokio::select! {
                // News before the answers that they explain.
                biased;
                typed = self.editor.typed() => return typed,
                Some(event) = self.events.recv() => self.show(event).await,
                Ok(()) = self.link.changed() => {}
                () = emptied => {}
                Some(late) = self.late.join_next() => {
                    if let Ok(late) = late {
                        self.answered(late).await;
                    }
                }
                // Our own nudge that came between two reads.
                _ = self.interrupts.recv() => { self.editor.was_nudge(); }
                () = tokio::time::sleep(NUDGE_EVERY), if stale => {}
            }
            self.refresh_prompt();
        }
    }

    /// Waits for an answer and shows what arrives meanwhile. `None`: the user pressed Ctrl-C.
    async fn while_showing<T>(&mut self, wanted: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(wanted);
        loop {
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.show(event).await,
                got = &mut wanted => return Some(got),
                _ = self.interrupts.recv() => {
                    if !self.editor.was_nudge() {
                        self.editor.print("(not waiting any longer; it may have been done)").await;
                        return None;
                    }
                }
            }
        }
    }

    fn sync_mode(&mut self) {
        let link = self.link.borrow_and_update().clone();
        if link.user.is_some() && link.user != self.account {
            // Ids and names of the former account mean nothing to this one.
            (self.last_shown, self.account) = (None, link.user.clone());
            self.queued.clear();
        }
        self.mode.set_user(link.user);
        match link.state {
            Ok(up) => self.mode.set_node(Some(up.node)),
            // Usually over in milliseconds: the prompt need not flicker.
            Err(Unavailable::Connecting) => {}
            Err(_) => self.mode.set_node(None),
        }
    }

    fn refresh_prompt(&mut self) {
        self.sync_mode();
        self.editor.set_prompt(self.mode.prompt());
    }

    /// The prompt changes first: what is printed then stands above the new one.
    async fn show(&mut self, event: ClientEvent) {
        if let ClientEvent::Message(message) = &event {
            self.mode.message_from(&message.from);
        }
        self.refresh_prompt();
        match event {
            ClientEvent::Message(message) => self.show_message(&message).await,
            ClientEvent::SentElsewhere(message) => {
                self.editor.print(&render::sent_elsewhere(&message)).await
            }
            ClientEvent::Delivered { through, by } => {
                let waited = self
                    .queued
                    .get(&fold_name(&by))
                    .is_some_and(|id| *id <= through);
                if waited {
                    self.queued.remove(&fold_name(&by));
                    self.editor
                        .print(&format!("* {by} has your messages"))
                        .await;
                }
            }
            ClientEvent::Notice(notice) => {
                if let Notice::Ended { .. } = &notice
                    && let Some(user) = self.account.clone()
                {
                    self.forget(&user).await;
                }
                self.editor.print(&format!("* {notice}")).await;
            }
        }
    }

    async fn show_message(&mut self, message: &Message) {
        self.editor.print(&render::message(message)).await;
        self.editor.learn_name(&message.from);
        self.last_shown = Some(message.id);
        // A closed client shows at the next command.
        let _ = self.client.acknowledge(message.id).await;
    }

    async fn say(&mut self, to: String, text: String) {
        let mut pending = match self.client.enqueue(&to, &text).await {
            Ok(pending) => pending,
            Err(error) => return self.complain(&error).await,
        };
        let answer = self
            .while_showing(tokio::time::timeout(SEND_GRACE, pending.answer()))
            .await;
        if let Some(Ok(answer)) = answer {
            return self.answered((to, answer)).await;
        }
        self.editor
            .print("(in the outbox; it goes out when the cluster answers)")
            .await;
        self.warned = false;
        self.late.spawn(async move {
            let answer = pending.answer().await;
            (to, answer)
        });
    }

    async fn answered(&mut self, (to, answer): Late) {
        match answer {
            Ok(sent) => {
                if !sent.online {
                    self.queued.insert(fold_name(&to), sent.id);
                }
                self.editor.learn_name(&to);
                self.editor.print(&render::sent(&sent, &to)).await;
            }
            // Said once for all of them, by the notice or in the answer to `/outbox drop`.
            Err(ClientError::Withdrawn) => {}
            Err(error) => self.complain(&error).await,
        }
    }

    /// Asks for what a command needs beyond its line. `None`: nothing to do.
    async fn complete(&mut self, command: Command) -> Option<Command> {
        Some(match command {
            Command::Delete { user, .. } => {
                let me = self.client.user().ok_or(ClientError::NotLoggedIn);
                let checked = me.and_then(|me| check_delete(&me, user.as_deref()).map(|()| me));
                let me = match checked {
                    Ok(me) => me,
                    Err(error) => {
                        self.complain(&error).await;
                        return None;
                    }
                };
                let question = format!("Password of {me} (deletes the account, empty keeps it): ");
                let password = self.editor.ask_secret(&question).await?;
                if password.is_empty() {
                    return None;
                }
                Command::Delete {
                    user: Some(me),
                    password: Some(password),
                }
            }
            Command::Password { .. } => Command::Password {
                old: Some(self.editor.ask_secret("Old password: ").await?),
                new: Some(self.new_password("New password: ").await?),
            },
            command => command,
        })
    }

    async fn run(&mut self, command: Command) {
        match self.execute(command).await {
            None => {}
            Some(Ok(reply)) => self.reply(&reply).await,
            Some(Err(error)) => self.complain(&error).await,
        }
    }

    /// Carries out a command. `None`: the user did not wait for it.
    async fn execute(&mut self, command: Command) -> Option<Result<Reply, ClientError>> {
        let client = self.client.clone();
        self.while_showing(async move { execute(&client, command, HISTORY).await })
            .await
    }

    async fn reply(&mut self, reply: &Reply) {
        for name in reply::names(reply) {
            self.editor.learn_name(name);
        }
        self.editor.print(&reply::lines(reply).join("\n")).await;
        if let Err(error) = remember(&self.client, &mut self.store, reply) {
            // It is done; only the next start will have to log in again.
            self.complain(&error).await;
        }
    }

    async fn forget(&self, user: &str) {
        if let Err(error) = self.store.remove(user) {
            self.complain(&error).await;
        }
    }

    async fn complain(&self, error: &ClientError) {
        let failure = error.as_failure();
        let mut text = format!("ERR {} {}", failure.code, failure.message);
        if let Some(hint) = render::hint(error) {
            text.push_str("\nHint: ");
            text.push_str(&hint);
        }
        self.editor.print(&text).await;
    }

    async fn may_leave(&mut self) -> bool {
        let waiting = self.late.len();
        if waiting == 0 || std::mem::replace(&mut self.warned, true) {
            return true;
        }
        self.editor
            .print(&format!("{waiting} messages are still in the outbox and would be lost\nHint: once more does it anyhow"))
            .await;
        false
    }
}
