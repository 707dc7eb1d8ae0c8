//! The pipe dialect: commands without ids, so all of them take the lane, and deliveries without acknowledgement, so
//! the node acknowledges what it has written once anything more arrives on the connection (`session` does).

use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::json::Consistency;
use messagebase_protocol::limits::PAGE_MAX;
use messagebase_protocol::pipe::{self, Command, HELP};

use super::answer::Answer;
use super::lane::Work;
use super::session::Shared;
use crate::service::{DeleteRequest, Post, send_key};

/// A command that only reads.
pub(super) enum Show {
    /// Users that match a glob; all without one.
    Users(Option<String>),
    /// The help.
    Help,
}

/// The end of a list.
const END: &str = "END\n";

/// What a line asks for.
pub(super) fn work(line: &str) -> Work {
    let Some(command) = pipe::parse(line) else {
        return Work::Refuse(Failure::not_done(
            Code::BadRequest,
            "not a command; h shows them all",
        ));
    };
    // A fresh key each time: it makes retries inside the cluster harmless, nobody else knows it.
    let key = match send_key() {
        Ok(key) => key,
        Err(failure) => return Work::Refuse(failure),
    };
    match command {
        Command::Register { user, password } => Work::Register {
            user,
            password,
            key,
        },
        Command::Login { user, password } => Work::Login { user, password },
        Command::Delete { user } => Work::Delete(DeleteRequest {
            password: None,
            key,
            user: Some(user.trim_end().to_owned()),
        }),
        Command::Send { to, body } => Work::Post(Post::Send { to, body, key }),
        Command::List => Work::Show(Show::Users(None)),
        Command::Search { pattern } => {
            Work::Show(Show::Users(Some(pipe::search_glob(pattern.trim_end()))))
        }
        Command::Help => Work::Show(Show::Help),
    }
}

/// The lane's answers.
pub(super) fn encode(shared: &Shared, answer: &Result<Answer, Failure>) -> String {
    match answer {
        Ok(Answer::Registered(ok)) => format!("OK registered {}\n", ok.user),
        Ok(Answer::LoggedIn(ok)) => format!("OK logged in {}\n", ok.user),
        Ok(Answer::Resumed(ok)) => format!("OK logged in {}\n", ok.user),
        Ok(Answer::Sent(sent)) => format!(
            "OK {} {}\n",
            if sent.online { "sent" } else { "queued" },
            sent.id
        ),
        Ok(Answer::Deleted) => {
            let name = shared.conn.past_name();
            format!("OK deleted {}\n", name.as_deref().unwrap_or_default())
        }
        Ok(Answer::Done) => "OK\n".into(),
        Err(failure) => pipe::encode_failure(failure),
    }
}

/// Answers a command that only reads. Messages that arrive meanwhile come after its `END`.
pub(super) async fn show(shared: &Shared, show: Show) {
    let outbox = &shared.conn.outbox;
    match show {
        Show::Help => {
            let lines: String = HELP.iter().map(|line| format!("{line}\n")).collect();
            outbox.reply(format!("OK help\n{lines}{END}")).await;
        }
        Show::Users(pattern) => {
            outbox.shut_gate();
            show_users(shared, pattern).await;
            outbox.open_gate(0);
        }
    }
}

async fn show_users(shared: &Shared, pattern: Option<String>) {
    let mut consistency = Consistency::Linear;
    let mut text = String::from("OK users\n");
    let mut after = None;
    loop {
        let page = shared
            .service
            .users(
                &shared.conn,
                pattern.clone(),
                after,
                Some(PAGE_MAX),
                consistency,
            )
            .await;
        let page = match page {
            Ok(page) => page,
            Err(failure) => {
                return shared
                    .conn
                    .outbox
                    .reply(pipe::encode_failure(&failure))
                    .await;
            }
        };
        text.extend(
            page.users
                .iter()
                .map(|user| pipe::encode_user(&user.name, user.online)),
        );
        after = page.users.into_iter().next_back().map(|user| user.name);
        if !page.more || after.is_none() {
            break;
        }
        shared.conn.outbox.reply(std::mem::take(&mut text)).await;
        // The first page waited for everything acknowledged; the others need not.
        consistency = Consistency::Local;
    }
    text.push_str(END);
    shared.conn.outbox.reply(text).await;
}

/// Writes the whole inbox after a login; the greatest id written (events up to it would be doubles).
pub(super) async fn show_inbox(shared: &Shared) -> u64 {
    let mut through = 0;
    loop {
        // Local: the login was applied here a moment ago.
        let page = shared
            .service
            .inbox(
                &shared.conn,
                Some(through),
                Some(PAGE_MAX),
                Consistency::Local,
            )
            .await;
        let Ok(page) = page else {
            // Skipping these and going on with events would acknowledge them unread.
            shared
                .conn
                .outbox
                .close(messagebase_protocol::json::ClosingReason::Resync);
            return u64::MAX;
        };
        for message in &page.messages {
            shared
                .conn
                .outbox
                .reply_message(pipe::encode_message(message), message.id)
                .await;
            through = through.max(message.id);
        }
        if !page.more || page.messages.is_empty() {
            return through;
        }
    }
}
