//! What concerns the node as a whole: the change log as people read it, counts, settings, clock.

use messagebase_protocol::peer::ChangeRow;
use rusqlite::{Connection, Result};

use super::Stats;
use crate::change::Settings;
use crate::state::Counters;
use crate::state::integers::{int, uint};

/// Rows of the change log from index `from` on, without secrets.
pub fn change_rows(conn: &Connection, from: u64, limit: u32) -> Result<Vec<ChangeRow>> {
    let mut statement = conn.prepare_cached(
        "SELECT log_index, term, leader, change FROM change_log WHERE log_index >= ?1 ORDER BY log_index LIMIT ?2",
    )?;
    let rows = statement.query_map((int(from), limit), |row| {
        Ok(ChangeRow {
            log_index: uint(row, 0)?,
            term: uint(row, 1)?,
            leader: row.get(2)?,
            change: row.get(3)?,
        })
    })?;
    rows.collect()
}

/// Counts for `mbctl status`: no message is looked at.
pub fn stats(conn: &Connection) -> Result<Stats> {
    conn.prepare_cached(
        "SELECT (SELECT count(*) FROM users), (SELECT coalesce(sum(queued_messages), 0) FROM mailboxes),
                (SELECT count(*) FROM sessions)",
    )?
    .query_row([], |row| Ok(Stats { users: uint(row, 0)?, queued: uint(row, 1)?, sessions: uint(row, 2)? }))
}

/// The replicated settings.
pub fn settings(conn: &Connection) -> Result<Settings> {
    Counters::load(conn).map(|counters| counters.scalars.settings)
}

/// The state's clock, Unix ms.
pub fn clock(conn: &Connection) -> Result<u64> {
    conn.prepare_cached("SELECT clock FROM replicated_state")?
        .query_row([], |row| uint(row, 0))
}
