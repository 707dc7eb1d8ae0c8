//! Carries out one command of a person or of a script. It neither reads nor writes: passwords are in the command, and
//! what came of it is a [`Reply`], which the prompt shows one way and a script another.

use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::json::{Inbox, LoggedIn, Records, Registered, Sent, Status, Users};
use messagebase_protocol::name::fold_name;

use crate::client::Client;
use crate::command::Command;
use crate::dial::{Endpoint, Unreached, nobody};
use crate::election::{Decision, decide};
use crate::error::{ClientError, Unavailable};
use crate::token::{Store, Token};

/// Messages a page of a history and of the inbox.
pub(crate) const PAGE: u32 = 200;

/// What each address answered.
pub(crate) type Survey = Vec<(Endpoint, Result<Status, Unreached>)>;

/// What came of a command.
pub(crate) enum Reply {
    Registered(Registered),
    LoggedIn(LoggedIn),
    LoggedOut {
        user: String,
    },
    Deleted {
        user: String,
    },
    PasswordChanged {
        user: String,
    },
    Users(Users),
    Sent(Sent),
    Inbox(Inbox),
    History {
        with: String,
        records: Records,
    },
    Status(Survey),
    /// What was held back goes out, or is forgotten.
    Outbox {
        send: bool,
    },
    Help,
    PipeHelp,
}

/// Carries out a command that has everything it needs. A history is cut to the newest `history` messages, in whole
/// pages; the inbox is one page.
///
/// # Errors
/// See [`ClientError`]; `Usage` for a command without what it needs, or one that is not for the cluster.
pub(crate) async fn execute(
    client: &Client,
    command: Command,
    history: usize,
) -> Result<Reply, ClientError> {
    let me = || client.user().ok_or(ClientError::NotLoggedIn);
    Ok(match command {
        Command::Register {
            user: Some(user),
            password: Some(password),
        } => Reply::Registered(client.register(&user, &password).await?),
        Command::Login {
            user: Some(user),
            password: Some(password),
        } => Reply::LoggedIn(client.login(&user, &password).await?),
        Command::Logout => {
            let user = me()?;
            client.logout().await?;
            Reply::LoggedOut { user }
        }
        Command::Delete {
            password: Some(password),
            ..
        } => {
            let user = me()?;
            client.delete(&password).await?;
            Reply::Deleted { user }
        }
        Command::Password {
            old: Some(old),
            new: Some(new),
        } => {
            let user = me()?;
            client.password(&old, &new).await?;
            Reply::PasswordChanged { user }
        }
        Command::Users { pattern } => Reply::Users(Users {
            users: client.users(pattern.as_deref()).await?,
            more: false,
        }),
        Command::Msg {
            to,
            text: Some(text),
        } => Reply::Sent(client.send(&to, &text).await?),
        Command::Inbox => Reply::Inbox(client.inbox(0, PAGE).await?),
        Command::History { with } => {
            let records = newest(client, &with, history).await?;
            Reply::History { with, records }
        }
        Command::Status => Reply::Status(client.survey().await),
        Command::Outbox { send } => {
            client.settle_outbox(send).await?;
            Reply::Outbox { send }
        }
        Command::Help => Reply::Help,
        Command::PipeHelp => Reply::PipeHelp,
        other => {
            let text = format!("`{other:?}` needs more than it was given, or is not for here");
            return Err(ClientError::Usage(text));
        }
    })
}

/// The newest messages of a conversation, the oldest of them first.
async fn newest(client: &Client, with: &str, count: usize) -> Result<Records, ClientError> {
    let limit = PAGE.min(u32::try_from(count).unwrap_or(PAGE));
    let (mut pages, mut found, mut before, mut more) = (Vec::new(), 0, None, true);
    while more && found < count {
        let page = client.history(with, before, limit).await?;
        before = page.messages.first().map(|message| message.id);
        more = page.more && before.is_some();
        found += page.messages.len();
        pages.push(page.messages);
    }
    let messages = pages.into_iter().rev().flatten().collect();
    Ok(Records { messages, more })
}

/// Checks, before a password is asked for, that `delete` is meant for the account that is logged in.
///
/// # Errors
/// `Refused`.
pub(crate) fn check_delete(me: &str, user: Option<&str>) -> Result<(), ClientError> {
    if user.is_none_or(|user| fold_name(user.trim()) == fold_name(me)) {
        return Ok(());
    }
    let message = format!("only the account that is logged in ({me}) can be deleted");
    Err(ClientError::Refused(Failure::not_done(
        Code::NotPermitted,
        message,
    )))
}

/// What keeps the cluster from serving, as far as its nodes say.
pub(crate) fn unavailable(survey: &Survey) -> Option<Unavailable> {
    let statuses: Vec<Option<Status>> = survey
        .iter()
        .map(|(_, status)| status.as_ref().ok().cloned())
        .collect();
    match decide(&statuses) {
        Decision::NoNode => {
            let unreached = survey
                .iter()
                .filter_map(|(endpoint, status)| Some((endpoint, status.as_ref().err()?)));
            Some(nobody(unreached))
        }
        Decision::NoQuorum { alive, needed } => Some(Unavailable::NoQuorum { alive, needed }),
        Decision::NotFormed { answered } => Some(Unavailable::NotFormed { answered }),
        Decision::Take(_) | Decision::Campaign(_) => None,
    }
}

/// Keeps what a reply means for the next run: the token of a new session, or that there is none any more.
///
/// # Errors
/// `Io`. The command is done all the same; the next run has to log in.
pub(crate) fn remember(
    client: &Client,
    store: &mut Store,
    reply: &Reply,
) -> Result<(), ClientError> {
    match reply {
        Reply::LoggedIn(session) => {
            let up = client.link().state.ok();
            let cluster_id = up.and_then(|up| up.cluster_id.clone());
            if let Some(id) = &cluster_id {
                store.select(id);
            }
            store.save(&Token {
                user: session.user.clone(),
                token: session.token.clone(),
                cluster_id,
            })
        }
        Reply::LoggedOut { user } | Reply::Deleted { user } => store.remove(user),
        _ => Ok(()),
    }
}
