//! The one row of `replicated_state`: what all aggregates share. Loaded once by apply, saved before every
//! COMMIT.

use std::sync::Arc;

use rusqlite::{Connection, Result, Row, params};

use super::integers::{int, opt_uint, uint};
use crate::change::Settings;
use crate::entry::LogId;

/// Clock, counters, settings, and how far the log is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// What a change may move.
    pub scalars: Scalars,
    /// Last applied entry.
    pub applied: Option<LogId>,
    /// Last applied membership and where it stood.
    pub membership: Option<(LogId, Arc<str>)>,
}

/// The part that a rolled-back change gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scalars {
    /// Unix ms; strictly grows with every change.
    pub clock: u64,
    /// The next account's id.
    pub next_user_id: u64,
    /// The next message's id.
    pub next_message_id: u64,
    /// The next session's id.
    pub next_session_id: u64,
    /// The replicated settings.
    pub settings: Settings,
}

impl Counters {
    /// Reads the row.
    pub fn load(conn: &Connection) -> Result<Counters> {
        conn.prepare_cached(
            "SELECT clock, next_user_id, next_message_id, next_session_id, settings, applied_term, applied_leader,
                    applied_index, membership_term, membership_leader, membership_index, membership
               FROM replicated_state",
        )?
        .query_row([], |row| {
            let settings: String = row.get(4)?;
            let settings = serde_json::from_str(&settings)
                .map_err(|e| rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, Box::new(e)))?;
            let membership: Option<String> = row.get(11)?;
            Ok(Counters {
                scalars: Scalars {
                    clock: uint(row, 0)?,
                    next_user_id: uint(row, 1)?,
                    next_message_id: uint(row, 2)?,
                    next_session_id: uint(row, 3)?,
                    settings,
                },
                applied: log_id(row, 5)?,
                membership: log_id(row, 8)?.zip(membership.map(Arc::from)),
            })
        })
    }

    /// Writes back what every entry moves.
    pub fn save_moved(&self, conn: &Connection) -> Result<()> {
        let s = &self.scalars;
        conn.prepare_cached(
            "UPDATE replicated_state SET clock = ?1, next_user_id = ?2, next_message_id = ?3, next_session_id = ?4,
                    applied_term = ?5, applied_leader = ?6, applied_index = ?7",
        )?
        .execute((
            int(s.clock),
            int(s.next_user_id),
            int(s.next_message_id),
            int(s.next_session_id),
            self.applied.map(|id| int(id.term)),
            self.applied.map(|id| int(id.leader)),
            self.applied.map(|id| int(id.index)),
        ))
        .map(drop)
    }

    /// Writes the whole row back.
    pub fn save(&self, conn: &Connection) -> Result<()> {
        let s = &self.scalars;
        let settings = serde_json::to_string(&s.settings)
            .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        let membership_id = self.membership.as_ref().map(|(id, _)| *id);
        conn.prepare_cached(
            "UPDATE replicated_state SET clock = ?1, next_user_id = ?2, next_message_id = ?3, next_session_id = ?4,
                    settings = ?5, applied_term = ?6, applied_leader = ?7, applied_index = ?8, membership_term = ?9,
                    membership_leader = ?10, membership_index = ?11, membership = ?12",
        )?
        .execute(params![
            int(s.clock),
            int(s.next_user_id),
            int(s.next_message_id),
            int(s.next_session_id),
            settings,
            self.applied.map(|id| int(id.term)),
            self.applied.map(|id| int(id.leader)),
            self.applied.map(|id| int(id.index)),
            membership_id.map(|id| int(id.term)),
            membership_id.map(|id| int(id.leader)),
            membership_id.map(|id| int(id.index)),
            self.membership.as_ref().map(|(_, json)| &**json),
        ])
        .map(drop)
    }
}

/// A log id from three columns (term, leader, index) that are all NULL or all set.
pub(crate) fn log_id(row: &Row<'_>, first: usize) -> Result<Option<LogId>> {
    let (Some(term), Some(leader), Some(index)) = (
        opt_uint(row, first)?,
        opt_uint(row, first + 1)?,
        opt_uint(row, first + 2)?,
    ) else {
        return Ok(None);
    };
    Ok(Some(LogId {
        term,
        leader,
        index,
    }))
}
