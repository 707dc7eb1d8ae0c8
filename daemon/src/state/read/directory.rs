//! Lists of accounts: the directory and the operator's view of it.

use messagebase_protocol::peer::UserRow;
use rusqlite::{Connection, OptionalExtension, Result, Row};

use super::glob::Glob;
use super::{DirectoryRow, Page};
use crate::state::integers::{int, uint};

/// Live accounts by name whose folded name is greater than `after` and matches the glob (`*` and `?`; all else is
/// literal). A literal beginning narrows the scan to its range of the index; any other scan is bounded by the
/// connection's time limit.
pub fn users_page(
    conn: &Connection,
    pattern_folded: Option<&str>,
    after_folded: Option<&str>,
    limit: u32,
) -> Result<Page<DirectoryRow>> {
    let found = scan(conn, pattern_folded, after_folded, limit.saturating_add(1))?;
    Ok(Page::cut(found, limit))
}

fn scan(
    conn: &Connection,
    pattern_folded: Option<&str>,
    after_folded: Option<&str>,
    at_most: u32,
) -> Result<Vec<DirectoryRow>> {
    let glob = Glob::new(pattern_folded.unwrap_or("*"));
    let mut statement = conn.prepare_cached(
        "SELECT id, name, name_folded FROM users WHERE name_folded >= ?1 AND name_folded < ?2 ORDER BY name_folded",
    )?;
    // Names are printable ASCII: SOH stands before every one that goes on after `after`, DEL behind every one that goes
    // on after the prefix. One bound on each side: of two, SQLite may begin at the wrong one and read all between.
    let after = after_folded
        .map(|after| format!("{after}\u{1}"))
        .unwrap_or_default();
    let begin = if after.as_str() > glob.prefix() {
        after.as_str()
    } else {
        glob.prefix()
    };
    let mut rows = statement.query((begin, format!("{}\u{7f}", glob.prefix())))?;
    let mut found = Vec::new();
    while found.len() < at_most as usize
        && let Some(row) = rows.next()?
    {
        if glob.matches(row.get_ref(2)?.as_str()?) {
            found.push(DirectoryRow {
                id: uint(row, 0)?,
                name: row.get(1)?,
            });
        }
    }
    Ok(found)
}

const USER_ROW: &str = "SELECT u.name, u.created_at,
        coalesce((SELECT queued_messages FROM mailboxes WHERE user_id = u.id), 0),
        coalesce((SELECT sent FROM mailboxes WHERE user_id = u.id), 0),
        coalesce((SELECT received FROM mailboxes WHERE user_id = u.id), 0),
        u.locked_at IS NOT NULL,
        (SELECT count(*) FROM sessions WHERE user_id = u.id)
   FROM users u";

/// Accounts for the operator, by name; `online` is left false.
pub fn user_rows(
    conn: &Connection,
    pattern_folded: Option<&str>,
    limit: u32,
) -> Result<Vec<UserRow>> {
    let found = scan(conn, pattern_folded, None, limit)?;
    let mut statement = conn.prepare_cached(&format!("{USER_ROW} WHERE u.id = ?1"))?;
    found
        .into_iter()
        .map(|row| statement.query_row([int(row.id)], operator_row))
        .collect()
}

/// One account for the operator; `online` is left false.
pub fn user_row(conn: &Connection, folded: &str) -> Result<Option<UserRow>> {
    conn.prepare_cached(&format!("{USER_ROW} WHERE u.name_folded = ?1"))?
        .query_row([folded], operator_row)
        .optional()
}

fn operator_row(row: &Row<'_>) -> Result<UserRow> {
    Ok(UserRow {
        name: row.get(0)?,
        created_at: uint(row, 1)?,
        queued: uint(row, 2)?,
        sent: uint(row, 3)?,
        received: uint(row, 4)?,
        locked: row.get(5)?,
        online: false,
        sessions: uint(row, 6)?,
    })
}
