//! The pipe dialect. Its commands have no ids, so all of them go through the write queue. Its clients do not acknowledge,
//! so the node acknowledges what it has written once more bytes arrive on the connection (see `connection`).

use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::json::Consistency;
use messagebase_protocol::limits::PAGE_MAX;
use messagebase_protocol::pipe::{self, Command, HELP};

use super::connection_shared::ConnShared;
use super::work::{PipeRead, Request, Success, Work};
use crate::service::{DeleteRequest, Post, send_key};

/// The end of a list.
const END: &str = "END\n";

/// The work that a line asks for.
pub(super) fn work(line: &str) -> Work {
    let request = match pipe::parse(line) {
        Some(command) => request(command),
        None => Err(Failure::not_done(
            Code::BadRequest,
            "not a command; h shows them all",
        )),
    };
    request.unwrap_or_else(|failure| Work::Request(Request::Refuse(failure)))
}

fn request(command: Command) -> Result<Work, Failure> {
    // A fresh key each time: it makes retries inside the cluster harmless, and no client knows it.
    let key = send_key()?;
    Ok(Work::Request(match command {
        Command::Send { to, body } => return Ok(Work::Post(Post::Send { to, body, key })),
        Command::Register { user, password } => Request::Register {
            user,
            password,
            key,
        },
        Command::Login { user, password } => Request::Login { user, password },
        Command::Delete { user } => Request::Delete(DeleteRequest {
            password: None,
            key,
            user: Some(user.trim_end().to_owned()),
        }),
        Command::List => Request::PipeRead(PipeRead::Users(None)),
        Command::Search { pattern } => {
            Request::PipeRead(PipeRead::Users(Some(pipe::search_glob(pattern.trim_end()))))
        }
        Command::Help => Request::PipeRead(PipeRead::Help),
    }))
}

/// An answer of the write queue.
pub(super) fn encode(shared: &ConnShared, answer: &Result<Success, Failure>) -> String {
    match answer {
        Ok(Success::Registered(ok)) => format!("OK registered {}\n", ok.user),
        Ok(Success::LoggedIn(ok)) => format!("OK logged in {}\n", ok.user),
        Ok(Success::Resumed(ok)) => format!("OK logged in {}\n", ok.user),
        Ok(Success::Sent(sent)) => format!(
            "OK {} {}\n",
            if sent.online { "sent" } else { "queued" },
            sent.id
        ),
        Ok(Success::Deleted) => {
            let name = shared.conn.past_name();
            format!("OK deleted {}\n", name.as_deref().unwrap_or_default())
        }
        Ok(Success::Done) => "OK\n".into(),
        Err(failure) => pipe::encode_failure(failure),
    }
}

/// Answers a command that only reads. Messages that arrive meanwhile come after its `END`.
pub(super) async fn read(shared: &ConnShared, read: PipeRead) {
    let outbox = &shared.conn.outbox;
    match read {
        PipeRead::Help => {
            let lines: String = HELP.iter().map(|line| format!("{line}\n")).collect();
            outbox.reply(format!("OK help\n{lines}{END}")).await;
        }
        PipeRead::Users(pattern) => {
            outbox.hold_events();
            write_users(shared, pattern).await;
            outbox.release_events(0);
        }
    }
}

async fn write_users(shared: &ConnShared, pattern: Option<String>) {
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

/// Writes the whole inbox after a login. Returns the greatest id written: events up to it would be duplicates.
pub(super) async fn write_inbox(shared: &ConnShared) -> u64 {
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
