//! Deterministic apply and the queries on what it wrote. Apply sees a transaction and `change` alone; it is the only
//! authority: whatever `service/` checked before proposing was a courtesy.
//!
//! **Invariant:** apply knows no clock, no chance and no I/O but its transaction. Every node that applies the same
//! entries holds the same rows.
//!
//! Where to go next: [`Counters`] is what all aggregates share; `user`, `session`, `message` and `operator` each carry
//! out the changes of one aggregate; [`read`] queries the result; [`effect`] is what live sessions are told.

mod counters;
mod ctx;
pub mod effect;
mod message;
mod operator;
pub mod read;
mod session;
pub(crate) mod sql;
mod user;

#[cfg(test)]
mod tests;

use rusqlite::Connection;

pub use counters::Counters;
pub(crate) use counters::log_id;
use ctx::{Ctx, Stop};

use crate::change::{Change, Envelope, LOG_VERSION, Outcome};
use crate::state::effect::Effect;
use crate::store::{LogPayload, LogRow};

/// What applying one entry came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// For whoever proposed it.
    pub outcome: Outcome,
    /// For live sessions, once the transaction is committed.
    pub effects: Vec<Effect>,
}

/// Why the node must stop: going on would skip an entry or lose one.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Written by a newer mbd.
    #[error("entry {index} has log version {found}, this mbd knows {LOG_VERSION}; run the newer mbd on this node")]
    UnknownVersion {
        /// Where it stands.
        index: u64,
        /// Its version.
        found: u16,
    },
    /// Not a successor of what is applied.
    #[error("entry {index} cannot be applied after entry {applied}")]
    OutOfOrder {
        /// Where it stands.
        index: u64,
        /// Last applied index.
        applied: u64,
    },
    /// Disk, corruption, memory.
    #[error("failed to apply entry {index}: {source}")]
    Sqlite {
        /// Where it stands.
        index: u64,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

/// Applies one entry inside the transaction that `tx` has open. `counters` are loaded once per transaction and saved
/// once before its COMMIT; without that the effects of the entry would be kept and its applied id lost.
///
/// # Errors
/// [`ApplyError`] is final: the transaction must be rolled back and the node stopped.
pub fn apply(tx: &Connection, counters: &mut Counters, row: &LogRow) -> Result<Applied, ApplyError> {
    let index = row.id.index;
    if let Some(applied) = counters.applied.filter(|applied| applied.index >= index) {
        return Err(ApplyError::OutOfOrder { index, applied: applied.index });
    }
    let applied = match &row.payload {
        LogPayload::Blank => Applied { outcome: Outcome::Done, effects: Vec::new() },
        LogPayload::Membership(json) => {
            counters.membership = Some((row.id, json.clone()));
            Applied { outcome: Outcome::Done, effects: Vec::new() }
        }
        LogPayload::Change(envelope) => apply_change(tx, counters, envelope, index)?,
    };
    counters.applied = Some(row.id);
    Ok(applied)
}

fn apply_change(
    tx: &Connection,
    counters: &mut Counters,
    envelope: &Envelope,
    index: u64,
) -> Result<Applied, ApplyError> {
    if envelope.v != LOG_VERSION {
        return Err(ApplyError::UnknownVersion { index, found: envelope.v });
    }
    counters.scalars.clock = envelope.at.max(counters.scalars.clock + 1);
    let before = counters.scalars;
    let fatal = |source| ApplyError::Sqlite { index, source };

    run(tx, "SAVEPOINT entry").map_err(fatal)?;
    let mut ctx = Ctx { tx, state: &mut counters.scalars, actor: envelope.actor, effects: Vec::new() };
    let stop = match carry_out(&mut ctx, envelope) {
        Ok(outcome) => {
            let effects = ctx.effects;
            run(tx, "RELEASE entry").map_err(fatal)?;
            return Ok(Applied { outcome, effects });
        }
        Err(stop) => stop,
    };
    let outcome = match stop {
        Stop::Refused(refusal) => Outcome::Refused(refusal),
        Stop::Sqlite(source) if is_final(&source) => return Err(fatal(source)),
        // One bad entry must not stop every replica: all of them roll it back alike.
        Stop::Sqlite(source) => {
            tracing::error!(index, error = %source, "ALARM: an entry broke a rule of the database and was rolled back");
            Outcome::Rejected
        }
        Stop::Broken(why) => {
            tracing::error!(index, error = why, "ALARM: an entry makes no sense and was rolled back");
            Outcome::Rejected
        }
    };
    run(tx, "ROLLBACK TO entry").map_err(fatal)?;
    run(tx, "RELEASE entry").map_err(fatal)?;
    counters.scalars = before;
    Ok(Applied { outcome, effects: Vec::new() })
}

fn carry_out(ctx: &mut Ctx<'_>, envelope: &Envelope) -> Result<Outcome, Stop> {
    let secrets = envelope.secrets.as_ref();
    let password_hash = secrets.and_then(|s| s.password_hash.as_deref());
    match &envelope.body {
        Change::Register { name, key, by_operator } => user::register(ctx, name, key, *by_operator, password_hash),
        Change::Login { user, credential_version } => {
            session::login(ctx, *user, *credential_version, secrets.and_then(|s| s.token_hash.as_ref()))
        }
        Change::Logout {} => session::logout(ctx),
        Change::Password { user, credential_version, key } => {
            user::password(ctx, *user, *credential_version, key, password_hash)
        }
        Change::Delete { user, credential_version, key } => user::delete(ctx, *user, *credential_version, key),
        Change::Send { user, to, body, key } => message::send(ctx, *user, to, body, key),
        Change::Ack { user, through } => message::ack(ctx, *user, *through),
        Change::ExpireSessions {} => session::expire(ctx),
        Change::ForgetDelivered { at_most } => message::forget_delivered(ctx, *at_most),
        Change::Settings(settings) => operator::settings(ctx, *settings),
        Change::Lock { name } => operator::lock(ctx, name),
        Change::Unlock { name } => operator::unlock(ctx, name),
        Change::ResetPassword { name } => operator::reset_password(ctx, name, password_hash),
        Change::Remove { name } => operator::remove(ctx, name),
        Change::FreeName { name } => operator::free_name(ctx, name),
    }
}

/// Whether an error says something about this node's disk, memory or schema, not about the entry. Rolling back would
/// then leave this node with other rows than its peers. (`SQLITE_ERROR`, rusqlite's `Unknown`, is final too: no data
/// can make these statements fail so, a table that somebody dropped can.)
fn is_final(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        None => false,
        Some(code) => !matches!(
            code,
            ErrorCode::ConstraintViolation
                | ErrorCode::TooBig
                | ErrorCode::TypeMismatch
                | ErrorCode::ParameterOutOfRange
                | ErrorCode::ApiMisuse
        ),
    }
}

fn run(tx: &Connection, sql: &str) -> rusqlite::Result<()> {
    tx.prepare_cached(sql)?.execute([]).map(drop)
}
