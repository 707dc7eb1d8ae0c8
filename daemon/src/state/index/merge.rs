//! Writing a generation of the memtable to the tables, in their order and in capped transactions.

use std::collections::HashSet;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Result, ffi};

use super::memtable::Generation;
use super::{Memtable, find_key};
use crate::state::sql::int;

/// One row of an index table.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    Key { sender: u64, key: Box<str>, id: u64 },
    Box { user: u64, side: i64, id: u64 },
    Pair { low: u64, high: u64, id: u64 },
}

impl Row {
    fn id(&self) -> u64 {
        match self {
            Row::Key { id, .. } | Row::Box { id, .. } | Row::Pair { id, .. } => *id,
        }
    }

    fn key(&self) -> Option<(u64, &str)> {
        match self {
            Row::Key { sender, key, .. } => Some((*sender, key)),
            Row::Box { .. } | Row::Pair { .. } => None,
        }
    }
}

/// A merge under way.
pub struct Merge {
    rows: Vec<Row>,
    written: usize,
    through: u64,
}

impl Merge {
    /// The next one, if one is due.
    pub fn begin(memtable: &Memtable) -> Option<Merge> {
        let generation = memtable.freeze()?;
        let mut rows = rows(&generation);
        rows.sort_unstable();
        Some(Merge { rows, written: 0, through: generation.last })
    }

    /// Rows that are still to be written.
    pub fn left(&self) -> usize {
        self.rows.len() - self.written
    }

    /// Writes at most `at_most` rows in the open transaction. True: that was the last; [`Merge::committed`] is to be
    /// called after the COMMIT.
    pub fn piece(&mut self, conn: &Connection, memtable: &Memtable, at_most: usize) -> Result<bool> {
        let to = self.rows.len().min(self.written + at_most);
        let rows = &self.rows[self.written..to];
        let gone = really_gone(conn, memtable, rows)?;
        // Before their table holds them: whoever finds no key here need not look there.
        memtable.in_table(rows.iter().filter_map(Row::key));
        let mut tables = Tables::of(conn)?;
        for row in rows.iter().filter(|row| !gone.contains(&row.id())) {
            tables.insert(row)?;
        }
        self.written = to;
        let last = to == self.rows.len();
        if last {
            conn.prepare_cached("UPDATE message_index SET merged_through = ?1")?.execute([int(self.through)])?;
        }
        Ok(last)
    }

    /// The last piece is committed.
    pub fn committed(self, memtable: &Memtable) {
        memtable.merged();
    }
}

fn rows(generation: &Generation) -> Vec<Row> {
    let mut rows = Vec::with_capacity(generation.messages * 4);
    for (sender, keys) in &generation.keys {
        rows.extend(keys.iter().map(|(key, id)| Row::Key { sender: *sender, key: key.clone(), id: *id }));
    }
    for ((user, side), ids) in &generation.boxes {
        rows.extend(ids.iter().map(|id| Row::Box { user: *user, side: *side as i64, id: *id }));
    }
    for ((low, high), ids) in &generation.pairs {
        rows.extend(ids.iter().map(|id| Row::Pair { low: *low, high: *high, id: *id }));
    }
    rows
}

/// The statements of one piece. What a crash cut off from its merge is written again: rows that are there already are
/// meant to be.
struct Tables<'a> {
    conn: &'a Connection,
    keys: CachedStatement<'a>,
    boxes: CachedStatement<'a>,
    pairs: CachedStatement<'a>,
}

impl<'a> Tables<'a> {
    fn of(conn: &'a Connection) -> Result<Tables<'a>> {
        Ok(Tables {
            conn,
            keys: conn.prepare_cached(
                "INSERT OR IGNORE INTO message_keys (sender_id, key, message_id) VALUES (?1, ?2, ?3)",
            )?,
            boxes: conn.prepare_cached(
                "INSERT OR IGNORE INTO message_boxes (user_id, side, message_id) VALUES (?1, ?2, ?3)",
            )?,
            pairs: conn.prepare_cached(
                "INSERT OR IGNORE INTO message_pairs (low_id, high_id, message_id) VALUES (?1, ?2, ?3)",
            )?,
        })
    }

    fn insert(&mut self, row: &Row) -> Result<usize> {
        match row {
            Row::Key { sender, key, id } => match self.keys.execute((int(*sender), key, int(*id)))? {
                0 => self.same_key(*sender, key, *id),
                written => Ok(written),
            },
            Row::Box { user, side, id } => self.boxes.execute((int(*user), side, int(*id))),
            Row::Pair { low, high, id } => self.pairs.execute((int(*low), int(*high), int(*id))),
        }
    }

    /// A key that is there already must be this message's: two messages under one key would be a message doubled.
    fn same_key(&self, sender: u64, key: &str, id: u64) -> Result<usize> {
        match find_key(self.conn, sender, key)? {
            Some(found) if found == id => Ok(0),
            found => {
                let why = format!("messages {found:?} and {id} of user {sender} have the same key");
                Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(why)))
            }
        }
    }
}

/// Of these rows' messages those that are gone. A change that was taken back left its messages where they were.
fn really_gone(conn: &Connection, memtable: &Memtable, rows: &[Row]) -> Result<HashSet<u64>> {
    let said = memtable.gone();
    if said.is_empty() {
        return Ok(said);
    }
    let mut gone: HashSet<u64> = rows.iter().map(Row::id).filter(|id| said.contains(id)).collect();
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
