//! `mbctl user`: accounts.

use std::io::IsTerminal;
use std::time::Duration;

use messagebase_protocol::name::check_name;
use messagebase_protocol::peer::{AdminOk, AdminRequest, UserRow};
use messagebase_protocol::time::iso8601;
use serde::Serialize;

use crate::cli::{UserCommand, UserPassword};
use crate::cluster::{CALL_DEADLINE, Cluster, unexpected};
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;
use crate::password::new_password;
use crate::table::{Column, render};

/// Hashing a password takes its turn behind the logins of users.
const HASH_DEADLINE: Duration = Duration::from_secs(15);

/// Runs the command.
///
/// # Errors
/// The name or password is not valid (exit 2), nobody leads (exit 3), or the account is not there or the deletion was not
/// confirmed (exit 1).
pub async fn run(
    cluster: &Cluster,
    command: &UserCommand,
    output: &Output,
) -> Result<Exit, CtlError> {
    let (user, request, done) = match command {
        UserCommand::List { pattern } => return list(cluster, pattern.clone(), output).await,
        UserCommand::Show(user) => return show(cluster, valid(&user.name)?, output).await,
        UserCommand::Add(user) => {
            let (name, password) = with_password(user)?;
            let request = AdminRequest::UserAdd {
                name: name.clone(),
                password,
            };
            (name, request, "has an account now")
        }
        UserCommand::ResetPassword(user) => {
            let (name, password) = with_password(user)?;
            let request = AdminRequest::UserResetPassword {
                name: name.clone(),
                password,
            };
            (name, request, "has a new password")
        }
        UserCommand::Lock(user) => {
            let name = valid(&user.name)?;
            let request = AdminRequest::UserLock { name: name.clone() };
            (name, request, "is locked; its sessions are over")
        }
        UserCommand::Unlock(user) => {
            let name = valid(&user.name)?;
            let request = AdminRequest::UserUnlock { name: name.clone() };
            (name, request, "is unlocked")
        }
        UserCommand::Delete(user) => {
            let name = valid(&user.name)?;
            confirm_deletion(&name, output)?;
            let request = AdminRequest::UserDelete { name: name.clone() };
            let done = "is deleted; `mbctl user free` releases the name";
            (name, request, done)
        }
        UserCommand::Free(user) => {
            let name = valid(&user.name)?;
            let request = AdminRequest::UserFree { name: name.clone() };
            (name, request, "can be registered again")
        }
    };
    cluster
        .ask_leader(output, &request, HASH_DEADLINE.max(CALL_DEADLINE))
        .await?;
    output.data(&Changed { user }, |changed| {
        format!("{} {done}.", changed.user)
    });
    Ok(Exit::Done)
}

/// Asks a person. A script has no terminal and is not asked, so that it goes on as it was written.
fn confirm_deletion(name: &str, output: &Output) -> Result<(), CtlError> {
    if !std::io::stdin().is_terminal() || output.is_json() {
        return Ok(());
    }
    output.note(format!(
        "{name} loses the account and can't log in any more. Type the name again to delete it:"
    ));
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|e| CtlError::failed("io", "failed to read the answer").because(e))?;
    if is_confirmed(name, &answer) {
        return Ok(());
    }
    Err(CtlError::failed(
        "not_confirmed",
        format!("{name} was not deleted"),
    ))
}

fn is_confirmed(name: &str, answer: &str) -> bool {
    answer.trim() == name
}

async fn list(
    cluster: &Cluster,
    pattern: Option<String>,
    output: &Output,
) -> Result<Exit, CtlError> {
    let users = read(cluster, AdminRequest::UserList { pattern }).await?;
    output.data(&users, |users| table(&users.users));
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Changed {
    user: String,
}

#[derive(Serialize)]
struct Users {
    users: Vec<UserRow>,
}

/// Refuses a name that no account can have, before a password is asked.
fn valid(name: &str) -> Result<String, CtlError> {
    check_name(name).map_err(|e| CtlError::usage(e.message))?;
    Ok(name.to_owned())
}

fn with_password(user: &UserPassword) -> Result<(String, String), CtlError> {
    let name = valid(&user.name)?;
    let password = new_password(&name, user.password_file.as_deref())?;
    Ok((name, password))
}

async fn read(cluster: &Cluster, request: AdminRequest) -> Result<Users, CtlError> {
    let node = cluster.reader(None).await?;
    match cluster.ask(node, request, CALL_DEADLINE).await? {
        AdminOk::Users(users) => Ok(Users { users }),
        other => Err(unexpected(&other)),
    }
}

async fn show(cluster: &Cluster, name: String, output: &Output) -> Result<Exit, CtlError> {
    let users = read(cluster, AdminRequest::UserShow { name: name.clone() })
        .await?
        .users;
    let Some(user) = users.into_iter().next() else {
        return Err(CtlError::failed(
            "no_such_user",
            format!("there is no user {name}"),
        ));
    };
    output.data(&user, card);
    Ok(Exit::Done)
}

fn yes(flag: bool) -> String {
    if flag { "yes" } else { "no" }.to_owned()
}

fn card(user: &UserRow) -> String {
    let lines = [
        ("name", user.name.clone()),
        ("created", iso8601(user.created_at)),
        ("locked", yes(user.locked)),
        ("online", yes(user.online)),
        ("sessions", user.sessions.to_string()),
        ("sent", user.sent.to_string()),
        ("received", user.received.to_string()),
        ("queued", user.queued.to_string()),
    ];
    lines
        .map(|(key, value)| format!("{key:<9} {value}"))
        .join("\n")
}

const COLUMNS: [Column; 8] = [
    ("NAME", false),
    ("CREATED", false),
    ("ONLINE", false),
    ("LOCKED", false),
    ("SESSIONS", true),
    ("SENT", true),
    ("RECEIVED", true),
    ("QUEUED", true),
];

fn table(users: &[UserRow]) -> String {
    let row = |user: &UserRow| {
        vec![
            user.name.clone(),
            iso8601(user.created_at),
            yes(user.online),
            yes(user.locked),
            user.sessions.to_string(),
            user.sent.to_string(),
            user.received.to_string(),
            user.queued.to_string(),
        ]
    };
    render(&COLUMNS, &users.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_is_confirmed_by_the_name_alone() {
        assert!(is_confirmed("ben", "ben\n"));
        for answer in ["", "\n", "y\n", "Ben\n", "ben anna\n"] {
            assert!(!is_confirmed("ben", answer), "{answer:?}");
        }
    }
}
