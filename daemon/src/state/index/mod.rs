//! Which messages belong to a key, and to a user. Kept by each node for itself and not replicated: all of it
//! follows from `messages`.
//!
//! An index that SQLite keeps up to date costs a written page for nearly every message, because each user's entries
//! lie elsewhere; five of them cost more than everything else a send does. So the entries of the newest messages are
//! held in memory ([`Memtable`]) and written to the index tables thousands at a time, in the tables' order ([`Merge`]):
//! the way of a log-structured merge tree (O'Neil et al., 1996), with `messages` itself as its log. After a crash the
//! memory is filled again from the messages behind `message_index.merged_through`.
//!
//! **Invariant:** every message that a transaction sees is in the tables that it sees, or in the memtable. The other
//! way round does not hold: an entry may name a message that is not visible yet, or gone. Whoever reads skips it. (A
//! read that began before a snapshot was installed may miss messages that are gone by then.)

mod filter;
mod generation;
mod lists;
mod memtable;
mod merge;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Result, ffi};

pub use lists::List;
use memtable::Found;
pub use memtable::{MERGE_AT, Memtable, MergeSchedule};
pub use merge::Merge;

use super::sql::{int, uint};

/// What of a message is indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The message.
    pub id: u64,
    /// Its sender.
    pub sender: u64,
    /// Its recipient.
    pub recipient: u64,
    /// Its key, scoped to the sender.
    pub key: &'a str,
}

/// What a key was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// Nothing yet.
    Never,
    /// This message, which may be gone.
    Message(u64),
    /// If for anything, then for a message that is gone; `send_keys` knows.
    PerhapsGone,
}

/// What the sender's key was used for. For the writer, whose transaction and memtable always fit.
pub fn by_key(conn: &Connection, memtable: &Memtable, sender: u64, key: &str) -> Result<KeyUse> {
    match memtable.by_key(sender, key) {
        Found::Here(id) => Ok(KeyUse::Message(id)),
        Found::PerhapsInTables => {
            Ok(find_key(conn, sender, key)?.map_or(KeyUse::PerhapsGone, KeyUse::Message))
        }
        Found::Nowhere => {
            debug_assert!(
                !in_tables(conn, sender, key)?,
                "the filter denied a key of user {sender}"
            );
            Ok(KeyUse::Never)
        }
    }
}

/// What the table says of a key.
fn find_key(conn: &Connection, sender: u64, key: &str) -> Result<Option<u64>> {
    conn.prepare_cached("SELECT message_id FROM message_keys WHERE sender_id = ?1 AND key = ?2")?
        .query_row((int(sender), key), |row| uint(row, 0))
        .optional()
}

/// Whether any table holds the key.
fn in_tables(conn: &Connection, sender: u64, key: &str) -> Result<bool> {
    let gone = conn
        .prepare_cached("SELECT 1 FROM send_keys WHERE sender_id = ?1 AND key = ?2")?
        .query_row((int(sender), key), |_| Ok(()))
        .optional()?;
    Ok(gone.is_some() || find_key(conn, sender, key)?.is_some())
}

/// Forgets a message whose row goes in this transaction, and whose key goes to `send_keys`.
pub fn remove(conn: &Connection, memtable: &Memtable, entry: Entry<'_>) -> Result<()> {
    let Entry {
        id, sender, key, ..
    } = entry;
    memtable.is_gone(id, sender, key);
    conn.prepare_cached("DELETE FROM message_keys WHERE sender_id = ?1 AND key = ?2")?
        .execute((int(sender), key))?;
    List::of(entry)
        .into_iter()
        .try_for_each(|list| list.remove(conn, id))
}

/// The index as one transaction sees it.
pub struct Index<'a> {
    conn: &'a Connection,
    memtable: &'a Memtable,
    /// Messages up to this one are in the tables.
    merged_through: u64,
}

impl<'a> Index<'a> {
    /// Of the transaction that is open on `conn`.
    ///
    /// # Errors
    /// As all methods: SQLite's, or `SQLITE_BUSY` when the transaction is so old that the memory has gone on.
    pub fn of(conn: &'a Connection, memtable: &'a Memtable) -> Result<Index<'a>> {
        let merged_through = merged_through(conn)?;
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
        let mut ids = list.first(self.conn, range.clone(), limit)?;
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

fn merged_through(conn: &Connection) -> Result<u64> {
    conn.prepare_cached("SELECT merged_through FROM message_index")?
        .query_row([], |row| uint(row, 0))
}
