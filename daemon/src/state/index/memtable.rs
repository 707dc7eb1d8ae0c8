//! The entries of the newest messages. Shared by the writer, which adds and merges, and the readers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Result};

use super::{Entry, Side, merged_through, pair};
use crate::state::sql::{int, uint};

/// Messages after which the entries collected so far are merged into the tables: enough that a page written takes
/// many of them, few enough that they are read again in tens of milliseconds after a crash.
pub const MERGE_AT: usize = 8_192;

/// The memory part of the index; clones are the same one.
#[derive(Clone)]
pub struct Memtable {
    generations: Arc<Mutex<Generations>>,
    merge_at: usize,
}

/// One is filled, one is merged, one was: a read transaction that began before the merge was committed still needs it.
#[derive(Default)]
struct Generations {
    /// Every message with a greater id is in one of these.
    after: u64,
    merged: Option<Arc<Generation>>,
    merging: Option<Arc<Generation>>,
    active: Generation,
    /// Messages whose rows went before their entries were merged.
    gone: HashSet<u64>,
}

/// Entries of consecutive messages.
#[derive(Default)]
pub(super) struct Generation {
    /// The greatest id.
    pub last: u64,
    pub messages: usize,
    /// sender → key → message
    pub keys: HashMap<u64, HashMap<Box<str>, u64>>,
    /// Ascending.
    pub boxes: HashMap<(u64, Side), Vec<u64>>,
    /// Ascending.
    pub pairs: HashMap<(u64, u64), Vec<u64>>,
}

impl Generation {
    fn add(&mut self, entry: Entry<'_>) {
        let Entry { id, sender, recipient, key } = entry;
        self.last = id;
        self.messages += 1;
        self.keys.entry(sender).or_default().insert(key.into(), id);
        self.boxes.entry((sender, Side::Sent)).or_default().push(id);
        self.boxes.entry((recipient, Side::Received)).or_default().push(id);
        self.pairs.entry(pair(sender, recipient)).or_default().push(id);
    }
}

impl Generations {
    fn all(&self) -> impl Iterator<Item = &Generation> {
        self.merged.as_deref().into_iter().chain(self.merging.as_deref()).chain(std::iter::once(&self.active))
    }
}

impl Memtable {
    /// Empty. A merge is due when `merge_at` messages have come together ([`MERGE_AT`]).
    pub fn new(merge_at: usize) -> Memtable {
        Memtable { generations: Arc::default(), merge_at: merge_at.max(1) }
    }

    /// Of the messages that are not in the tables yet.
    pub fn load(conn: &Connection, merge_at: usize) -> Result<Memtable> {
        let memtable = Memtable::new(merge_at);
        memtable.reload(conn)?;
        Ok(memtable)
    }

    /// Begins anew: the state was replaced by a snapshot's. To be called before its COMMIT, so that no reader sees
    /// the new messages without their entries.
    pub fn reload(&self, conn: &Connection) -> Result<()> {
        let after = merged_through(conn)?;
        let mut active = Generation { last: after, ..Generation::default() };
        let mut statement =
            conn.prepare("SELECT id, sender_id, recipient_id, key FROM messages WHERE id > ?1 ORDER BY id")?;
        let mut found = statement.query([int(after)])?;
        while let Some(row) = found.next()? {
            let key = row.get_ref(3)?.as_str()?;
            active.add(Entry { id: uint(row, 0)?, sender: uint(row, 1)?, recipient: uint(row, 2)?, key });
        }
        *self.lock() = Generations { after, active, ..Generations::default() };
        Ok(())
    }

    /// A message that the open transaction inserts. The last thing that its change does: nothing takes it back.
    pub fn add(&self, entry: Entry<'_>) {
        self.lock().active.add(entry);
    }

    pub(super) fn by_key(&self, sender: u64, key: &str) -> Option<u64> {
        self.lock().all().find_map(|generation| generation.keys.get(&sender)?.get(key).copied())
    }

    /// `None`: messages behind `merged_through` have left the memory.
    pub(super) fn list(
        &self,
        merged_through: u64,
        list: (u64, Side),
        after: u64,
        through: u64,
        limit: usize,
    ) -> Option<Vec<u64>> {
        let generations = self.lock();
        if generations.after > merged_through {
            return None;
        }
        let mut found = Vec::new();
        for ids in generations.all().filter_map(|generation| generation.boxes.get(&list)) {
            let from = ids.partition_point(|id| *id <= after);
            found.extend(ids[from..].iter().take_while(|id| **id <= through).take(limit - found.len()));
        }
        Some(found)
    }

    /// As [`Memtable::list`], newest first.
    pub(super) fn between(&self, merged_through: u64, pair: (u64, u64), before: u64, limit: usize) -> Option<Vec<u64>> {
        let generations = self.lock();
        if generations.after > merged_through {
            return None;
        }
        let lists: Vec<&Vec<u64>> = generations.all().filter_map(|generation| generation.pairs.get(&pair)).collect();
        let mut found = Vec::new();
        for ids in lists.into_iter().rev() {
            let to = ids.partition_point(|id| *id < before);
            found.extend(ids[..to].iter().rev().take(limit - found.len()));
        }
        Some(found)
    }

    /// What is to be merged next, once enough has come together.
    pub(super) fn freeze(&self) -> Option<Arc<Generation>> {
        let mut generations = self.lock();
        if generations.merging.is_none() && generations.active.messages >= self.merge_at {
            let next = Generation { last: generations.active.last, ..Generation::default() };
            generations.merging = Some(Arc::new(std::mem::replace(&mut generations.active, next)));
            return generations.merging.clone();
        }
        None
    }

    /// The row of this message goes, unless its change is taken back.
    pub(super) fn is_gone(&self, id: u64) {
        let mut generations = self.lock();
        if id > generations.after {
            generations.gone.insert(id);
        }
    }

    pub(super) fn gone(&self) -> HashSet<u64> {
        self.lock().gone.clone()
    }

    /// The merge is committed.
    pub(super) fn merged(&self) {
        let mut generations = self.lock();
        let through = generations.merged.as_ref().map(|generation| generation.last);
        generations.after = through.unwrap_or(generations.after);
        generations.merged = generations.merging.take();
        let merged_through = generations.merged.as_ref().map_or(0, |generation| generation.last);
        generations.gone.retain(|id| *id > merged_through);
    }

    /// How far the memory is behind: from 1 on another merge is due while one is under way.
    pub fn backlog(&self) -> usize {
        self.lock().active.messages / self.merge_at
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        // A holder can only panic when memory runs out.
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
