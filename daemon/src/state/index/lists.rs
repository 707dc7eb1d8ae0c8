//! The table `message_lists`: the messages to and from each user, a row each, with the other user.

use std::ops::RangeInclusive;

use rusqlite::{Connection, Result, Rows};

use crate::state::integers::{int, uint};

/// Rows that one statement inserts: this takes less time than a statement for each.
const ROWS_A_STATEMENT: usize = 16;

/// What the index knows of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexedMessage {
    /// The message.
    pub id: u64,
    /// Its sender.
    pub sender: u64,
    /// Its recipient.
    pub recipient: u64,
}

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

    /// The two lists that hold a message.
    pub(super) fn of(message: IndexedMessage) -> [List; 2] {
        [List::to(message.recipient), List::from(message.sender)]
    }

    /// The user who has a message of this list in the other one.
    fn other(self, message: IndexedMessage) -> u64 {
        match self.side {
            Side::Received => message.sender,
            Side::Sent => message.recipient,
        }
    }

    /// Deletes the row of a message if there is one.
    pub(super) fn remove(self, conn: &Connection, id: u64) -> Result<()> {
        conn.prepare_cached(
            "DELETE FROM message_lists WHERE user_id = ?1 AND side = ?2 AND id = ?3",
        )?
        .execute((int(self.user), self.side as i64, int(id)))
        .map(drop)
    }

    /// The first `limit` ids of the range, ascending.
    pub(super) fn first(
        self,
        conn: &Connection,
        range: RangeInclusive<u64>,
        limit: usize,
    ) -> Result<Vec<u64>> {
        let (from, through) = (int(*range.start()), int(*range.end()));
        conn.prepare_cached(
            "SELECT id FROM message_lists WHERE user_id = ?1 AND side = ?2 AND id BETWEEN ?3 AND ?4
              ORDER BY id LIMIT ?5",
        )?
        .query_map(
            (
                int(self.user),
                self.side as i64,
                from,
                through,
                int(limit as u64),
            ),
            |row| uint(row, 0),
        )?
        .collect()
    }
}

/// Writes rows, best in the table's order. A row that is there already is left: a merge that a crash cut off wrote it.
pub(super) fn insert(conn: &Connection, rows: &[(List, IndexedMessage)]) -> Result<()> {
    for rows in rows.chunks(ROWS_A_STATEMENT) {
        let values = ["(?,?,?,?)"; ROWS_A_STATEMENT][..rows.len()].join(",");
        let mut insert = conn.prepare_cached(&format!(
            "INSERT OR IGNORE INTO message_lists (user_id, side, id, other) VALUES {values}"
        ))?;
        for (at, (list, message)) in rows.iter().enumerate() {
            insert.raw_bind_parameter(4 * at + 1, int(list.user))?;
            insert.raw_bind_parameter(4 * at + 2, list.side as i64)?;
            insert.raw_bind_parameter(4 * at + 3, int(message.id))?;
            insert.raw_bind_parameter(4 * at + 4, int(list.other(*message)))?;
        }
        insert.raw_execute()?;
    }
    Ok(())
}

/// The last `limit` ids before `before` of what one user sent to another, newest first. They are in the sender's list
/// and in the recipient's, among all others. Both are read in turns, which costs twice the shorter one at most.
pub(super) fn sent_to(
    conn: &Connection,
    from: u64,
    to: u64,
    before: u64,
    limit: usize,
) -> Result<Vec<u64>> {
    // Two texts, because the cache of prepared statements holds one statement of each text.
    let mut sent = conn.prepare_cached(
        "SELECT id, other FROM message_lists WHERE user_id = ?1 AND side = 1 AND id < ?2 ORDER BY id DESC",
    )?;
    let mut received = conn.prepare_cached(
        "SELECT id, other FROM message_lists WHERE user_id = ?1 AND side = 0 AND id < ?2 ORDER BY id DESC",
    )?;
    let mut searches = [
        Search::new(sent.query((int(from), int(before)))?, to),
        Search::new(received.query((int(to), int(before)))?, from),
    ];
    loop {
        for search in &mut searches {
            if !search.read_on()? || search.found.len() >= limit {
                return Ok(std::mem::take(&mut search.found));
            }
        }
    }
}

/// Looks for messages with one user in a list, the newest first.
struct Search<'a> {
    rows: Rows<'a>,
    with: u64,
    found: Vec<u64>,
}

impl<'a> Search<'a> {
    fn new(rows: Rows<'a>, with: u64) -> Search<'a> {
        Search {
            rows,
            with,
            found: Vec::new(),
        }
    }

    /// Reads a row; false at the end.
    fn read_on(&mut self) -> Result<bool> {
        let Some(row) = self.rows.next()? else {
            return Ok(false);
        };
        if uint(row, 1)? == self.with {
            self.found.push(uint(row, 0)?);
        }
        Ok(true)
    }
}

/// The message up to which the table holds all.
pub(super) fn merged_through(conn: &Connection) -> Result<u64> {
    conn.prepare_cached("SELECT merged_through FROM message_index")?
        .query_row([], |row| uint(row, 0))
}

/// From now on the table holds all messages up to `id`.
pub(super) fn set_merged_through(conn: &Connection, id: u64) -> Result<()> {
    conn.prepare_cached("UPDATE message_index SET merged_through = ?1")?
        .execute([int(id)])
        .map(drop)
}
