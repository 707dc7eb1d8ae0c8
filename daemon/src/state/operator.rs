//! What operators and the leader decide: settings, locks, foreign passwords, removal, freed names. None of these
//! names an acting session: who may ask is checked at the peer port.

use messagebase_protocol::json::ClosingReason;
use messagebase_protocol::name::fold_name;

use super::change_context::{ChangeContext, Stop, UserRecord};
use super::integers::int;
use super::user;
use crate::change::{Outcome, Refusal, Settings};

/// Replaces the replicated settings.
pub(super) fn settings(ctx: &mut ChangeContext<'_>, settings: Settings) -> Result<Outcome, Stop> {
    ctx.require_no_actor()?;
    ctx.state.settings = settings;
    Ok(Outcome::Done)
}

/// Locks an account and ends its sessions. Messages to it still queue.
pub(super) fn lock(ctx: &mut ChangeContext<'_>, name: &str) -> Result<Outcome, Stop> {
    let record = find(ctx, name)?;
    if !record.locked {
        ctx.exec(
            "UPDATE users SET locked_at = ?2 WHERE id = ?1",
            (int(record.id), int(ctx.state.clock)),
        )?;
    }
    ctx.end_sessions(record.id, None, ClosingReason::Locked)?;
    Ok(Outcome::Done)
}

/// Unlocks an account; its owner has to log in again.
pub(super) fn unlock(ctx: &mut ChangeContext<'_>, name: &str) -> Result<Outcome, Stop> {
    let record = find(ctx, name)?;
    ctx.exec(
        "UPDATE users SET locked_at = NULL WHERE id = ?1",
        [int(record.id)],
    )?;
    Ok(Outcome::Done)
}

/// Sets a password and ends the account's sessions: they may have been begun with the old one.
pub(super) fn reset_password(
    ctx: &mut ChangeContext<'_>,
    name: &str,
    password_hash: Option<&str>,
) -> Result<Outcome, Stop> {
    let record = find(ctx, name)?;
    user::set_password(ctx, record.id, password_hash)?;
    ctx.end_sessions(record.id, None, ClosingReason::Logout)?;
    Ok(Outcome::Done)
}

/// Deletes an account.
pub(super) fn remove(ctx: &mut ChangeContext<'_>, name: &str) -> Result<Outcome, Stop> {
    let record = find(ctx, name)?;
    user::erase(ctx, &record)?;
    Ok(Outcome::Done)
}

/// Releases the reserved name of a deleted account. A repetition is answered alike.
pub(super) fn free_name(ctx: &mut ChangeContext<'_>, name: &str) -> Result<Outcome, Stop> {
    ctx.require_no_actor()?;
    let folded = fold_name(name);
    if ctx.user_by_name(&folded)?.is_some() {
        return Err(Refusal::NameInUse.into());
    }
    ctx.first(
        "SELECT 1 FROM retired_users WHERE name_folded = ?1",
        [&folded],
        |_| Ok(()),
    )?
    .ok_or(Refusal::NoSuchUser)?;
    ctx.exec(
        "UPDATE retired_users SET reserved = 0 WHERE name_folded = ?1 AND reserved = 1",
        [&folded],
    )?;
    Ok(Outcome::Done)
}

fn find(ctx: &ChangeContext<'_>, name: &str) -> Result<UserRecord, Stop> {
    ctx.require_no_actor()?;
    ctx.user_by_name(&fold_name(name))?
        .ok_or(Stop::Refused(Refusal::NoSuchUser))
}
