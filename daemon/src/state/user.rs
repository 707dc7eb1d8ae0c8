//! Accounts as their owners change them: register, password, delete. Operators' changes are in `operator`.

use messagebase_protocol::json::ClosingReason;
use messagebase_protocol::name::fold_name;

use super::change_context::{ChangeContext, Stop, UserRecord};
use super::integers::int;
use super::message;
use crate::change::{Outcome, Refusal};

/// Makes an account. Same name and key: the first answer again, even when the account is gone meanwhile.
pub(super) fn register(
    ctx: &mut ChangeContext<'_>,
    name: &str,
    key: &str,
    by_operator: bool,
    password_hash: Option<&str>,
) -> Result<Outcome, Stop> {
    let folded = fold_name(name);
    if let Some((user, name)) = ctx.account_key("register", &folded, key)? {
        return Ok(Outcome::Registered { user, name });
    }
    if !ctx.state.settings.registration_open && !by_operator {
        return Err(Refusal::NotPermitted.into());
    }
    let reserved = ctx
        .first(
            "SELECT 1 FROM retired_users WHERE name_folded = ?1 AND reserved = 1",
            [&folded],
            |_| Ok(()),
        )?
        .is_some();
    if reserved || ctx.user_by_name(&folded)?.is_some() {
        return Err(Refusal::NameTaken.into());
    }
    let hash = password_hash.ok_or(Stop::Broken("a registration without a password hash"))?;
    let user = ctx.state.next_user_id;
    ctx.state.next_user_id += 1;
    ctx.exec(
        "INSERT INTO users (id, name, name_folded, password_hash, credential_version, created_at)
         VALUES (?1, ?2, ?3, ?4, 1, ?5)",
        (int(user), name, &folded, hash, int(ctx.state.clock)),
    )?;
    ctx.exec("INSERT INTO mailboxes (user_id) VALUES (?1)", [int(user)])?;
    ctx.remember_key("register", &folded, key, user, name)?;
    Ok(Outcome::Registered {
        user,
        name: name.to_owned(),
    })
}

/// Replaces the password of the acting user; their other sessions end.
pub(super) fn password(
    ctx: &mut ChangeContext<'_>,
    user: u64,
    credential_version: u64,
    key: &str,
    password_hash: Option<&str>,
) -> Result<Outcome, Stop> {
    if ctx
        .account_key("password", &user.to_string(), key)?
        .is_some()
    {
        return Ok(Outcome::Done);
    }
    let actor = ctx.require_actor(user)?;
    let record = ctx.user_by_id(user)?.ok_or(Refusal::BadCredentials)?;
    if record.credential_version != credential_version {
        return Err(Refusal::BadCredentials.into());
    }
    set_password(ctx, user, password_hash)?;
    ctx.end_sessions(user, Some(actor.session), ClosingReason::Logout)?;
    ctx.remember_key("password", &user.to_string(), key, user, &record.name)?;
    Ok(Outcome::Done)
}

/// Stores a new hash. The version moves with it, so that a login verified against the old one is refused.
pub(super) fn set_password(
    ctx: &ChangeContext<'_>,
    user: u64,
    password_hash: Option<&str>,
) -> Result<(), Stop> {
    let hash = password_hash.ok_or(Stop::Broken("a new password without its hash"))?;
    ctx.exec(
        "UPDATE users SET password_hash = ?2, credential_version = credential_version + 1 WHERE id = ?1",
        (int(user), hash),
    )
    .map(drop)
}

/// Deletes the acting user's account.
pub(super) fn delete(
    ctx: &mut ChangeContext<'_>,
    user: u64,
    credential_version: Option<u64>,
    key: &str,
) -> Result<Outcome, Stop> {
    if ctx.account_key("delete", &user.to_string(), key)?.is_some() {
        return Ok(Outcome::Done);
    }
    ctx.require_actor(user)?;
    let record = ctx.user_by_id(user)?.ok_or(Refusal::BadCredentials)?;
    if credential_version.is_some_and(|verified| verified != record.credential_version) {
        return Err(Refusal::BadCredentials.into());
    }
    erase(ctx, &record)?;
    ctx.remember_key("delete", &user.to_string(), key, user, &record.name)?;
    Ok(Outcome::Done)
}

/// Takes an account away with its sessions and what is queued to it. What it sent or had received stays with the
/// other side under the old name, which stays reserved until an operator frees it.
pub(super) fn erase(ctx: &mut ChangeContext<'_>, record: &UserRecord) -> Result<(), Stop> {
    ctx.end_sessions(record.id, None, ClosingReason::Deleted)?;
    message::drop_queued(ctx, record)?;
    ctx.row_cache.drop_mailbox(record.id);
    ctx.exec("DELETE FROM mailboxes WHERE user_id = ?1", [int(record.id)])?;
    ctx.exec("DELETE FROM users WHERE id = ?1", [int(record.id)])?;
    ctx.exec(
        "INSERT INTO retired_users (id, name, name_folded, deleted_at, reserved) VALUES (?1, ?2, ?3, ?4, 1)",
        (int(record.id), &record.name, &record.name_folded, int(ctx.state.clock)),
    )
    .map(drop)
}
