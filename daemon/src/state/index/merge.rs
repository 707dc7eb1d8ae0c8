//! Writing a generation of the memtable to the tables, in their order and in capped transactions.

use std::collections::HashSet;
use std::iter::Peekable;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Result, ffi};

use super::generation::Generation;
use super::lists::ROW_MESSAGES_MAX;
use super::{Entry, List, Memtable, find_key};
use crate::state::sql::int;

/// Keys that one statement inserts: two thirds of the time that single ones take; more of them save nothing.
const KEYS_A_STATEMENT: usize = 8;

/// What is still to be written, in the table's order.
enum Left {
    /// Numbers of the generation's messages.
    Keys(std::vec::IntoIter<u32>),
    /// The same for each of their lists.
    Lists(Peekable<std::vec::IntoIter<(List, u32)>>),
}

/// A merge under way: the keys, then the lists.
pub struct Merge {
    generation: Arc<Generation>,
    left: Left,
    /// Where the lists are at.
    list: Option<List>,
}

impl Merge {
    /// The next one, if one is due.
    pub fn begin(memtable: &Memtable) -> Option<Merge> {
        let generation = memtable.freeze()?;
        Some(Merge {
            left: Left::Keys(generation.in_order_of_keys().into_iter()),
            generation,
            list: None,
        })
    }

    /// What is still to be written: keys, and places in lists.
    pub fn left(&self) -> usize {
        match &self.left {
            Left::Keys(numbers) => numbers.len() + 2 * self.generation.messages(),
            Left::Lists(listed) => listed.len(),
        }
    }

    /// Writes at most `at_most` rows in the open transaction. True: those were the last; [`Merge::committed`] is to be
    /// called after the COMMIT.
    pub fn piece(
        &mut self,
        conn: &Connection,
        memtable: &Memtable,
        at_most: usize,
    ) -> Result<bool> {
        match &mut self.left {
            Left::Keys(numbers) => {
                let some: Vec<u32> = numbers.take(at_most).collect();
                write_keys(conn, memtable, &self.generation, &some)?;
                if numbers.len() == 0 {
                    self.left =
                        Left::Lists(self.generation.in_order_of_lists().into_iter().peekable());
                }
            }
            Left::Lists(_) => self.write_lists(conn, memtable, at_most)?,
        }
        let whole = self.left() == 0;
        if whole {
            conn.prepare_cached("UPDATE message_index SET merged_through = ?1")?
                .execute([int(self.generation.last)])?;
        }
        Ok(whole)
    }

    fn write_lists(
        &mut self,
        conn: &Connection,
        memtable: &Memtable,
        at_most: usize,
    ) -> Result<()> {
        let Left::Lists(left) = &mut self.left else {
            return Ok(());
        };
        let said_gone = memtable.gone();
        let mut row = Vec::with_capacity(ROW_MESSAGES_MAX);
        for _ in 0..at_most {
            let Some((list, _)) = left.peek().copied() else {
                break;
            };
            row.clear();
            if self.list != Some(list) {
                if self.generation.begun {
                    row = list.reopen_behind(conn, self.generation.after)?;
                }
                if row.is_empty() {
                    row = list.reopen(conn)?;
                }
                self.list = Some(list);
            }
            while row.len() < ROW_MESSAGES_MAX
                && let Some((_, number)) = left.next_if(|(other, _)| *other == list)
            {
                row.push(list.listed(self.generation.entry(number)));
            }
            let gone = really_gone(conn, &said_gone, row.iter().map(|message| message.id))?;
            row.retain(|message| !gone.contains(&message.id));
            list.append(conn, &row)?;
        }
        Ok(())
    }

    /// The last piece is committed.
    pub fn committed(self, memtable: &Memtable) {
        memtable.merged();
    }
}

/// What a crash cut off from its merge is written again: keys that are there already are meant to be.
fn write_keys(
    conn: &Connection,
    memtable: &Memtable,
    generation: &Generation,
    numbers: &[u32],
) -> Result<()> {
    let entries = || numbers.iter().map(|number| generation.entry(*number));
    let gone = really_gone(conn, &memtable.gone(), entries().map(|entry| entry.id))?;
    // Before their table holds them: whoever finds no key here need not look there.
    memtable.in_table(entries().map(|entry| (entry.sender, entry.key)));
    let there: Vec<Entry<'_>> = entries()
        .filter(|entry| !gone.contains(&entry.id))
        .collect();
    for some in there.chunks(KEYS_A_STATEMENT) {
        let values = ["(?,?,?)"; KEYS_A_STATEMENT][..some.len()].join(",");
        let sql = format!(
            "INSERT OR IGNORE INTO message_keys (key, sender_id, message_id) VALUES {values}"
        );
        let mut insert = conn.prepare_cached(&sql)?;
        for (at, entry) in some.iter().enumerate() {
            insert.raw_bind_parameter(3 * at + 1, entry.key)?;
            insert.raw_bind_parameter(3 * at + 2, int(entry.sender))?;
            insert.raw_bind_parameter(3 * at + 3, int(entry.id))?;
        }
        if insert.raw_execute()? < some.len() {
            some.iter()
                .try_for_each(|entry| must_be_the_same(conn, *entry))?;
        }
    }
    Ok(())
}

/// A key that is there already must be this message's: two messages under one key would be a message doubled.
fn must_be_the_same(conn: &Connection, entry: Entry<'_>) -> Result<()> {
    let Entry {
        id, sender, key, ..
    } = entry;
    match find_key(conn, sender, key)? {
        Some(found) if found == id => Ok(()),
        found => {
            let why = format!("messages {found:?} and {id} of user {sender} have the same key");
            Err(rusqlite::Error::SqliteFailure(
                ffi::Error::new(ffi::SQLITE_CORRUPT),
                Some(why),
            ))
        }
    }
}

/// Of these messages those that are gone as was said. A change that was taken back left its messages where they were.
fn really_gone(
    conn: &Connection,
    said: &HashSet<u64>,
    ids: impl Iterator<Item = u64>,
) -> Result<HashSet<u64>> {
    if said.is_empty() {
        return Ok(HashSet::new());
    }
    let mut gone: HashSet<u64> = ids.filter(|id| said.contains(id)).collect();
    let mut there = Vec::new();
    for id in &gone {
        let row = conn
            .prepare_cached("SELECT 1 FROM messages WHERE id = ?1")?
            .query_row([int(*id)], |_| Ok(()));
        if row.optional()?.is_some() {
            there.push(*id);
        }
    }
    for id in there {
        gone.remove(&id);
    }
    Ok(gone)
}
