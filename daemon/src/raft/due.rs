//! What the leader would have to propose by itself, as the state shows it. Reads only; apply decides again.

use rusqlite::{Connection, Result, params};

use crate::change::Settings;
use crate::state::read;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// What is due.
pub(super) struct Due {
    /// The replicated settings.
    pub settings: Settings,
    /// Whether a session has expired.
    pub expired: bool,
    /// Whether a delivered message is to be forgotten.
    pub forgettable: bool,
}

/// Looks at the state at `now` (Unix ms).
pub(super) fn look(conn: &Connection, now: u64) -> Result<Due> {
    let settings = read::settings(conn)?;
    // SQLite's integers are signed; no clock comes near their end.
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let exists = |sql: &str, before: u64| {
        conn.query_row(sql, params![signed(before)], |row| row.get::<_, bool>(0))
    };
    let expired = exists(
        "SELECT EXISTS (SELECT 1 FROM sessions WHERE expires_at <= ?1)",
        now,
    )?;
    let days = u64::from(settings.delivered_days);
    let forgettable = days > 0
        && exists(
            "SELECT EXISTS (SELECT 1 FROM messages WHERE delivered_at < ?1)",
            now.saturating_sub(days * DAY_MS),
        )?;
    Ok(Due {
        settings,
        expired,
        forgettable,
    })
}
