//! Accounts, as the operator changes them. Changes are proposed like anybody's; apply decides.

use std::sync::Arc;

use messagebase_protocol::name::{check_name, check_password, fold_name};
use messagebase_protocol::peer::{AdminCode, AdminError, AdminOk, AdminReply, UserRow};

use super::{internal, no_quorum, refused, waiting};
use crate::change::{Change, Outcome, Refusal, Secrets};
use crate::node::{Replica, Shared};
use crate::raft::api::{Draft, Verdict};
use crate::service::{Service, send_key};
use crate::state::read;

/// Rows of one `user list`.
const USERS_MAX: u32 = 10_000;

/// Accounts by glob.
pub async fn list(shared: &Arc<Shared>, pattern: Option<String>) -> AdminReply {
    Ok(AdminOk::Users(rows(shared, pattern).await?))
}

/// One account.
pub async fn show(shared: &Arc<Shared>, name: String) -> AdminReply {
    check_name(&name).map_err(|e| refused(AdminCode::BadName, e.message))?;
    let found = rows(shared, Some(name.clone())).await?;
    if found.is_empty() {
        Err(no_such_user(&name))
    } else {
        Ok(AdminOk::Users(found))
    }
}

async fn rows(shared: &Arc<Shared>, pattern: Option<String>) -> Result<Vec<UserRow>, AdminError> {
    let replica = shared.replica().ok_or_else(|| waiting(shared))?;
    replica.linear().await.map_err(|_| no_quorum())?;
    let pattern = pattern.as_deref().map(fold_name);
    let read = move |conn: &rusqlite::Connection| {
        let rows = read::user_rows(conn, pattern.as_deref(), USERS_MAX)?;
        rows.into_iter()
            .map(|row| Ok((read::user_by_name(conn, &fold_name(&row.name))?, row)))
            .collect()
    };
    let found: Vec<(Option<read::Account>, UserRow)> =
        shared.store.readers().run(read).await.map_err(internal)?;
    let with_presence = |(account, row): (Option<read::Account>, UserRow)| UserRow {
        online: account.is_some_and(|account| shared.presence.is_online(account.id)),
        ..row
    };
    Ok(found.into_iter().map(with_presence).collect())
}

/// Makes an account, also while registration is closed.
pub async fn add(
    shared: &Arc<Shared>,
    service: &Arc<Service>,
    name: String,
    password: String,
) -> AdminReply {
    check_name(&name).map_err(|e| refused(AdminCode::BadName, e.message))?;
    let secrets = hashed(service, password).await?;
    // One for each request: under a key that was used before, a name that was freed would not be registered again.
    let key = send_key().map_err(|e| refused(AdminCode::Busy, e.message))?;
    propose(
        shared,
        &name.clone(),
        Change::Register {
            name,
            key,
            by_operator: true,
        },
        Some(secrets),
    )
    .await
}

/// Locks an account and ends its sessions.
pub async fn lock(shared: &Arc<Shared>, name: String) -> AdminReply {
    propose(shared, &name.clone(), Change::Lock { name }, None).await
}

/// Unlocks an account.
pub async fn unlock(shared: &Arc<Shared>, name: String) -> AdminReply {
    propose(shared, &name.clone(), Change::Unlock { name }, None).await
}

/// Sets a password and ends the sessions.
pub async fn reset_password(
    shared: &Arc<Shared>,
    service: &Arc<Service>,
    name: String,
    password: String,
) -> AdminReply {
    let secrets = hashed(service, password).await?;
    propose(
        shared,
        &name.clone(),
        Change::ResetPassword { name },
        Some(secrets),
    )
    .await
}

/// Deletes an account; its name stays reserved. The change has no key, so a repetition inside [`Replica::propose`]
/// finds no account any more: if there was one before, that means done, by this change or another.
///
/// [`Replica::propose`]: crate::raft::Replica::propose
pub async fn delete(shared: &Arc<Shared>, name: String) -> AdminReply {
    let replica = shared.replica().ok_or_else(|| waiting(shared))?;
    replica.linear().await.map_err(|_| no_quorum())?;
    let folded = fold_name(&name);
    let found = shared
        .store
        .readers()
        .run(move |conn| read::user_by_name(conn, &folded))
        .await
        .map_err(internal)?;
    if found.is_none() {
        return Err(no_such_user(&name));
    }
    match verdict(replica, Change::Remove { name: name.clone() }, None).await {
        Verdict::InDoubt(Refusal::NoSuchUser)
        | Verdict::Applied {
            outcome: Outcome::Refused(Refusal::NoSuchUser),
            ..
        } => Ok(AdminOk::Done),
        verdict => answer(&name, verdict),
    }
}

/// Releases a reserved name.
pub async fn free(shared: &Arc<Shared>, name: String) -> AdminReply {
    propose(shared, &name.clone(), Change::FreeName { name }, None).await
}

async fn hashed(service: &Arc<Service>, password: String) -> Result<Secrets, AdminError> {
    check_password(&password).map_err(|e| refused(AdminCode::BadPassword, e.message))?;
    let hash = service
        .hasher()
        .hash(password)
        .await
        .map_err(|e| refused(AdminCode::Busy, e.message))?;
    Ok(Secrets {
        password_hash: Some(hash),
        token_hash: None,
    })
}

async fn propose(
    shared: &Arc<Shared>,
    name: &str,
    body: Change,
    secrets: Option<Secrets>,
) -> AdminReply {
    let replica = shared.replica().ok_or_else(|| waiting(shared))?;
    answer(name, verdict(replica, body, secrets).await)
}

async fn verdict(replica: &Replica, body: Change, secrets: Option<Secrets>) -> Verdict {
    replica
        .propose(vec![Draft {
            actor: None,
            body,
            secrets,
        }])
        .await
        .pop()
        .unwrap_or(Verdict::NoQuorum)
}

fn answer(name: &str, verdict: Verdict) -> AdminReply {
    let outcome = match verdict {
        Verdict::Applied { outcome, .. } => outcome,
        Verdict::InDoubt(_) | Verdict::NoQuorum | Verdict::Closing => return Err(no_quorum()),
    };
    match outcome {
        Outcome::Refused(Refusal::NoSuchUser) => Err(no_such_user(name)),
        Outcome::Refused(Refusal::NameTaken) => Err(AdminError {
            hint: Some(format!(
                "if the account was deleted, release the name: mbctl user free {name}"
            )),
            ..refused(
                AdminCode::NameTaken,
                format!("the name {name} belongs to somebody or is reserved"),
            )
        }),
        Outcome::Refused(Refusal::NameInUse) => Err(AdminError {
            hint: Some(format!("mbctl user delete {name}")),
            ..refused(
                AdminCode::NameInUse,
                format!("{name} has an account; only the name of a deleted one is reserved"),
            )
        }),
        Outcome::Refused(why) => Err(refused(
            AdminCode::Refused,
            format!("{name}: refused ({why:?})"),
        )),
        Outcome::Rejected => Err(internal(
            "the change was rejected by every node; see the log",
        )),
        _ => Ok(AdminOk::Done),
    }
}

fn no_such_user(name: &str) -> AdminError {
    AdminError {
        hint: Some("mbctl user list".into()),
        ..refused(
            AdminCode::NoSuchUser,
            format!("there is no user and no reserved name {name}"),
        )
    }
}
