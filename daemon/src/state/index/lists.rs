//! The lists of messages to and from each user, with whom, in their table. A row holds some messages of one list that
//! follow each other; a row for each would take most of the index's time and room.
//!
//! **Invariant:** the rows of a list don't overlap: a message stands in the first row whose `last_id` is not less.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Result, Row, Rows, ffi};

use super::Entry;
use crate::state::sql::{int, uint};

/// Messages in a row at most. Enough that few rows are written for a user who says much, so few that a page holds many
/// rows: the inner pages of a table WITHOUT ROWID hold whole rows, and its tree grows deep with long ones. Unit tests
/// have few messages.
pub(super) const ROW_MESSAGES_MAX: usize = if cfg!(test) { 3 } else { 16 };

/// One of a user's two lists of messages, in the order of their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct List {
    user: u64,
    side: Side,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Side {
    Received = 0,
    Sent = 1,
}

/// A message of a list, and who has it in the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub id: u64,
    pub other: u64,
}

impl List {
    /// Messages to the user.
    pub fn to(user: u64) -> List {
        List {
            user,
            side: Side::Received,
        }
    }

    /// Messages from the user.
    pub fn from(user: u64) -> List {
        List {
            user,
            side: Side::Sent,
        }
    }

    /// The two lists in which a message is.
    pub(super) fn of(entry: Entry<'_>) -> [List; 2] {
        [List::to(entry.recipient), List::from(entry.sender)]
    }

    /// The message as it stands in this list.
    pub(super) fn listed(self, entry: Entry<'_>) -> Listed {
        let other = match self.side {
            Side::Received => entry.sender,
            Side::Sent => entry.recipient,
        };
        Listed {
            id: entry.id,
            other,
        }
    }

    /// `user_id`, `side`.
    fn key(self) -> (i64, i64) {
        (int(self.user), self.side as i64)
    }

    /// Adds a row of messages, newer than all that the list holds.
    pub(super) fn append(self, conn: &Connection, messages: &[Listed]) -> Result<()> {
        let Some(last) = messages.last() else {
            return Ok(());
        };
        let (user, side) = self.key();
        let (ids, others) = json(messages)?;
        conn.prepare_cached(
            "INSERT INTO message_lists (user_id, side, last_id, ids, others) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute((user, side, int(last.id), ids, others))
        .map(drop)
    }

    /// Removes the last row unless it is full, and returns what it held: to be appended again with what follows, so
    /// that a list which grows by one message a merge does not have a row for each.
    pub(super) fn reopen(self, conn: &Connection) -> Result<Vec<Listed>> {
        const LAST: &str = "SELECT ids, others, last_id FROM message_lists
                             WHERE user_id = ?1 AND side = ?2 ORDER BY last_id DESC LIMIT 1";
        let (user, side) = self.key();
        let last = conn
            .prepare_cached(LAST)?
            .query_row((user, side), |row| Ok((messages(row)?, uint(row, 2)?)))
            .optional()?;
        match last {
            Some((messages, last)) if messages.len() < ROW_MESSAGES_MAX => {
                self.cut(conn, last.saturating_sub(1))?;
                Ok(messages)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Removes what is behind `after`, and returns what a removed row held up to there: to be appended again.
    pub(super) fn reopen_behind(self, conn: &Connection, after: u64) -> Result<Vec<Listed>> {
        const BEHIND: &str = "SELECT ids, others FROM message_lists
                               WHERE user_id = ?1 AND side = ?2 AND last_id > ?3 ORDER BY last_id LIMIT 1";
        let (user, side) = self.key();
        let first = conn
            .prepare_cached(BEHIND)?
            .query_row((user, side, int(after)), messages)
            .optional()?;
        self.cut(conn, after)?;
        let mut messages = first.unwrap_or_default();
        messages.retain(|message| message.id <= after);
        Ok(messages)
    }

    /// Removes the rows that end behind `after`.
    fn cut(self, conn: &Connection, after: u64) -> Result<()> {
        let (user, side) = self.key();
        conn.prepare_cached(
            "DELETE FROM message_lists WHERE user_id = ?1 AND side = ?2 AND last_id > ?3",
        )?
        .execute((user, side, int(after)))
        .map(drop)
    }

    /// Takes a message out, if it is there.
    pub(super) fn remove(self, conn: &Connection, id: u64) -> Result<()> {
        const EMPTIED: &str =
            "DELETE FROM message_lists WHERE user_id = ?1 AND side = ?2 AND last_id = ?3";
        const CHANGED: &str = "UPDATE message_lists SET ids = ?4, others = ?5 WHERE user_id = ?1 AND side = ?2 AND last_id = ?3";
        let (user, side) = self.key();
        let row = conn
            .prepare_cached(
                "SELECT ids, others, last_id FROM message_lists
                  WHERE user_id = ?1 AND side = ?2 AND last_id >= ?3 ORDER BY last_id LIMIT 1",
            )?
            .query_row((user, side, int(id)), |row| {
                Ok((messages(row)?, uint(row, 2)?))
            })
            .optional()?;
        let Some((mut messages, last)) = row else {
            return Ok(());
        };
        let Some(at) = messages.iter().position(|message| message.id == id) else {
            return Ok(());
        };
        messages.remove(at);
        if messages.is_empty() {
            return conn
                .prepare_cached(EMPTIED)?
                .execute((user, side, int(last)))
                .map(drop);
        }
        let (ids, others) = json(&messages)?;
        conn.prepare_cached(CHANGED)?
            .execute((user, side, int(last), ids, others))
            .map(drop)
    }

    /// The first `limit` ids of the range.
    pub(super) fn first(
        self,
        conn: &Connection,
        range: RangeInclusive<u64>,
        limit: usize,
    ) -> Result<BTreeSet<u64>> {
        let (user, side) = self.key();
        let mut statement = conn.prepare_cached(
            "SELECT ids FROM message_lists WHERE user_id = ?1 AND side = ?2 AND last_id >= ?3 ORDER BY last_id",
        )?;
        let mut rows = statement.query((user, side, int(*range.start())))?;
        let mut found = BTreeSet::new();
        while found.len() < limit
            && let Some(row) = rows.next()?
        {
            let ids = numbers(row, 0)?;
            let past = ids.last().is_some_and(|last| last > range.end());
            found.extend(
                ids.into_iter()
                    .filter(|id| range.contains(id))
                    .take(limit - found.len()),
            );
            if past {
                break;
            }
        }
        Ok(found)
    }

    /// Finds its rows that begin before ?2, the newest first. Each side has a text of its own, because the cache of
    /// statements has one of each text.
    fn newest_first(self, conn: &Connection) -> Result<CachedStatement<'_>> {
        let list = format!("user_id = ?1 AND side = {}", self.side as i64);
        // The row in which `before` would stand begins with lesser ids.
        conn.prepare_cached(&format!(
            "SELECT others, ids FROM message_lists
              WHERE {list} AND last_id <= coalesce((SELECT min(last_id) FROM message_lists
                                                     WHERE {list} AND last_id >= ?2), ?2)
              ORDER BY last_id DESC"
        ))
    }
}

/// The last `limit` ids before `before` of what one user sent to another. They are in the sender's list and in the
/// recipient's, among all the others: both are read in turns, so that the cost is that of the shorter one, which is read
/// whole when it has fewer.
pub(super) fn sent_to(
    conn: &Connection,
    from: u64,
    to: u64,
    before: u64,
    limit: usize,
) -> Result<BTreeSet<u64>> {
    let (mut sent, mut received) = (
        List::from(from).newest_first(conn)?,
        List::to(to).newest_first(conn)?,
    );
    let mut searches = [
        Search {
            rows: sent.query((int(from), int(before)))?,
            with: to,
            before,
            found: BTreeSet::new(),
        },
        Search {
            rows: received.query((int(to), int(before)))?,
            with: from,
            before,
            found: BTreeSet::new(),
        },
    ];
    loop {
        for search in &mut searches {
            if !search.read_on()? || search.found.len() >= limit {
                return Ok(std::mem::take(&mut search.found)
                    .into_iter()
                    .rev()
                    .take(limit)
                    .collect());
            }
        }
    }
}

/// Looks for messages with one user in a list, the newest rows first.
struct Search<'a> {
    rows: Rows<'a>,
    with: u64,
    before: u64,
    found: BTreeSet<u64>,
}

impl Search<'_> {
    /// Reads a row; false at the end.
    fn read_on(&mut self) -> Result<bool> {
        let Some(row) = self.rows.next()? else {
            return Ok(false);
        };
        let others = numbers(row, 0)?;
        if others.contains(&self.with) {
            let with = others
                .iter()
                .zip(numbers(row, 1)?)
                .filter(|(other, _)| **other == self.with)
                .map(|(_, id)| id);
            self.found.extend(with.filter(|id| *id < self.before));
        }
        Ok(true)
    }
}

/// The columns `ids` and `others`.
fn json(messages: &[Listed]) -> Result<(String, String)> {
    let column = |of: fn(&Listed) -> u64| {
        serde_json::to_string(&messages.iter().map(of).collect::<Vec<u64>>())
            .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
    };
    Ok((
        column(|message| message.id)?,
        column(|message| message.other)?,
    ))
}

/// From the columns `ids` and `others`, the first two of a row.
fn messages(row: &Row<'_>) -> Result<Vec<Listed>> {
    let (ids, others) = (numbers(row, 0)?, numbers(row, 1)?);
    if ids.len() != others.len() {
        return Err(damaged(format!(
            "{} ids and {} others",
            ids.len(),
            others.len()
        )));
    }
    Ok(ids
        .into_iter()
        .zip(others)
        .map(|(id, other)| Listed { id, other })
        .collect())
}

fn numbers(row: &Row<'_>, column: usize) -> Result<Vec<u64>> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|e| damaged(e.to_string()))
}

/// Final: this node's own table is at fault. Any other error would be taken for the entry's, which all nodes reject alike.
fn damaged(why: String) -> rusqlite::Error {
    let why = format!("a row of message_lists is damaged: {why}");
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(why))
}
