//! Writing a generation of the memtable to the table, in its order and in capped transactions.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{Connection, Result};

use super::generation::Generation;
use super::lists::{self, IndexedMessage, List};
use super::memtable::Memtable;
use crate::state::integers::int;

/// A merge under way.
pub struct Merge {
    generation: Arc<Generation>,
    /// Rows to be written, in the table's order.
    left: std::vec::IntoIter<(List, IndexedMessage)>,
}

impl Merge {
    /// The next one, if one is due.
    pub fn begin(memtable: &Memtable) -> Option<Merge> {
        let generation = memtable.freeze()?;
        Some(Merge {
            left: generation.in_order_of_lists().into_iter(),
            generation,
        })
    }

    /// Rows that are still to be written: two a message.
    pub fn left(&self) -> usize {
        self.left.len()
    }

    /// Writes at most `at_most` rows in the open transaction. True: those were the last; [`Merge::committed`] is to be
    /// called after the COMMIT.
    ///
    /// # Errors
    /// SQLite's.
    pub fn piece(
        &mut self,
        conn: &Connection,
        memtable: &Memtable,
        at_most: usize,
    ) -> Result<bool> {
        let mut rows: Vec<(List, IndexedMessage)> = self.left.by_ref().take(at_most).collect();
        let said_gone = memtable.gone();
        if !said_gone.is_empty() {
            let gone = really_gone(conn, &said_gone, rows.iter().map(|(_, message)| message.id))?;
            rows.retain(|(_, message)| !gone.contains(&message.id));
        }
        lists::insert(conn, &rows)?;
        let whole = self.left() == 0;
        if whole {
            lists::set_merged_through(conn, self.generation.last)?;
        }
        Ok(whole)
    }

    /// The last piece is committed.
    pub fn committed(self, memtable: &Memtable) {
        memtable.merged();
    }
}

/// Of these messages those that are gone as was said. A change that was rolled back left its messages where they were.
fn really_gone(
    conn: &Connection,
    said: &HashSet<u64>,
    ids: impl Iterator<Item = u64>,
) -> Result<HashSet<u64>> {
    let mut there = conn.prepare_cached("SELECT 1 FROM messages WHERE id = ?1")?;
    let mut gone = HashSet::new();
    for id in ids.filter(|id| said.contains(id)) {
        if !there.exists([int(id)])? {
            gone.insert(id);
        }
    }
    Ok(gone)
}
