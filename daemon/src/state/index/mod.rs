//! Which messages belong to a user's lists: received and sent. Each node keeps this index for itself; it is not
//! replicated, because all of it follows from `messages`.
//!
//! An SQL index on the recipient would write a page for nearly every message, because the entries of each user lie
//! elsewhere: two of them cost more than everything else a send does. So the newest messages are held in memory
//! ([`Memtable`]) and written to `message_lists` thousands at a time, in the table's order ([`Merge`]). This is a
//! log-structured merge tree (O'Neil et al., 1996) with `messages` as its log. After a crash the memory is filled
//! again from the messages behind `message_index.merged_through`.
//!
//! **Invariant:** every message that a transaction sees is in the table that it sees, or in the memtable. The reverse
//! does not hold: the index may name a message that is not visible yet, or gone. Readers skip such an id. (A read that
//! began before a snapshot was installed may miss messages that are gone by then.)

mod generation;
mod lists;
mod memtable;
mod merge;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use rusqlite::{Connection, Result, ffi};

pub use lists::{IndexedMessage, List};
pub use memtable::{MERGE_AT, Memtable, MergeSchedule};
pub use merge::Merge;

/// Forgets a message whose row is deleted in this transaction.
///
/// # Errors
/// SQLite's.
pub fn remove(conn: &Connection, memtable: &Memtable, message: IndexedMessage) -> Result<()> {
    memtable.is_gone(message.id);
    List::of(message)
        .into_iter()
        .try_for_each(|list| list.remove(conn, message.id))
}

/// The index as one transaction sees it.
pub struct Index<'a> {
    conn: &'a Connection,
    memtable: &'a Memtable,
    /// Messages up to this one are in the table.
    merged_through: u64,
}

impl<'a> Index<'a> {
    /// Of the transaction that is open on `conn`.
    ///
    /// # Errors
    /// As all methods: SQLite's, or `SQLITE_BUSY` when the transaction is so old that the memory has gone on.
    pub fn of(conn: &'a Connection, memtable: &'a Memtable) -> Result<Index<'a>> {
        let merged_through = lists::merged_through(conn)?;
        Ok(Index {
            conn,
            memtable,
            merged_through,
        })
    }

    /// Ids of at most `limit` messages of a list, greater than `after` and not greater than `through`, ascending.
    pub fn list(&self, list: List, after: u64, through: u64, limit: usize) -> Result<Vec<u64>> {
        // No id is the greatest number.
        let range = after.saturating_add(1)..=through;
        // A merge under way has written some messages that are still in memory.
        let mut ids = BTreeSet::from_iter(list.first(self.conn, range.clone(), limit)?);
        ids.extend(self.fitting(self.memtable.first(self.merged_through, list, range, limit))?);
        Ok(ids.into_iter().take(limit).collect())
    }

    /// Ids of at most `limit` messages between two users, less than `before`, descending; fewer: there are no more.
    /// Costs more the more messages both of them had with others since, and all that either had when there are fewer.
    pub fn between(&self, a: u64, b: u64, before: u64, limit: usize) -> Result<Vec<u64>> {
        let mut ids = BTreeSet::new();
        let directions = [(a, b), (b, a)];
        for (from, to) in directions.into_iter().take(if a == b { 1 } else { 2 }) {
            ids.extend(lists::sent_to(self.conn, from, to, before, limit)?);
            ids.extend(self.fitting(self.memtable.sent_to(
                self.merged_through,
                from,
                to,
                before,
                limit,
            ))?);
        }
        Ok(ids.into_iter().rev().take(limit).collect())
    }

    fn fitting(&self, found: Option<Vec<u64>>) -> Result<Vec<u64>> {
        found.ok_or_else(|| {
            let why = "this read began too long ago".to_owned();
            rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), Some(why))
        })
    }
}
