//! Sessions: login, logout, expiry. Tokens are known by their SHA-256 alone.

use messagebase_protocol::json::ClosingReason;

use super::change_context::{ChangeContext, Stop};
use super::effect::Effect;
use super::integers::{int, uint};
use crate::change::{Outcome, Refusal};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// Sessions that one `ExpireSessions` ends at most, so that no transaction is long. Part of the change's meaning:
/// every node must end the same ones. The leader proposes again while there are more.
pub const EXPIRE_AT_MOST: u32 = 5_000;

/// Begins a session for the user whose password was verified. The token's hash makes a repetition harmless.
pub(super) fn login(
    ctx: &mut ChangeContext<'_>,
    user: u64,
    credential_version: u64,
    token_hash: Option<&[u8; 32]>,
) -> Result<Outcome, Stop> {
    let token_hash = token_hash.ok_or(Stop::Broken("a login without a token hash"))?;
    let existing = ctx.first(
        "SELECT s.id, u.name, s.expires_at FROM sessions s JOIN users u ON u.id = s.user_id
          WHERE s.token_hash = ?1 AND s.user_id = ?2",
        (&token_hash[..], int(user)),
        |row| {
            Ok(Outcome::LoggedIn {
                session: uint(row, 0)?,
                user,
                name: row.get(1)?,
                expires_at: uint(row, 2)?,
            })
        },
    )?;
    if let Some(same) = existing {
        return Ok(same);
    }
    let record = ctx.user_by_id(user)?.ok_or(Refusal::BadCredentials)?;
    if record.credential_version != credential_version {
        return Err(Refusal::BadCredentials.into());
    }
    if record.locked {
        return Err(Refusal::Locked.into());
    }
    let session = ctx.state.next_session_id;
    ctx.state.next_session_id += 1;
    let clock = ctx.state.clock;
    let expires_at = clock + u64::from(ctx.state.settings.session_days) * DAY_MS;
    ctx.exec(
        "INSERT INTO sessions (id, user_id, token_hash, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        (int(session), int(user), &token_hash[..], int(clock), int(expires_at)),
    )?;
    end_surplus(ctx, user)?;
    Ok(Outcome::LoggedIn {
        session,
        user,
        name: record.name,
        expires_at,
    })
}

/// Ends the user's oldest sessions beyond the limit; the newest always stays.
fn end_surplus(ctx: &mut ChangeContext<'_>, user: u64) -> Result<(), Stop> {
    let keep = i64::from(ctx.state.settings.sessions_per_user.max(1));
    let mut surplus = ctx.all(
        "SELECT id FROM sessions WHERE user_id = ?1 ORDER BY id DESC LIMIT -1 OFFSET ?2",
        (int(user), keep),
        |row| uint(row, 0),
    )?;
    surplus.reverse();
    end(ctx, surplus)
}

/// Ends the acting session. Of a dead one: no change, same answer.
pub(super) fn logout(ctx: &mut ChangeContext<'_>) -> Result<Outcome, Stop> {
    let found = ctx.first(
        "SELECT id FROM sessions WHERE id = ?1",
        [ctx.actor.map(int)],
        |row| uint(row, 0),
    )?;
    end(ctx, found.into_iter().collect())?;
    Ok(Outcome::Done)
}

/// Ends the sessions that have expired by the state's clock, longest expired first.
pub(super) fn expire(ctx: &mut ChangeContext<'_>) -> Result<Outcome, Stop> {
    ctx.require_no_actor()?;
    let expired = ctx.all(
        "SELECT id FROM sessions WHERE expires_at <= ?1 ORDER BY expires_at, id LIMIT ?2",
        (int(ctx.state.clock), EXPIRE_AT_MOST),
        |row| uint(row, 0),
    )?;
    end(ctx, expired)?;
    Ok(Outcome::Done)
}

fn end(ctx: &mut ChangeContext<'_>, sessions: Vec<u64>) -> Result<(), Stop> {
    for session in sessions {
        ctx.exec("DELETE FROM sessions WHERE id = ?1", [int(session)])?;
        ctx.effects.push(Effect::SessionEnded {
            session,
            reason: ClosingReason::Logout,
        });
    }
    Ok(())
}
