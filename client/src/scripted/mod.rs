//! `mbclient` for scripts: one command in, one reply out, in the pipe dialect or (with `--json`) in the JSON dialect's
//! objects. Standard output carries replies and messages alone; everything else goes to standard error.
#![allow(
    clippy::print_stderr,
    reason = "notices of a script go to standard error"
)]

mod reply;

use std::io::IsTerminal;
use std::time::Duration;

use messagebase_config::Config;
use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::json::{Event, Inbox, Message, encode_event, encode_failure, encode_ok};
use messagebase_protocol::limits::BODY_MAX_BYTES;
use messagebase_protocol::line::{Line, LineBuffer};
use messagebase_protocol::pipe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Cli;
use crate::client::{Client, Events, Options};
use crate::command::{self, Command};
use crate::error::{ClientError, io_error};
use crate::execute::{PAGE, Reply, check_delete, execute, remember, unavailable};
use crate::exit::Exit;
use crate::notice::{ClientEvent, Notice};
use crate::scripted::reply::{in_json, in_pipes};
use crate::show::complain;
use crate::token::Store;

/// `history` shows at most this many of the newest messages.
const HISTORY_MAX: usize = 10_000;
/// Time to close, at the end, the session that a password opened; without it the session expires by itself.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a line of standard input goes on when nodes answer but the cluster does not serve.
const LINES_PATIENCE: Duration = Duration::from_secs(60);
/// How long a line of standard input goes on when not a single node answers.
const LINES_NO_NODE_PATIENCE: Duration = Duration::from_secs(20);
/// Bytes asked of standard input at a time.
const READ_BYTES: usize = 16 * 1024;

/// Runs the command of the command line, or those of standard input.
///
/// # Errors
/// What kept it from beginning at all; refusals of commands are in the [`Exit`].
pub async fn run(cli: &Cli, config: &Config) -> Result<Exit, ClientError> {
    let store = Store::for_cluster(&config.cluster)?;
    let mut options = Options::default();
    if cli.command.is_empty() {
        // Somebody feeds lines over time: better wait for the cluster than lose the rest of the script to it.
        (options.patience, options.no_node_patience) = (LINES_PATIENCE, LINES_NO_NODE_PATIENCE);
    }
    let (client, mut events) = Client::start(config, cli.options(options))?;
    let mut script = Script {
        cli,
        client,
        store,
        implicit: false,
        worst: Exit::Done,
        number: 0,
    };
    let ran = if cli.command.is_empty() {
        script.lines(&mut events).await
    } else {
        let command = with_standard_input(command::parse_words(&cli.command), &cli.command).await?;
        script.one(command, &mut events).await.map(|_| ())
    };
    script.goodbye().await;
    ran.map(|()| script.worst)
}

/// The text `-` of `msg NAME -` stands for standard input, without the newline at its end.
async fn with_standard_input(
    parsed: Result<Command, command::Wrong>,
    words: &[String],
) -> Result<Result<Command, command::Wrong>, ClientError> {
    let Ok(Command::Msg { to, .. }) = &parsed else {
        return Ok(parsed);
    };
    if !matches!(words, [_, _, text] if text == "-") {
        return Ok(parsed);
    }
    let mut text = Vec::new();
    // Enough to see that a text is too long, which is then refused as any other, also if a character is cut in two.
    let longest = BODY_MAX_BYTES as u64 + 2;
    tokio::io::stdin()
        .take(longest)
        .read_to_end(&mut text)
        .await
        .map_err(|e| io_error("standard input", &e))?;
    let text = if text.len() as u64 == longest {
        Ok(String::from_utf8_lossy(&text).into_owned())
    } else {
        String::from_utf8(text)
    };
    Ok(match text {
        // The command in front of the pipe failed, most likely.
        Ok(text) if text.trim().is_empty() => {
            Err(command::Wrong("standard input holds no text".into()))
        }
        Ok(text) => Ok(Command::Msg {
            to: to.clone(),
            text: Some(text.strip_suffix('\n').unwrap_or(&text).to_owned()),
        }),
        Err(_) => Err(command::Wrong("the text is not UTF-8".into())),
    })
}

/// Whether there is a next command.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    Stop,
}

struct Script<'a> {
    cli: &'a Cli,
    client: Client,
    store: Store,
    /// The session was opened by a password that no command named: it is closed at the end, else every run of a script
    /// would leave one behind.
    implicit: bool,
    worst: Exit,
    /// The command's number, from 1: the `id` of its JSON replies.
    number: u64,
}

impl Script<'_> {
    async fn lines(&mut self, events: &mut Events) -> Result<(), ClientError> {
        let mut stdin = tokio::io::stdin();
        let mut buffer = LineBuffer::new();
        let mut chunk = vec![0; READ_BYTES];
        loop {
            while let Some(line) = buffer.next() {
                let parsed = match line {
                    Line::Whole(bytes) => match script_line(bytes) {
                        Some(parsed) => parsed,
                        None => continue,
                    },
                    Line::TooLong => Err(command::Wrong("the line is longer than 128 KiB".into())),
                    Line::Abandon => return Ok(()),
                };
                if self.one(parsed, events).await? == Next::Stop {
                    return Ok(());
                }
            }
            let read = stdin
                .read(&mut chunk)
                .await
                .map_err(|e| io_error("standard input", &e))?;
            if read == 0 {
                // A last line without its newline is a line.
                if let Some(parsed) = script_line(buffer.take_unfinished()) {
                    self.one(parsed, events).await?;
                }
                return Ok(());
            }
            buffer.extend(&chunk[..read]);
        }
    }

    /// Runs one command; notices that come meanwhile go to standard error. An error ends the whole run.
    async fn one(
        &mut self,
        parsed: Result<Command, command::Wrong>,
        events: &mut Events,
    ) -> Result<Next, ClientError> {
        self.number += 1;
        let outcome = match parsed {
            Err(wrong) => Err(ClientError::Usage(wrong.0)),
            Ok(Command::Quit) => return Ok(Next::Stop),
            Ok(Command::Listen) => self.listen(events).await,
            Ok(command) => {
                let perform = self.perform(command);
                tokio::pin!(perform);
                loop {
                    tokio::select! {
                        outcome = &mut perform => break outcome,
                        Some(event) = events.recv() => tell(&event),
                    }
                }
            }
        };
        while let Ok(event) = events.try_recv() {
            tell(&event);
        }
        match outcome {
            Ok(()) => Ok(Next::Go),
            // Nobody reads the replies: going on would do things unseen.
            Err(error @ ClientError::Io { .. }) => Err(error),
            Err(error) => {
                self.refuse(&error).await?;
                self.worst = self.worst.worst(Exit::from(&error));
                Ok(if self.cli.stop_on_error {
                    Next::Stop
                } else {
                    Next::Go
                })
            }
        }
    }

    async fn perform(&mut self, command: Command) -> Result<(), ClientError> {
        let by_pipe = matches!(
            &command,
            Command::Login {
                password: Some(_),
                ..
            }
        );
        let command = self.complete(command).await?;
        if command == Command::Inbox {
            return self.inbox().await;
        }
        let reply = execute(&self.client, command, HISTORY_MAX).await?;
        self.took_effect(&reply)?;
        let text = if self.cli.json {
            in_json(self.number, &reply)
        } else {
            in_pipes(&reply)
        };
        self.print(&text).await?;
        // The pipe dialect's login is followed by what was queued.
        if by_pipe { self.queued().await } else { Ok(()) }
    }

    /// Gets what a command needs beyond its line: a name, passwords, a session.
    async fn complete(&mut self, command: Command) -> Result<Command, ClientError> {
        Ok(match command {
            Command::Register { user, password } => Command::Register {
                user: Some(self.name(user)?),
                password: Some(self.secret(password, "Password: ").await?),
            },
            Command::Login { user, password } => {
                let user = self.name(user)?;
                if self.implicit {
                    self.client.logout().await?;
                    self.implicit = false;
                }
                if let Some(already) = self.client.user() {
                    let message = format!("already logged in as {already}; `logout` first");
                    let failure = Failure::not_done(Code::BadRequest, message);
                    return Err(ClientError::Refused(failure));
                }
                Command::Login {
                    user: Some(user),
                    password: Some(self.secret(password, "Password: ").await?),
                }
            }
            Command::Delete { user, .. } => {
                let me = self.session().await?;
                check_delete(&me, user.as_deref())?;
                let question = "Password (deletes the account): ";
                Command::Delete {
                    user: Some(me),
                    password: Some(self.secret(None, question).await?),
                }
            }
            Command::Password { .. } => {
                self.session().await?;
                let old = self.secret(None, "Old password: ").await?;
                let new = match self.cli.given_new_password()? {
                    Some(new) => new,
                    None => ask("New password: ").await?,
                };
                Command::Password {
                    old: Some(old),
                    new: Some(new),
                }
            }
            Command::Msg { text: None, .. } => {
                let usage = "`msg` needs a text: msg NAME TEXT";
                return Err(ClientError::Usage(usage.into()));
            }
            Command::Reply { .. } | Command::Close | Command::Outbox { .. } => {
                let usage = "this command belongs to the prompt of a terminal";
                return Err(ClientError::Usage(usage.into()));
            }
            Command::Status | Command::Help | Command::PipeHelp => command,
            command => {
                self.session().await?;
                command
            }
        })
    }

    /// What a reply means beside its text.
    fn took_effect(&mut self, reply: &Reply) -> Result<(), ClientError> {
        match reply {
            Reply::LoggedIn(session) => {
                if let Err(error) = remember(&self.client, &mut self.store, reply) {
                    // The session is there; only the next run will have to log in again.
                    complain(&error);
                }
                if session.queued > 0 {
                    eprintln!("mbclient: {} queued", session.queued);
                }
            }
            Reply::LoggedOut { .. } | Reply::Deleted { .. } => {
                self.implicit = false;
                remember(&self.client, &mut self.store, reply)?;
            }
            Reply::Status(survey) => {
                let error = unavailable(survey).map(|why| ClientError::Unreachable {
                    why,
                    unknown: false,
                });
                match error {
                    // The nodes that answered are the reply; what is wrong with the cluster is the exit code's and
                    // standard error's to say.
                    Some(error) if survey.iter().any(|(_, status)| status.is_ok()) => {
                        self.worst = self.worst.worst(complain(&error));
                    }
                    Some(error) => return Err(error),
                    None => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The whole inbox, page by page: each is acknowledged once it is written.
    async fn inbox(&mut self) -> Result<(), ClientError> {
        let (mut after, mut head) = (0, "OK inbox\n");
        loop {
            let page: Inbox = self.client.inbox(after, PAGE).await?;
            let text = if self.cli.json {
                encode_ok(self.number, &page)
            } else {
                // One list, however many pages it takes.
                let lines = page.messages.iter().map(pipe::encode_message);
                let head = std::mem::take(&mut head).to_owned();
                [head].into_iter().chain(lines).collect()
            };
            self.print(&text).await?;
            after = self.shown(&page.messages).await?.unwrap_or(after);
            if !page.more || page.messages.is_empty() {
                break;
            }
        }
        if self.cli.json {
            Ok(())
        } else {
            self.print("END\n").await
        }
    }

    /// What waits in the inbox, as the messages that follow a login.
    async fn queued(&mut self) -> Result<(), ClientError> {
        let mut after = 0;
        loop {
            let page: Inbox = self.client.inbox(after, PAGE).await?;
            for message in &page.messages {
                self.message(message).await?;
            }
            after = self.shown(&page.messages).await?.unwrap_or(after);
            if !page.more || page.messages.is_empty() {
                return Ok(());
            }
        }
    }

    /// Acknowledges messages that are flushed, unless only peeking; the last one's id.
    async fn shown(&mut self, messages: &[Message]) -> Result<Option<u64>, ClientError> {
        let Some(last) = messages.last().map(|message| message.id) else {
            return Ok(None);
        };
        if !self.cli.peek {
            self.client.ack(last).await?;
        }
        Ok(Some(last))
    }

    /// Shows messages as they come, through failovers, until it is interrupted.
    async fn listen(&mut self, events: &mut Events) -> Result<(), ClientError> {
        self.session().await?;
        let failed = |e: std::io::Error| io_error("signal handler", &e);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        self.client.receive(true).await?;
        let mut last = None;
        let ended = loop {
            let event = tokio::select! {
                event = events.recv() => event.ok_or(ClientError::Closed)?,
                _ = interrupt.recv() => break Ok(()),
                _ = terminate.recv() => break Ok(()),
            };
            match event {
                ClientEvent::Message(message) => {
                    self.message(&message).await?;
                    if !self.cli.peek {
                        self.client.acknowledge(message.id).await?;
                        last = Some(message.id);
                    }
                }
                ClientEvent::Notice(Notice::Ended { .. }) => {
                    tell(&event);
                    break Err(ClientError::NotLoggedIn);
                }
                ClientEvent::Delivered { through, by } if self.cli.json => {
                    self.print(&encode_event(&Event::Delivered { through, by }))
                        .await?;
                }
                other => tell(&other),
            }
        };
        self.client.receive(false).await?;
        if let (Some(last), Ok(())) = (last, &ended) {
            // What was shown a moment ago may not be acknowledged yet; if this fails it is shown again, never lost.
            let _ = tokio::time::timeout(GOODBYE, self.client.ack(last)).await;
        }
        ended
    }

    /// The user's session, opened by the password that was given or taken up by the stored token.
    async fn session(&mut self) -> Result<String, ClientError> {
        if let Some(user) = self.client.user() {
            return Ok(user);
        }
        let given = self.cli.given_password()?;
        let up = self.client.connected().await?;
        if let Some(id) = &up.cluster_id {
            self.store.select(id);
        }
        let stored = self.store.load(self.cli.user.as_deref());
        if let Some(password) = given {
            let user = self
                .cli
                .user
                .clone()
                .or(stored.map(|token| token.user))
                .ok_or(ClientError::NotLoggedIn)?;
            let session = self
                .client
                .login(&user, &password)
                .await
                .inspect_err(|error| {
                    // The command was not refused, there is nobody to run it for.
                    if let ClientError::Refused(Failure {
                        code: Code::BadCredentials | Code::Locked,
                        ..
                    }) = error
                    {
                        self.worst = self.worst.worst(Exit::NotLoggedIn);
                    }
                })?;
            self.implicit = true;
            return Ok(session.user);
        }
        let token = stored.ok_or(ClientError::NotLoggedIn)?;
        let resumed = self
            .client
            .resume(&token.user, &token.token, token.cluster_id.as_deref())
            .await;
        if matches!(resumed, Err(ClientError::NotLoggedIn)) {
            // Dead for good: the next run need not try.
            self.store.remove(&token.user)?;
        }
        resumed?;
        Ok(token.user)
    }

    async fn goodbye(&mut self) {
        if std::mem::take(&mut self.implicit) {
            // If no node answers now, the session expires by itself.
            let _ = tokio::time::timeout(GOODBYE, self.client.logout()).await;
        }
    }

    fn name(&self, given: Option<String>) -> Result<String, ClientError> {
        given
            .or_else(|| self.cli.user.clone())
            .ok_or_else(|| ClientError::Usage("which user? give a name, or --user NAME".into()))
    }

    async fn secret(
        &self,
        given: Option<String>,
        prompt: &'static str,
    ) -> Result<String, ClientError> {
        match given {
            Some(password) => Ok(password),
            None => match self.cli.given_password()? {
                Some(password) => Ok(password),
                None => ask(prompt).await,
            },
        }
    }

    async fn refuse(&mut self, error: &ClientError) -> Result<(), ClientError> {
        let failure = error.as_failure();
        if let Some(hint) = error.hint() {
            eprintln!("Hint: {hint}");
        }
        let text = if self.cli.json {
            encode_failure(Some(self.number), &failure)
        } else {
            pipe::encode_failure(&failure)
        };
        self.print(&text).await
    }

    async fn message(&mut self, message: &Message) -> Result<(), ClientError> {
        let text = if self.cli.json {
            encode_event(&Event::Message {
                message: message.clone(),
            })
        } else {
            pipe::encode_message(message)
        };
        self.print(&text).await
    }

    /// Written and flushed when this returns: what follows may acknowledge it.
    async fn print(&mut self, text: &str) -> Result<(), ClientError> {
        let mut stdout = tokio::io::stdout();
        let written = async {
            stdout.write_all(text.as_bytes()).await?;
            stdout.flush().await
        };
        written.await.map_err(|e| io_error("standard output", &e))
    }
}

/// One line of standard input; `None` if there is nothing on it.
fn script_line(bytes: Vec<u8>) -> Option<Result<Command, command::Wrong>> {
    match String::from_utf8(bytes) {
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => Some(command::parse_script_line(&line)),
        Err(_) => Some(Err(command::Wrong("the line is not UTF-8".into()))),
    }
}

fn tell(event: &ClientEvent) {
    if let ClientEvent::Notice(notice) = event {
        eprintln!("mbclient: {notice}");
    }
}

async fn ask(prompt: &'static str) -> Result<String, ClientError> {
    if !std::io::stdin().is_terminal() {
        return Err(ClientError::Usage(
            "no password; set MESSAGEBASE_PASSWORD (for a new one MESSAGEBASE_NEW_PASSWORD), or --password-file".into(),
        ));
    }
    // With a handler Ctrl-C comes back as an error; without one it would end the process with the echo off.
    let _handler = signal(SignalKind::interrupt()).map_err(|e| io_error("signal handler", &e))?;
    let asked = tokio::task::spawn_blocking(move || crate::secret::ask(prompt)).await;
    match asked {
        Ok(password) => password.map_err(|e| io_error("terminal", &e)),
        Err(_) => Err(ClientError::Usage("no password was typed".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_are_nothing_and_broken_ones_are_refused() {
        assert!(script_line(b"  ".to_vec()).is_none());
        assert!(matches!(script_line(b"\xff".to_vec()), Some(Err(_))));
        assert_eq!(
            script_line(b"users".to_vec()),
            Some(Ok(Command::Users { pattern: None }))
        );
    }
}
