//! [`Store`]: what the rest of the daemon holds.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::{
    BoxedDone, Identity, Job, LogId, LogRow, OpenError, RaftState, Readers, SnapshotFile, StoreError, StoreOptions,
    Writer,
};

/// A handle on the store; clones share everything. The writer stops when the last one is dropped.
#[derive(Clone)]
pub struct Store {
    #[allow(dead_code)]
    shared: Arc<()>,
}

impl Store {
    /// Opens (makes, migrates) the node's directory and takes its lock. Blocking.
    pub fn open(_options: StoreOptions) -> Result<(Store, Writer), OpenError> {
        unimplemented!()
    }

    /// Queues a job; waits while the queue is full. `done` is called in every case, also when this returns an error.
    pub async fn submit(&self, _job: Job) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Makes the rows readable at once and queues them to be made durable.
    pub async fn append(&self, _rows: Vec<LogRow>, _done: BoxedDone<()>) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Cuts the log after `keep_through` (`None`: wholly); readers see that at once.
    pub async fn truncate(&self, _keep_through: Option<u64>, _done: BoxedDone<()>) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Forgets the log up to and including `through`; readers see that at once.
    pub async fn purge(&self, _through: LogId, _done: BoxedDone<()>) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Rows of `range` without a hole, beginning with the first that is kept; stops before `max_bytes` would be
    /// passed, but returns at least one row if there is one. Blocking unless [`Store::read_tail`] has it all.
    pub fn read_log(&self, _range: Range<u64>, _max_bytes: usize) -> Result<Vec<LogRow>, StoreError> {
        unimplemented!()
    }

    /// The rows of `range` if all of them are in memory. Never blocks on the disk.
    pub fn read_tail(&self, _range: Range<u64>) -> Option<Vec<LogRow>> {
        unimplemented!()
    }

    /// What Raft needs to know at start, as on disk. Blocking.
    pub fn raft_state(&self) -> Result<RaftState, StoreError> {
        unimplemented!()
    }

    /// Who this node is; cached.
    pub fn identity(&self) -> Option<Identity> {
        unimplemented!()
    }

    /// The last saved vote; cached.
    pub fn vote(&self) -> Option<String> {
        unimplemented!()
    }

    /// The last applied entry; changes after the COMMIT of its effects.
    pub fn applied(&self) -> watch::Receiver<Option<LogId>> {
        unimplemented!()
    }

    /// Roughly how many bytes of change log are kept; costs nothing.
    pub fn log_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// Index of the first entry that is kept, or would be.
    pub fn log_begin(&self) -> u64 {
        unimplemented!()
    }

    /// Size of messagebase.db and its WAL. Two `stat`s.
    pub fn db_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// The read-only connections.
    pub fn readers(&self) -> &Readers {
        unimplemented!()
    }

    /// Builds a snapshot of what is applied and makes it the current one. Blocking; one at a time.
    pub fn build_snapshot(&self) -> Result<SnapshotFile, StoreError> {
        unimplemented!()
    }

    /// The newest finished snapshot.
    pub fn current_snapshot(&self) -> Option<SnapshotFile> {
        unimplemented!()
    }

    /// Where snapshots lie; received ones are written here under a name that begins with `receiving-`.
    pub fn snapshot_dir(&self) -> &Path {
        unimplemented!()
    }
}
