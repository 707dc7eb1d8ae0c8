//! What the clones of [`Store`](super::Store) and the writer share.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::files::{DirLock, beside};
use super::tail::Tail;
use super::{Identity, Readers, SnapshotFile, StoreError};
use crate::entry::LogId;
use crate::watch;

pub(super) struct StoreInner {
    /// messagebase.db.
    pub file: PathBuf,
    /// snapshots/.
    pub snapshots: PathBuf,
    pub tail: Mutex<Tail>,
    pub identity: Mutex<Option<Identity>>,
    pub vote: Mutex<Option<String>>,
    pub applied: watch::Sender<Option<LogId>>,
    /// How often this directory was opened.
    pub starts: u64,
    pub log_bytes: AtomicU64,
    /// The last entries of the log's segments that nothing more is appended to, ascending.
    pub segments: Mutex<Vec<u64>>,
    /// Whether purged rows of the log are still to be deleted.
    pub purging: AtomicBool,
    /// Log transactions made durable since the start: each is one sync of the WAL.
    pub synced_commits: AtomicU64,
    /// Set once, when the writer failed.
    pub fatal: OnceLock<StoreError>,
    pub readers: Readers,
    /// Raft's own connection: clients' reads must not keep it from the log.
    pub log_reader: Mutex<Connection>,
    /// Held while a snapshot is being built: one at a time.
    pub building: Mutex<()>,
    pub snapshot: Mutex<Option<SnapshotFile>>,
    /// How many backups were begun since the start: each one's file has a name of its own while it is made.
    pub backups: AtomicU64,
    /// Snapshots that end before this entry are of no use to anybody.
    pub useless_before: AtomicU64,
    /// The directory is ours until the last handle and the writer are gone.
    pub _lock: DirLock,
}

impl StoreInner {
    /// Size of messagebase.db and its WAL. Two `stat`s.
    pub fn db_bytes(&self) -> u64 {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
        size(&self.file) + size(&beside(&self.file, "-wal"))
    }
}
