//! The newest messages, which are not in the table yet. Shared by the writer, which adds and merges, and the readers.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Result};

use super::generation::Generation;
use super::lists::{IndexedMessage, List, merged_through};
use crate::state::integers::{int, uint};

/// Messages after which those collected so far are merged into the table: enough that a written page takes many of
/// them, few enough that they take little memory and are read again in tens of milliseconds after a crash.
pub const MERGE_AT: usize = 16_384;

/// An emptied generation of at most this many merges' messages is kept for its allocations.
const SPARE_MAX: usize = 2;

/// The memory part of the index; clones are the same one.
#[derive(Clone)]
pub struct Memtable {
    generations: Arc<Mutex<Generations>>,
    schedule: MergeSchedule,
}

/// When a node merges. All nodes add the same messages at the same time: did all of them merge at the same time too, no
/// majority would be quick meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct MergeSchedule {
    /// Messages after which at the latest ([`MERGE_AT`]).
    pub at: usize,
    /// Preferably when an id is this much above a multiple of `at`.
    pub phase: usize,
}

impl MergeSchedule {
    /// Nodes with consecutive numbers take turns, of three.
    pub fn of_node(node: u64, at: usize) -> MergeSchedule {
        const TURNS: u64 = 3;
        // Below three, so it fits.
        MergeSchedule {
            at: at.max(1),
            phase: at / TURNS as usize * (node % TURNS) as usize,
        }
    }

    /// Whether messages with ids in (`after`, `last`] are to be merged: fewer than a fourth of `at` never are.
    fn is_due(self, messages: usize, after: u64, last: u64) -> bool {
        const LEAST: usize = 4;
        let turn = |id: u64| (id + (self.at - self.phase) as u64) / self.at as u64;
        messages >= self.at || (messages >= self.at / LEAST && turn(last) > turn(after))
    }
}

/// One is filled, one is merged, one was: a read transaction that began before the merge was committed still needs it.
#[derive(Default)]
struct Generations {
    /// Every message with a greater id is in one of these.
    after: u64,
    /// Messages added since the start, or since a snapshot was installed.
    added: u64,
    merged: Option<Arc<Generation>>,
    merging: Option<Arc<Generation>>,
    active: Generation,
    /// Empty: the allocations of the last one that no reader needs any more.
    spare: Generation,
    /// Messages that were deleted before they were merged.
    gone: HashSet<u64>,
}

impl Generations {
    fn all(&self) -> impl DoubleEndedIterator<Item = &Generation> {
        self.merged
            .as_deref()
            .into_iter()
            .chain(self.merging.as_deref())
            .chain(std::iter::once(&self.active))
    }
}

impl Memtable {
    /// Empty.
    pub fn new(schedule: MergeSchedule) -> Memtable {
        Memtable {
            generations: Arc::default(),
            schedule,
        }
    }

    /// Of the messages that are not in the table yet.
    ///
    /// # Errors
    /// SQLite's.
    pub fn load(conn: &Connection, schedule: MergeSchedule) -> Result<Memtable> {
        let memtable = Memtable::new(schedule);
        memtable.reload(conn)?;
        Ok(memtable)
    }

    /// Begins anew: the state was replaced by a snapshot's. To be called before its COMMIT, so that no reader sees
    /// the new messages and misses them in the index.
    ///
    /// # Errors
    /// SQLite's.
    pub fn reload(&self, conn: &Connection) -> Result<()> {
        let after = merged_through(conn)?;
        let mut new = Generations {
            after,
            active: Generation::behind(after),
            ..Generations::default()
        };
        let mut statement = conn.prepare(
            "SELECT id, sender_id, recipient_id FROM messages WHERE id > ?1 ORDER BY id",
        )?;
        let mut found = statement.query([int(after)])?;
        while let Some(row) = found.next()? {
            new.active.add(IndexedMessage {
                id: uint(row, 0)?,
                sender: uint(row, 1)?,
                recipient: uint(row, 2)?,
            });
        }
        *self.lock() = new;
        Ok(())
    }

    /// A message that the open transaction inserts. The last thing that its change does: nothing takes it back.
    pub fn add(&self, message: IndexedMessage) {
        let mut generations = self.lock();
        generations.active.add(message);
        generations.added += 1;
    }

    /// The first `limit` ids of the range. `None`: messages behind `merged_through` have left the memory.
    pub(super) fn first(
        &self,
        merged_through: u64,
        list: List,
        range: RangeInclusive<u64>,
        limit: usize,
    ) -> Option<Vec<u64>> {
        let generations = self.lock();
        if generations.after > merged_through {
            return None;
        }
        Some(
            generations
                .all()
                .flat_map(|generation| generation.list(list, range.clone()))
                .take(limit)
                .collect(),
        )
    }

    /// As [`Memtable::first`]: ids less than `before` of what one user sent to another, newest first.
    pub(super) fn sent_to(
        &self,
        merged_through: u64,
        from: u64,
        to: u64,
        before: u64,
        limit: usize,
    ) -> Option<Vec<u64>> {
        let generations = self.lock();
        if generations.after > merged_through {
            return None;
        }
        let newest_first = generations
            .all()
            .rev()
            .flat_map(|generation| generation.sent_to(from, to, before));
        Some(newest_first.take(limit).collect())
    }

    /// What is to be merged next, once enough has come together.
    pub(super) fn freeze(&self) -> Option<Arc<Generation>> {
        let mut generations = self.lock();
        let Generation { after, last, .. } = generations.active;
        let messages = generations.active.messages();
        if generations.merging.is_none() && self.schedule.is_due(messages, after, last) {
            let mut next = std::mem::take(&mut generations.spare);
            (next.after, next.last) = (last, last);
            generations.merging = Some(Arc::new(std::mem::replace(&mut generations.active, next)));
            return generations.merging.clone();
        }
        None
    }

    /// The row of this message is deleted, unless the change is rolled back.
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
        let old = {
            let mut generations = self.lock();
            let through = generations
                .merged
                .as_ref()
                .map(|generation| generation.last);
            generations.after = through.unwrap_or(generations.after);
            let merging = generations.merging.take();
            let merged_through = merging.as_ref().map_or(0, |generation| generation.last);
            generations.gone.retain(|id| *id > merged_through);
            std::mem::replace(&mut generations.merged, merging)
        };
        // Emptied while no reader waits. Not of one that had to wait for its merge for long: it would be kept for ever.
        let room = |old: &Generation| old.messages() <= SPARE_MAX * self.schedule.at;
        let old = old.and_then(Arc::into_inner).filter(room);
        self.lock().spare = old.map(Generation::emptied).unwrap_or_default();
    }

    /// How far the memory is behind: from 1 on another merge is due while one is under way.
    pub fn backlog(&self) -> usize {
        self.lock().active.messages() / self.schedule.at
    }

    /// Messages added since the start, or since a snapshot was installed.
    pub fn added(&self) -> u64 {
        self.lock().added
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        // A holder can only panic when memory runs out.
        self.generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
