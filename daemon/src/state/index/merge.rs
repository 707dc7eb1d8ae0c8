//! Writing a generation of the memtable to the tables, in their order and in capped transactions.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Result, ffi};

use super::generation::Generation;
use super::{Entry, Memtable, Side, find_key, pair};
use crate::state::sql::int;

/// What is written of each message: its key, a row in each of two boxes, its pair.
const ROWS_A_MESSAGE: usize = 4;

/// Rows of one table, in its order.
enum Rows {
    /// Numbers of the generation's messages.
    Keys(Vec<u32>),
    /// User, side, message.
    Boxes(Vec<(u64, Side, u64)>),
    /// Lesser and greater user, message.
    Pairs(Vec<(u64, u64, u64)>),
}

/// A merge under way, a table after the other.
pub struct Merge {
    generation: Arc<Generation>,
    /// Of the table that it is at.
    rows: Rows,
    /// Of these.
    written: usize,
    /// Of all tables.
    left: usize,
}

impl Rows {
    fn first(generation: &Generation) -> Rows {
        Rows::Keys(generation.in_order_of_keys())
    }

    /// The next table's; `None` after the last.
    fn next(&self, generation: &Generation) -> Option<Rows> {
        match self {
            Rows::Keys(_) => {
                let sides = |e: Entry<'_>| [(e.sender, Side::Sent, e.id), (e.recipient, Side::Received, e.id)];
                let mut rows: Vec<_> = generation.entries().flat_map(sides).collect();
                rows.sort_unstable();
                Some(Rows::Boxes(rows))
            }
            Rows::Boxes(_) => {
                let row = |e: Entry<'_>| {
                    let (low, high) = pair(e.sender, e.recipient);
                    (low, high, e.id)
                };
                let mut rows: Vec<_> = generation.entries().map(row).collect();
                rows.sort_unstable();
                Some(Rows::Pairs(rows))
            }
            Rows::Pairs(_) => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Rows::Keys(rows) => rows.len(),
            Rows::Boxes(rows) => rows.len(),
            Rows::Pairs(rows) => rows.len(),
        }
    }
}

impl Merge {
    /// The next one, if one is due.
    pub fn begin(memtable: &Memtable) -> Option<Merge> {
        let generation = memtable.freeze()?;
        let left = generation.messages() * ROWS_A_MESSAGE;
        Some(Merge { rows: Rows::first(&generation), generation, written: 0, left })
    }

    /// Rows that are still to be written.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Writes at most `at_most` rows in the open transaction. True: that was the last; [`Merge::committed`] is to be
    /// called after the COMMIT.
    pub fn piece(&mut self, conn: &Connection, memtable: &Memtable, at_most: usize) -> Result<bool> {
        let from = self.written;
        let to = self.rows.len().min(from + at_most);
        match &self.rows {
            Rows::Keys(numbers) => write_keys(conn, memtable, &self.generation, &numbers[from..to])?,
            Rows::Boxes(rows) => write_boxes(conn, memtable, &rows[from..to])?,
            Rows::Pairs(rows) => write_pairs(conn, memtable, &rows[from..to])?,
        }
        self.written = to;
        self.left -= to - from;
        if to < self.rows.len() {
            return Ok(false);
        }
        if let Some(rows) = self.rows.next(&self.generation) {
            self.rows = rows;
            self.written = 0;
            return Ok(false);
        }
        conn.prepare_cached("UPDATE message_index SET merged_through = ?1")?.execute([int(self.generation.last)])?;
        Ok(true)
    }

    /// The last piece is committed.
    pub fn committed(self, memtable: &Memtable) {
        memtable.merged();
    }
}

// What a crash cut off from its merge is written again: rows that are there already are meant to be.

fn write_keys(conn: &Connection, memtable: &Memtable, generation: &Generation, numbers: &[u32]) -> Result<()> {
    let entries = || numbers.iter().map(|number| generation.entry(*number));
    let gone = really_gone(conn, memtable, entries().map(|entry| entry.id))?;
    // Before their table holds them: whoever finds no key here need not look there.
    memtable.in_table(entries().map(|entry| (entry.sender, entry.key)));
    let mut insert =
        conn.prepare_cached("INSERT OR IGNORE INTO message_keys (key, sender_id, message_id) VALUES (?1, ?2, ?3)")?;
    for entry in entries().filter(|entry| !gone.contains(&entry.id)) {
        if insert.execute((entry.key, int(entry.sender), int(entry.id)))? == 0 {
            must_be_the_same(conn, entry)?;
        }
    }
    Ok(())
}

/// A key that is there already must be this message's: two messages under one key would be a message doubled.
fn must_be_the_same(conn: &Connection, entry: Entry<'_>) -> Result<()> {
    let Entry { id, sender, key, .. } = entry;
    match find_key(conn, sender, key)? {
        Some(found) if found == id => Ok(()),
        found => {
            let why = format!("messages {found:?} and {id} of user {sender} have the same key");
            Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(why)))
        }
    }
}

fn write_boxes(conn: &Connection, memtable: &Memtable, rows: &[(u64, Side, u64)]) -> Result<()> {
    let gone = really_gone(conn, memtable, rows.iter().map(|row| row.2))?;
    let mut insert =
        conn.prepare_cached("INSERT OR IGNORE INTO message_boxes (user_id, side, message_id) VALUES (?1, ?2, ?3)")?;
    for (user, side, id) in rows.iter().filter(|row| !gone.contains(&row.2)) {
        insert.execute((int(*user), *side as i64, int(*id)))?;
    }
    Ok(())
}

fn write_pairs(conn: &Connection, memtable: &Memtable, rows: &[(u64, u64, u64)]) -> Result<()> {
    let gone = really_gone(conn, memtable, rows.iter().map(|row| row.2))?;
    let mut insert =
        conn.prepare_cached("INSERT OR IGNORE INTO message_pairs (low_id, high_id, message_id) VALUES (?1, ?2, ?3)")?;
    for (low, high, id) in rows.iter().filter(|row| !gone.contains(&row.2)) {
        insert.execute((int(*low), int(*high), int(*id)))?;
    }
    Ok(())
}

/// Of these messages those that are gone. A change that was taken back left its messages where they were.
fn really_gone(conn: &Connection, memtable: &Memtable, ids: impl Iterator<Item = u64>) -> Result<HashSet<u64>> {
    let said = memtable.gone();
    if said.is_empty() {
        return Ok(said);
    }
    let mut gone: HashSet<u64> = ids.filter(|id| said.contains(id)).collect();
    let mut there = Vec::new();
    for id in &gone {
        let row = conn.prepare_cached("SELECT 1 FROM messages WHERE id = ?1")?.query_row([int(*id)], |_| Ok(()));
        if row.optional()?.is_some() {
            there.push(*id);
        }
    }
    for id in there {
        gone.remove(&id);
    }
    Ok(gone)
}
