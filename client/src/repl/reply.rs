//! Replies for people, in lines.

use messagebase_protocol::pipe;

use crate::command::{self, Mode};
use crate::execute::Reply;
use crate::repl::render;
use crate::show::status_line;

/// What the prompt shows of a reply.
pub(super) fn lines(reply: &Reply) -> Vec<String> {
    let end = || ["END".to_owned()];
    match reply {
        Reply::Registered(registered) => vec![format!("OK registered {}", registered.user)],
        Reply::LoggedIn(session) => {
            let (user, queued) = (&session.user, session.queued);
            vec![format!("OK logged in {user} ({queued} queued)")]
        }
        Reply::LoggedOut { user } => vec![format!("OK logged out {user}")],
        Reply::Deleted { user } => vec![format!("OK deleted {user}")],
        Reply::PasswordChanged { .. } => {
            vec!["OK changed the password; other sessions of yours have ended".into()]
        }
        Reply::Users(users) => users.users.iter().map(render::user).chain(end()).collect(),
        Reply::Sent(sent) => vec![format!("OK sent {}", sent.id)],
        Reply::Inbox(page) => {
            let last = if page.more {
                "more waits; it is shown as it comes"
            } else {
                "END"
            };
            let messages = page.messages.iter().map(render::message);
            messages.chain([last.to_owned()]).collect()
        }
        Reply::History { with, records } => {
            let more = records.more.then(|| {
                let count = records.messages.len();
                format!("(the newest {count}; all of it: mbclient history {with})")
            });
            let records = records.messages.iter().map(render::record);
            more.into_iter().chain(records).chain(end()).collect()
        }
        Reply::Status(survey) => survey
            .iter()
            .map(|(endpoint, status)| status_line(endpoint.node, status.as_ref().ok()))
            .map(|line| line.trim_end().to_owned())
            .collect(),
        Reply::Outbox { send: true } => vec!["OK sending".into()],
        Reply::Outbox { send: false } => vec!["OK forgotten".into()],
        Reply::Help => help(),
        Reply::PipeHelp => pipe::HELP
            .iter()
            .map(|line| (*line).to_owned())
            .chain(end())
            .chain(["Hint: /help shows all commands".into()])
            .collect(),
    }
}

/// Names that a reply brought, for completion.
pub(super) fn names(reply: &Reply) -> Vec<&str> {
    match reply {
        Reply::Registered(registered) => vec![&registered.user],
        Reply::Users(users) => users.users.iter().map(|user| user.name.as_str()).collect(),
        Reply::History { with, .. } => vec![with],
        _ => Vec::new(),
    }
}

fn help() -> Vec<String> {
    let mut lines = command::help(Mode::Prompt, "/");
    lines.push("Pipe lines, as at a node's own port:".into());
    lines.extend(pipe::HELP.iter().map(|line| format!("  {line}")));
    lines.push(
        "After a message, Enter on the empty line opens the conversation with its sender; there every"
            .into(),
    );
    lines.push(
        "line is a message, except those that begin with / (// sends a slash); /close leaves."
            .into(),
    );
    lines
}
