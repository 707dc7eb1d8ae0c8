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
    /// How often this directory was opened, this time included.
    pub starts: u64,
    pub identity: Mutex<Option<Identity>>,
    pub vote: Mutex<Option<String>>,
    pub applied: watch::Sender<Option<LogId>>,
    /// Set once, when the writer fails.
    pub fatal: OnceLock<StoreError>,
    pub readers: Readers,
    pub log: LogView,
    pub snapshots: Snapshots,
    /// Keeps the directory locked until the last handle and the writer are gone.
    pub _lock: DirLock,
}

/// The change log, as the writer publishes it.
pub(super) struct LogView {
    pub tail: Mutex<Tail>,
    /// Raft's own connection, so that clients' reads cannot keep it from the log.
    pub reader: Mutex<Connection>,
    pub bytes: AtomicU64,
    /// The last entries of the log's full segments, ascending.
    pub segments: Mutex<Vec<u64>>,
    /// Whether purged rows of the log still wait to be deleted.
    pub purging: AtomicBool,
    /// Durable log transactions since the start; each synced the WAL once.
    pub synced_commits: AtomicU64,
}

/// Snapshots and backups that are built from the applied state.
pub(super) struct Snapshots {
    /// snapshots/.
    pub dir: PathBuf,
    pub current: Mutex<Option<SnapshotFile>>,
    /// Held while a snapshot is built: one at a time.
    pub building: Mutex<()>,
    /// The log was purged through this entry: nobody can continue from a snapshot that ends before it.
    pub end_from: AtomicU64,
    /// Backups begun since the start: numbers their temporary files.
    pub backups: AtomicU64,
}

impl Snapshots {
    pub fn new(dir: PathBuf, current: Option<SnapshotFile>) -> Snapshots {
        Snapshots {
            dir,
            current: Mutex::new(current),
            building: Mutex::new(()),
            end_from: AtomicU64::new(0),
            backups: AtomicU64::new(0),
        }
    }
}

impl StoreInner {
    /// Size of messagebase.db and its WAL. Two `stat`s.
    pub fn db_bytes(&self) -> u64 {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
        size(&self.file) + size(&beside(&self.file, "-wal"))
    }
}
