//! What a change works with: the transaction, the counters, the acting session, and the effects so far.

use std::sync::Arc;

use messagebase_protocol::json::ClosingReason;
use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::counters::Scalars;
use super::effect::Effect;
use super::index::Memtable;
use super::integers::{int, uint};
use super::row_cache::RowCache;
use crate::change::Refusal;

/// Why a change ends without an outcome of its own; its writes are rolled back.
pub(super) enum Stop {
    /// A user's error.
    Refused(Refusal),
    /// The envelope contradicts itself: a defect of the proposer.
    Broken(&'static str),
    /// A constraint, a logic error or the disk; `is_final` tells which.
    Sqlite(rusqlite::Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Stop::Refused(refusal)
    }
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Stop::Sqlite(error)
    }
}

/// One change that is being applied.
pub(super) struct ChangeContext<'a> {
    pub tx: &'a Connection,
    pub memtable: &'a Memtable,
    pub row_cache: &'a mut RowCache,
    pub state: &'a mut Scalars,
    pub actor: Option<u64>,
    pub effects: Vec<Effect>,
}

/// The acting session, found alive.
pub(super) struct Actor {
    pub session: u64,
    pub user: u64,
    pub user_name: Arc<str>,
}

/// An account's row.
pub(super) struct UserRecord {
    pub id: u64,
    pub name: String,
    pub name_folded: String,
    pub credential_version: u64,
    pub locked: bool,
}

const USER_COLUMNS: &str =
    "SELECT id, name, name_folded, credential_version, locked_at IS NOT NULL FROM users";

impl ChangeContext<'_> {
    /// Runs a statement, kept prepared.
    pub fn exec(&self, sql: &str, params: impl Params) -> Result<usize, Stop> {
        Ok(self.tx.prepare_cached(sql)?.execute(params)?)
    }

    /// The first row, if there is one.
    pub fn first<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Stop> {
        Ok(self
            .tx
            .prepare_cached(sql)?
            .query_row(params, map)
            .optional()?)
    }

    /// All rows. Callers bound them.
    pub fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Stop> {
        let mut statement = self.tx.prepare_cached(sql)?;
        let rows = statement.query_map(params, map)?;
        Ok(rows.collect::<rusqlite::Result<Vec<T>>>()?)
    }

    /// The acting session, which must be alive and of `user`.
    pub fn require_actor(&mut self, user: u64) -> Result<Actor, Stop> {
        let actor = self.find_actor()?.ok_or(Refusal::NotLoggedIn)?;
        if actor.user != user {
            return Err(Refusal::NotPermitted.into());
        }
        Ok(actor)
    }

    /// Operators' and the leader's own changes name no session.
    pub fn require_no_actor(&self) -> Result<(), Stop> {
        if self.actor.is_some() {
            Err(Refusal::NotPermitted.into())
        } else {
            Ok(())
        }
    }

    /// The acting session if it is alive: known, not expired by the state's clock, its user not locked.
    pub fn find_actor(&mut self) -> Result<Option<Actor>, Stop> {
        let Some(session) = self.actor else {
            return Ok(None);
        };
        let cached = self
            .row_cache
            .session(self.tx, session)?
            .filter(|cached| cached.expires_at > self.state.clock);
        Ok(cached.map(|cached| Actor {
            session,
            user: cached.user,
            user_name: cached.name,
        }))
    }

    /// The live account of that id.
    pub fn user_by_id(&self, id: u64) -> Result<Option<UserRecord>, Stop> {
        self.first(
            &format!("{USER_COLUMNS} WHERE id = ?1"),
            [int(id)],
            user_record,
        )
    }

    /// The live account of that folded name.
    pub fn user_by_name(&self, folded: &str) -> Result<Option<UserRecord>, Stop> {
        self.first(
            &format!("{USER_COLUMNS} WHERE name_folded = ?1"),
            [folded],
            user_record,
        )
    }

    /// The first answer under an account key. An empty key is no key.
    pub fn account_key(
        &self,
        kind: &str,
        scope: &str,
        key: &str,
    ) -> Result<Option<(u64, String)>, Stop> {
        if key.is_empty() {
            return Ok(None);
        }
        self.first(
            "SELECT user_id, name FROM account_keys WHERE kind = ?1 AND scope = ?2 AND key = ?3",
            (kind, scope, key),
            |row| Ok((uint(row, 0)?, row.get(1)?)),
        )
    }

    /// Remembers the answer under an account key, for ever.
    pub fn remember_key(
        &self,
        kind: &str,
        scope: &str,
        key: &str,
        user: u64,
        name: &str,
    ) -> Result<(), Stop> {
        if key.is_empty() {
            return Ok(());
        }
        self.exec(
            "INSERT INTO account_keys (kind, scope, key, user_id, name) VALUES (?1, ?2, ?3, ?4, ?5)",
            (kind, scope, key, int(user), name),
        )
        .map(drop)
    }

    /// Ends the user's sessions but `keep`; their connections close with `reason`.
    pub fn end_sessions(
        &mut self,
        user: u64,
        keep: Option<u64>,
        reason: ClosingReason,
    ) -> Result<(), Stop> {
        let ended = self.all(
            "SELECT id FROM sessions WHERE user_id = ?1 AND id IS NOT ?2 ORDER BY id",
            (int(user), keep.map(int)),
            |row| uint(row, 0),
        )?;
        self.exec(
            "DELETE FROM sessions WHERE user_id = ?1 AND id IS NOT ?2",
            (int(user), keep.map(int)),
        )?;
        self.effects.extend(
            ended
                .into_iter()
                .map(|session| Effect::SessionEnded { session, reason }),
        );
        Ok(())
    }
}

fn user_record(row: &Row<'_>) -> rusqlite::Result<UserRecord> {
    Ok(UserRecord {
        id: uint(row, 0)?,
        name: row.get(1)?,
        name_folded: row.get(2)?,
        credential_version: uint(row, 3)?,
        locked: row.get(4)?,
    })
}
