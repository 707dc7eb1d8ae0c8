//! Carries out one command of the prompt and says in lines what came of it. It neither reads nor writes the terminal:
//! passwords are asked for beforehand.

use messagebase_protocol::pipe;

use crate::client::Client;
use crate::command::{self, Command, Mode};
use crate::error::ClientError;
use crate::repl::render;
use crate::show::status_line;

/// Messages that `/history` and `/inbox` show.
const PAGE: u32 = 100;

/// A command with everything it needs.
pub enum Request {
    /// End the session.
    Logout,
    /// Delete the account.
    Delete {
        /// To make sure.
        password: String,
    },
    /// Change the password.
    Password {
        /// The old one.
        old: String,
        /// The new one.
        new: String,
    },
    /// A command that needs nothing more.
    Plain(Command),
}

/// What came of it.
#[derive(Default)]
pub struct Report {
    /// To be shown.
    pub lines: Vec<String>,
    /// Names for completion.
    pub names: Vec<String>,
    /// A session ended by the user's will: its token is to be forgotten.
    pub over: Option<String>,
}

impl Report {
    fn line(line: String) -> Report {
        Report {
            lines: vec![line],
            ..Report::default()
        }
    }
}

/// Carries it out.
///
/// # Errors
/// See [`ClientError`].
pub async fn execute(client: &Client, request: Request) -> Result<Report, ClientError> {
    match request {
        Request::Logout => {
            let user = client.user().ok_or(ClientError::NotLoggedIn)?;
            client.logout().await?;
            Ok(Report {
                over: Some(user.clone()),
                ..Report::line(format!("OK logged out {user}"))
            })
        }
        Request::Delete { password } => {
            let user = client.user().ok_or(ClientError::NotLoggedIn)?;
            client.delete(&password).await?;
            Ok(Report {
                over: Some(user.clone()),
                ..Report::line(format!("OK deleted {user}"))
            })
        }
        Request::Password { old, new } => {
            client.password(&old, &new).await?;
            Ok(Report::line(
                "OK changed the password; other sessions of yours have ended".into(),
            ))
        }
        Request::Plain(command) => plain(client, command).await,
    }
}

async fn plain(client: &Client, command: Command) -> Result<Report, ClientError> {
    match command {
        Command::Users { pattern } => {
            let users = client.users(pattern.as_deref()).await?;
            let mut lines: Vec<String> = users.iter().map(render::user).collect();
            lines.push("END".into());
            Ok(Report {
                lines,
                names: users.into_iter().map(|user| user.name).collect(),
                ..Report::default()
            })
        }
        Command::Inbox => {
            let page = client.inbox(0, PAGE).await?;
            let mut lines: Vec<String> = page.messages.iter().map(render::message).collect();
            lines.push(if page.more {
                "more waits; it is shown as it comes".into()
            } else {
                "END".to_owned()
            });
            Ok(Report {
                lines,
                ..Report::default()
            })
        }
        Command::History { with } => {
            let page = client.history(&with, None, PAGE).await?;
            let mut lines: Vec<String> = Vec::new();
            if page.more {
                lines.push(format!(
                    "(the newest {}; all of it: mbclient history {with})",
                    page.messages.len()
                ));
            }
            lines.extend(page.messages.iter().map(render::record));
            lines.push("END".into());
            Ok(Report {
                lines,
                names: vec![with],
                ..Report::default()
            })
        }
        Command::Status => {
            let survey = client.survey().await;
            let lines = survey
                .iter()
                .map(|(endpoint, status)| status_line(endpoint.node, status.as_ref().ok()));
            Ok(Report {
                lines: lines.map(|line| line.trim_end().to_owned()).collect(),
                ..Report::default()
            })
        }
        Command::Outbox { send } => {
            client.settle_outbox(send).await?;
            Ok(Report::line(
                if send { "OK sending" } else { "OK forgotten" }.into(),
            ))
        }
        Command::Help => {
            let mut lines = command::help(Mode::Prompt, "/");
            lines.push("Pipe lines, as at a node's own port:".into());
            lines.extend(pipe::HELP.iter().map(|line| format!("  {line}")));
            lines.push(
                "After a message, Enter on the empty line opens the conversation with its sender; there every".into(),
            );
            lines.push("line is a message, except those that begin with / (// sends a slash); /close leaves.".into());
            Ok(Report {
                lines,
                ..Report::default()
            })
        }
        Command::PipeHelp => {
            let lines = pipe::HELP.iter().map(|line| (*line).to_owned());
            Ok(Report {
                lines: lines
                    .chain(["END".to_owned(), "Hint: /help shows all commands".into()])
                    .collect(),
                ..Report::default()
            })
        }
        other => Err(ClientError::Usage(format!(
            "`{other:?}` is not for the prompt"
        ))),
    }
}
