//! Applies entries, one after the other, in the writer's transactions.

use std::sync::Arc;

use rusqlite::Connection;

use super::change_context::{ChangeContext, Stop};
use super::counters::Counters;
use super::index::Memtable;
use super::row_cache::RowCache;
use super::{Applied, ApplyError, message, operator, session, user};
use crate::change::{Change, Envelope, LOG_VERSION, Outcome, Settings};
use crate::entry::{LogId, LogPayload, LogRow};

/// Applies entries. Keeps between transactions what the next one will most likely need.
pub struct Machine {
    memtable: Memtable,
    /// As the open transaction has them; `None`: to be read first.
    counters: Option<Counters>,
    /// Settings and membership as stored: the two that rarely change and cost the most to write.
    written: Option<(Settings, Option<LogId>)>,
    row_cache: RowCache,
}

impl Machine {
    /// Of the file whose newest messages `memtable` holds.
    pub fn new(memtable: Memtable) -> Machine {
        Machine {
            memtable,
            counters: None,
            written: None,
            row_cache: RowCache::default(),
        }
    }

    /// A snapshot replaced the state: nothing that is cached is valid any more.
    pub fn forget(&mut self) {
        (self.counters, self.written) = (None, None);
        self.row_cache.forget();
    }

    /// Applies one entry inside the transaction that `tx` has open. [`Machine::save`] must come before its COMMIT;
    /// without that the effects of the entry would be kept and its applied id lost.
    ///
    /// # Errors
    /// [`ApplyError`] is final: the transaction must be rolled back and the node stopped.
    pub fn apply(&mut self, tx: &Connection, row: &LogRow) -> Result<Applied, ApplyError> {
        let index = row.id.index;
        let counters = match self.counters.take() {
            Some(counters) => counters,
            None => Counters::load(tx).map_err(|source| ApplyError::Sqlite { index, source })?,
        };
        let counters = self.counters.insert(counters);
        if let Some(applied) = counters.applied.filter(|applied| applied.index >= index) {
            return Err(ApplyError::OutOfOrder {
                index,
                applied: applied.index,
            });
        }
        counters.applied = Some(row.id);
        let nothing = Applied {
            outcome: Outcome::Done,
            effects: Vec::new(),
        };
        match &row.payload {
            LogPayload::Blank => Ok(nothing),
            LogPayload::Membership(json) => {
                counters.membership = Some((row.id, json.clone()));
                Ok(nothing)
            }
            LogPayload::Change(envelope) if envelope.v != LOG_VERSION => {
                Err(ApplyError::UnknownVersion {
                    index,
                    found: envelope.v,
                })
            }
            LogPayload::Change(envelope) => {
                counters.scalars.clock = envelope.at.max(counters.scalars.clock + 1);
                change(
                    tx,
                    &self.memtable,
                    &mut self.row_cache,
                    counters,
                    envelope,
                    index,
                )
            }
        }
    }

    /// Writes back what the entries of this transaction changed. Returns the last applied id.
    ///
    /// # Errors
    /// SQLite's; the transaction must be rolled back and the node stopped.
    pub fn save(&mut self, tx: &Connection) -> rusqlite::Result<Option<LogId>> {
        self.row_cache.write_back(tx)?;
        let Some(counters) = &self.counters else {
            return Ok(None);
        };
        let seldom = (
            counters.scalars.settings,
            counters.membership.as_ref().map(|(id, _)| *id),
        );
        if self.written == Some(seldom) {
            counters.save_moved(tx)?;
        } else {
            counters.save(tx)?;
            self.written = Some(seldom);
        }
        Ok(counters.applied)
    }
}

/// Applies a change whole or not at all.
fn change(
    tx: &Connection,
    memtable: &Memtable,
    row_cache: &mut RowCache,
    counters: &mut Counters,
    envelope: &Arc<Envelope>,
    index: u64,
) -> Result<Applied, ApplyError> {
    let fatal = |source| ApplyError::Sqlite { index, source };
    let before = counters.scalars;
    let reach = Reach::of(&envelope.body);
    if reach == Reach::Everything {
        // It may use SQL alone, and a rollback must undo all of it.
        row_cache.write_back(tx).map_err(fatal)?;
        row_cache.forget_accounts();
    }
    if reach != Reach::OneRow {
        run(tx, "SAVEPOINT entry").map_err(fatal)?;
    }
    let mut ctx = ChangeContext {
        tx,
        memtable,
        row_cache,
        state: &mut counters.scalars,
        actor: envelope.actor,
        effects: Vec::new(),
    };
    let carried = carry_out(&mut ctx, envelope);
    let effects = ctx.effects;
    if reach == Reach::Everything {
        row_cache.forget_accounts();
    }
    let stop = match carried {
        Ok(outcome) => {
            if reach != Reach::OneRow {
                run(tx, "RELEASE entry").map_err(fatal)?;
            }
            return Ok(Applied { outcome, effects });
        }
        Err(stop) => stop,
    };
    let outcome = ended(stop, index)?;
    if reach != Reach::OneRow {
        run(tx, "ROLLBACK TO entry").map_err(fatal)?;
        run(tx, "RELEASE entry").map_err(fatal)?;
    }
    if reach == Reach::Everything {
        row_cache.forget();
    }
    counters.scalars = before;
    Ok(Applied {
        outcome,
        effects: Vec::new(),
    })
}

/// How much of the state a change may write, which decides how it is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// One statement, and then memory: SQLite undoes a failing statement by itself. A savepoint would cost as much as
    /// the statement.
    OneRow,
    /// Rows of messages, and then memory.
    Messages,
    /// Accounts, sessions, anything.
    Everything,
}

impl Reach {
    fn of(change: &Change) -> Reach {
        match change {
            Change::Send { .. } => Reach::OneRow,
            Change::Ack { .. } => Reach::Messages,
            _ => Reach::Everything,
        }
    }
}

/// The outcome of an entry that was not applied.
fn ended(stop: Stop, index: u64) -> Result<Outcome, ApplyError> {
    match stop {
        Stop::Refused(refusal) => Ok(Outcome::Refused(refusal)),
        Stop::Sqlite(source) if is_final(&source) => Err(ApplyError::Sqlite { index, source }),
        // One bad entry must not stop every replica: all of them roll it back alike.
        Stop::Sqlite(source) => {
            tracing::error!(index, error = %source, "ALARM: an entry broke a rule of the database and was rolled back");
            Ok(Outcome::Rejected)
        }
        Stop::Broken(why) => {
            tracing::error!(
                index,
                error = why,
                "ALARM: an entry makes no sense and was rolled back"
            );
            Ok(Outcome::Rejected)
        }
    }
}

fn carry_out(ctx: &mut ChangeContext<'_>, envelope: &Arc<Envelope>) -> Result<Outcome, Stop> {
    let secrets = envelope.secrets.as_ref();
    let password_hash = secrets.and_then(|s| s.password_hash.as_deref());
    match &envelope.body {
        Change::Register {
            name,
            key,
            by_operator,
        } => user::register(ctx, name, key, *by_operator, password_hash),
        Change::Login {
            user,
            credential_version,
        } => session::login(
            ctx,
            *user,
            *credential_version,
            secrets.and_then(|s| s.token_hash.as_ref()),
        ),
        Change::Logout {} => session::logout(ctx),
        Change::Password {
            user,
            credential_version,
            key,
        } => user::password(ctx, *user, *credential_version, key, password_hash),
        Change::Delete {
            user,
            credential_version,
            key,
        } => user::delete(ctx, *user, *credential_version, key),
        Change::Send {
            user,
            to,
            body,
            key,
        } => message::send(ctx, envelope, *user, to, body, key),
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

/// Whether an error concerns this node's disk, memory or schema, not the entry. Rolling back would
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
