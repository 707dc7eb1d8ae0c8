//! Replies for scripts, as a node prints them: in the pipe dialect or as the JSON dialect's objects.

use messagebase_protocol::json::{Message, MessageRecord, encode_ok};
use messagebase_protocol::pipe;

use crate::command::{self, Mode};
use crate::execute::Reply;
use crate::show::status_line;

/// A reply in the pipe dialect.
pub(super) fn in_pipes(reply: &Reply) -> String {
    match reply {
        Reply::Registered(registered) => format!("OK registered {}\n", registered.user),
        Reply::LoggedIn(session) => format!("OK logged in {}\n", session.user),
        Reply::LoggedOut { user } => format!("OK logged out {user}\n"),
        Reply::Deleted { user } => format!("OK deleted {user}\n"),
        Reply::PasswordChanged { user } => format!("OK changed the password of {user}\n"),
        Reply::Users(users) => list(
            "users",
            users
                .users
                .iter()
                .map(|user| pipe::encode_user(&user.name, user.online)),
        ),
        Reply::Sent(sent) if sent.online => format!("OK sent {}\n", sent.id),
        Reply::Sent(sent) => format!("OK queued {}\n", sent.id),
        Reply::Inbox(page) => list("inbox", page.messages.iter().map(pipe::encode_message)),
        Reply::History { records, .. } => {
            let line = |record: &MessageRecord| pipe::encode_message(&as_message(record));
            list("history", records.messages.iter().map(line))
        }
        Reply::Status(survey) => {
            let lines = survey
                .iter()
                .map(|(endpoint, status)| status_line(endpoint.node, status.as_ref().ok()));
            list("status", lines)
        }
        Reply::Outbox { .. } => "OK\n".to_owned(),
        Reply::Help | Reply::PipeHelp => {
            list("help", help(reply).iter().map(|line| format!("{line}\n")))
        }
    }
}

/// A reply as a JSON object, with the command's number.
pub(super) fn in_json(number: u64, reply: &Reply) -> String {
    let empty = serde_json::json!({});
    match reply {
        Reply::Registered(registered) => encode_ok(number, registered),
        Reply::LoggedIn(session) => encode_ok(number, session),
        Reply::LoggedOut { .. }
        | Reply::Deleted { .. }
        | Reply::PasswordChanged { .. }
        | Reply::Outbox { .. } => encode_ok(number, &empty),
        Reply::Users(users) => encode_ok(number, users),
        Reply::Sent(sent) => encode_ok(number, sent),
        Reply::Inbox(page) => encode_ok(number, page),
        Reply::History { records, .. } => encode_ok(number, records),
        // One node's words; a script that wants all of them takes the lines.
        Reply::Status(survey) => match survey.iter().find_map(|(_, status)| status.as_ref().ok()) {
            Some(status) => encode_ok(number, status),
            None => encode_ok(number, &empty),
        },
        Reply::Help | Reply::PipeHelp => {
            encode_ok(number, &serde_json::json!({ "help": help(reply) }))
        }
    }
}

fn help(reply: &Reply) -> Vec<String> {
    match reply {
        Reply::PipeHelp => pipe::HELP.iter().map(|line| (*line).to_owned()).collect(),
        _ => command::help(Mode::Script, ""),
    }
}

fn as_message(record: &MessageRecord) -> Message {
    Message {
        id: record.id,
        from: record.from.clone(),
        to: record.to.clone(),
        body: record.body.clone(),
        sent_at: record.sent_at,
    }
}

/// A list of the pipe dialect: `OK WHAT`, whole lines, `END`.
fn list(what: &str, lines: impl Iterator<Item = String>) -> String {
    [format!("OK {what}\n")]
        .into_iter()
        .chain(lines)
        .chain(["END\n".to_owned()])
        .collect()
}
