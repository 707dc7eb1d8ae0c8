//! [`Store`]: the handle that the rest of the daemon holds.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use super::api::fatal;
use super::inner::StoreInner;
use super::tail::ReadPlan;
use super::{
    Backup, BoxedDone, Identity, Job, OpenError, RaftState, Readers, SnapshotFile, StoreError,
    StoreOptions, Writer, backup, log_rows, open, snapshot,
};
use crate::entry::{LogId, LogRow};
use crate::state::Counters;
use crate::state::integers::int;
use crate::watch;

/// How often a log read is repeated because the log was cut meanwhile. Cuts follow elections, so even one is rare.
const READ_ATTEMPTS: u32 = 16;

/// A handle on the store; clones share everything. The writer stops when the last one is dropped.
#[derive(Clone)]
pub struct Store {
    shared: Arc<StoreInner>,
    jobs: mpsc::Sender<Job>,
}

impl Store {
    /// Opens the node's directory and takes its lock; creates and migrates the file as needed. Blocking.
    pub fn open(options: StoreOptions) -> Result<(Store, Writer), OpenError> {
        open::open(options)
    }

    pub(super) fn new(shared: Arc<StoreInner>, jobs: mpsc::Sender<Job>) -> Store {
        Store { shared, jobs }
    }

    /// Queues a job; waits while the queue is full. `done` is called in every case, also when this returns an error.
    /// Only if this future is dropped while it waits, nothing has happened and `done` is not called.
    pub async fn submit(&self, job: Job) -> Result<(), StoreError> {
        let Ok(permit) = self.jobs.reserve().await else {
            let error = self
                .shared
                .fatal
                .get()
                .cloned()
                .unwrap_or(StoreError::Closed);
            job.fail(&error);
            return Err(error);
        };
        // Under one lock, so that the tail changes in the order of the jobs.
        let mut tail = self.shared.log.tail.lock();
        match &job {
            Job::Append { rows, .. } => {
                if !consecutive(rows) {
                    drop(tail);
                    let error = fatal("append to the log", "the entries do not follow each other");
                    job.fail(&error);
                    return Err(error);
                }
                tail.append(rows);
            }
            Job::Truncate { keep_through, .. } => {
                tail.cut(keep_through.map_or(0, |index| index + 1))
            }
            Job::Purge { through, .. } => tail.purge(*through),
            Job::SaveVote { .. }
            | Job::SaveIdentity { .. }
            | Job::Local { .. }
            | Job::Apply { .. }
            | Job::InstallSnapshot { .. } => {}
        }
        permit.send(job);
        Ok(())
    }

    /// Makes the rows readable at once and queues them for the disk.
    pub async fn append(&self, rows: Vec<LogRow>, done: BoxedDone<()>) -> Result<(), StoreError> {
        self.submit(Job::Append { rows, done }).await
    }

    /// Cuts the log after `keep_through` (`None`: all of it); readers see that at once.
    pub async fn truncate(
        &self,
        keep_through: Option<u64>,
        done: BoxedDone<()>,
    ) -> Result<(), StoreError> {
        self.submit(Job::Truncate { keep_through, done }).await
    }

    /// Purges the log up to and including `through`; readers see that at once.
    pub async fn purge(&self, through: LogId, done: BoxedDone<()>) -> Result<(), StoreError> {
        self.submit(Job::Purge { through, done }).await
    }

    /// Consecutive rows of `range`, from the first that is kept. Stops before `max_bytes` would be exceeded, but
    /// returns at least one row if there is one. Blocking, unless all of them are in memory.
    pub fn read_log(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<LogRow>, StoreError> {
        for _ in 0..READ_ATTEMPTS {
            let ReadPlan {
                disk,
                rows: in_memory,
                epoch,
            } = self.shared.log.tail.lock().plan(&range);
            let mut limit = ByteLimit {
                left: max_bytes,
                any: false,
            };
            let mut found = Vec::new();
            if !disk.is_empty() {
                found = self.read_disk(&disk, &mut limit)?;
                if self.shared.log.tail.lock().epoch() != epoch {
                    continue;
                }
                let reached = found.last().map_or(disk.start, |row| row.id.index + 1);
                if reached < disk.end {
                    return Ok(found);
                }
            }
            found.extend(in_memory.into_iter().take_while(|row| limit.take(row)));
            return Ok(found);
        }
        Err(fatal("read the log", "it was cut each time"))
    }

    fn read_disk(
        &self,
        range: &Range<u64>,
        limit: &mut ByteLimit,
    ) -> Result<Vec<LogRow>, StoreError> {
        let conn = self.shared.log.reader.lock();
        let mut read = || -> rusqlite::Result<Vec<LogRow>> {
            let mut statement = conn.prepare_cached(&format!(
                "SELECT {} FROM log WHERE log_index >= ?1 AND log_index < ?2 ORDER BY log_index",
                log_rows::COLUMNS
            ))?;
            let mut found = statement.query((int(range.start), int(range.end)))?;
            let mut result: Vec<LogRow> = Vec::new();
            while let Some(row) = found.next()? {
                let row = log_rows::read(row)?;
                let follows = result
                    .last()
                    .is_none_or(|before| before.id.index + 1 == row.id.index);
                if !follows || !limit.take(&row) {
                    break;
                }
                result.push(row);
            }
            Ok(result)
        };
        read().map_err(|e| fatal("read the log", e))
    }

    /// The rows of `range` if all of them are in memory. Never blocks on the disk.
    pub fn read_tail(&self, range: Range<u64>) -> Option<Vec<LogRow>> {
        let wanted = usize::try_from(range.end.saturating_sub(range.start)).ok()?;
        let rows = self.shared.log.tail.lock().plan(&range).rows;
        (rows.len() == wanted).then_some(rows)
    }

    /// What Raft needs at start: vote and applied entry from disk, the log as readers see it. Blocking.
    pub fn raft_state(&self) -> Result<RaftState, StoreError> {
        let failed = |e: rusqlite::Error| fatal("read Raft's state", e);
        let conn = self.shared.log.reader.lock();
        let (purged, last) = {
            let tail = self.shared.log.tail.lock();
            (tail.purged(), tail.last())
        };
        let last = match last {
            Some(Ok(id)) => Some(id),
            Some(Err(index)) => log_rows::id_at(&conn, index).map_err(failed)?,
            None => None,
        };
        let counters = Counters::load(&conn).map_err(failed)?;
        Ok(RaftState {
            vote: self.vote(),
            purged,
            last,
            applied: counters.applied,
            membership: counters.membership,
        })
    }

    /// How often this directory was opened, this time included.
    pub fn starts(&self) -> u64 {
        self.shared.starts
    }

    /// Index of the last entry, purged ones included; `None` if there never was one.
    pub fn last_log_index(&self) -> Option<u64> {
        let tail = self.shared.log.tail.lock();
        tail.last()
            .map(|last| last.map_or_else(|index| index, |id| id.index))
            .or(tail.purged().map(|id| id.index))
    }

    /// This node's identity; cached.
    pub fn identity(&self) -> Option<Identity> {
        self.shared.identity.lock().clone()
    }

    /// The last saved vote; cached.
    pub fn vote(&self) -> Option<String> {
        self.shared.vote.lock().clone()
    }

    /// The last applied entry; changes after the COMMIT of its effects.
    pub fn applied(&self) -> watch::Receiver<Option<LogId>> {
        self.shared.applied.subscribe()
    }

    /// Durable log transactions of this process; each synced the disk once.
    pub fn synced_commits(&self) -> u64 {
        self.shared.log.synced_commits.load(Ordering::Relaxed)
    }

    /// Bytes of change log that are kept, roughly; reads a counter.
    pub fn log_bytes(&self) -> u64 {
        self.shared.log.bytes.load(Ordering::Relaxed)
    }

    /// Index of the first entry that is kept; of the next one if the log is empty.
    pub fn log_begin(&self) -> u64 {
        self.shared.log.tail.lock().begin()
    }

    /// Size of messagebase.db and its WAL. Two `stat`s.
    pub fn db_bytes(&self) -> u64 {
        self.shared.db_bytes()
    }

    /// messagebase.db.
    pub fn file(&self) -> &Path {
        &self.shared.file
    }

    /// The read-only connections.
    pub fn readers(&self) -> &Readers {
        &self.shared.readers
    }

    /// The current snapshot if it holds all entries through this one. Otherwise builds one of the applied state and
    /// makes it the current one. Blocking; one at a time.
    ///
    /// # Errors
    /// Also when the log was purged meanwhile past the snapshot's end, so that no member could continue from it.
    pub fn snapshot_of_all_through(&self, index: u64) -> Result<SnapshotFile, StoreError> {
        snapshot::build(&self.shared, index)
    }

    /// A snapshot of the state that is applied now.
    ///
    /// # Errors
    /// As [`Store::snapshot_of_all_through`].
    pub fn build_snapshot(&self) -> Result<SnapshotFile, StoreError> {
        let applied = self.shared.applied.borrow().map_or(0, |last| last.index);
        self.snapshot_of_all_through(applied)
    }

    /// A backup of the applied state, stamped with the time. Blocking, for as long as copying the state takes; stops
    /// early once `cancelled` returns true. May run beside a snapshot or another backup; then each takes longer.
    ///
    /// # Errors
    /// Also when nothing is applied yet, and when it was cancelled. The store keeps working in any case.
    pub fn build_backup(
        &self,
        cancelled: impl FnMut() -> bool + Send + 'static,
        now_ms: u64,
    ) -> Result<Backup, StoreError> {
        backup::build(&self.shared, cancelled, now_ms)
    }

    /// To be called when the log is purged through this entry: removes the current snapshot if it ends before it,
    /// because no member could continue from there. Blocking.
    pub fn forget_snapshot_before(&self, purged: u64) {
        snapshot::forget_before(&self.shared, purged);
    }

    /// The last end of a segment between `begin` and `through`, if there is one. Purging to it is better than to
    /// `through`, because removing whole segments costs almost nothing.
    pub fn whole_segments(&self, begin: u64, through: u64) -> Option<u64> {
        let segments = self.shared.log.segments.lock();
        let before = segments.iter().rev().find(|last| **last <= through);
        before.copied().filter(|last| *last > begin)
    }

    /// Whether purged rows of the log still wait to be deleted; [`Store::log_bytes`] counts them.
    pub fn purging(&self) -> bool {
        self.shared.log.purging.load(Ordering::Relaxed)
    }

    /// The newest snapshot that was built or received, if there is one.
    pub fn current_snapshot(&self) -> Option<SnapshotFile> {
        self.shared.snapshots.current.lock().clone()
    }

    /// The directory of snapshots. Received ones are written here under a name that begins with `receiving-`.
    pub fn snapshot_dir(&self) -> &Path {
        &self.shared.snapshots.dir
    }
}

fn consecutive(rows: &[LogRow]) -> bool {
    rows.windows(2)
        .all(|pair| pair[0].id.index + 1 == pair[1].id.index)
}

/// Bytes that may still be read. The first row always may be, however long it is.
struct ByteLimit {
    left: usize,
    any: bool,
}

impl ByteLimit {
    fn take(&mut self, row: &LogRow) -> bool {
        let bytes = log_rows::memory_bytes(row);
        let fits = !self.any || bytes <= self.left;
        self.left = if fits {
            self.left.saturating_sub(bytes)
        } else {
            0
        };
        self.any = true;
        fits
    }
}
