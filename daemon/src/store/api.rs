//! The words between `raft/` and the store: rows, jobs, acknowledgements, errors.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::change::Outcome;
use crate::entry::{LogId, LogRow};
use crate::state::effect::Effect;

/// Called exactly once, on the writer's thread, after the job's COMMIT or its failure. Must not block.
pub type BoxedDone<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// A write to this node's own tables.
pub type LocalWrite = Box<dyn FnOnce(&rusqlite::Connection) -> rusqlite::Result<()> + Send>;

/// A committed entry on its way into the state.
pub struct ApplyItem {
    /// The entry.
    pub row: LogRow,
    /// Called after COMMIT with what the change came to ([`Outcome::Done`] for blank and membership entries).
    pub respond: Option<Box<dyn FnOnce(Outcome) + Send>>,
}

/// What the writer can be asked. Jobs are carried out in the order submitted.
pub enum Job {
    /// Durable before `done`. `vote` is opaque JSON.
    SaveVote {
        /// Raft's vote.
        vote: String,
        /// Acknowledgement.
        done: BoxedDone<()>,
    },
    /// The rows are already readable through the tail; durable before `done`.
    Append {
        /// Consecutive rows.
        rows: Vec<LogRow>,
        /// Acknowledgement.
        done: BoxedDone<()>,
    },
    /// Removes all entries with a greater index.
    Truncate {
        /// Last index to keep; `None` empties the log.
        keep_through: Option<u64>,
        /// Acknowledgement.
        done: BoxedDone<()>,
    },
    /// Removes entries up to and including this one. May be lost in a crash and repeated.
    Purge {
        /// Last to remove; remembered as the log's beginning.
        through: LogId,
        /// Acknowledgement.
        done: BoxedDone<()>,
    },
    /// Applies committed entries; done after COMMIT.
    Apply {
        /// Consecutive.
        items: Vec<ApplyItem>,
        /// Acknowledgement, after every `respond`.
        done: BoxedDone<()>,
    },
    /// Replaces the application state by a snapshot's, in capped transactions and one short switch; the log before
    /// the snapshot's last entry is purged with it.
    InstallSnapshot {
        /// A finished, checked file.
        file: SnapshotFile,
        /// Acknowledgement.
        done: BoxedDone<()>,
    },
    /// Writes to this node's own tables, with the log jobs and as durably. For what is rare and small.
    Local {
        /// Runs in the writer's transaction; an error in it is final.
        write: LocalWrite,
        /// Acknowledgement.
        done: BoxedDone<()>,
    },
    /// Stores who this node is. Durable before `done`.
    SaveIdentity {
        /// The identity.
        identity: Identity,
        /// Acknowledgement.
        done: BoxedDone<()>,
    },
}

impl Job {
    /// Tells whoever waits for the job that it was not done.
    pub(super) fn fail(self, error: &StoreError) {
        let done = match self {
            Job::SaveVote { done, .. }
            | Job::Append { done, .. }
            | Job::Truncate { done, .. }
            | Job::Purge { done, .. }
            | Job::Apply { done, .. }
            | Job::InstallSnapshot { done, .. }
            | Job::Local { done, .. }
            | Job::SaveIdentity { done, .. } => done,
        };
        done(Err(error.clone()));
    }
}

/// Who this node is; absent on a blank one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// 32 lower-case hex digits.
    pub cluster_id: String,
    /// generation · 65536 + node; never reused.
    pub raft_id: u64,
    /// Founding nodes' numbers (formation only; empty on a replaced or added node).
    pub founders: Vec<u16>,
}

/// What Raft needs to know at start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RaftState {
    /// Last saved vote, JSON as saved.
    pub vote: Option<String>,
    /// Last purged entry.
    pub purged: Option<LogId>,
    /// Last entry; `None` when the log holds none (then `purged` counts).
    pub last: Option<LogId>,
    /// Last applied entry.
    pub applied: Option<LogId>,
    /// Last applied membership: where it stood and its JSON.
    pub membership: Option<(LogId, Arc<str>)>,
}

/// A snapshot file: a SQLite database with the application tables alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Where it lies (in `snapshots/`).
    pub path: PathBuf,
    /// Last entry it contains.
    pub last: LogId,
    /// The membership it contains.
    pub membership: Option<(LogId, Arc<str>)>,
}

/// Told about applied effects, in log order, on the writer's thread after COMMIT. Must not block.
pub trait EffectSink: Send + Sync + 'static {
    /// What live sessions should hear.
    fn publish(&self, effects: Vec<Effect>);
    /// The state was replaced by a snapshot: nobody can tell what was missed.
    fn resync(&self);
}

/// How to open a store.
#[derive(Clone)]
pub struct StoreOptions {
    /// `data/node-N`; made (0700) if missing.
    pub dir: PathBuf,
    /// This node's number, for the `node_state` view and for refusing another node's directory.
    pub node: u16,
    /// Read-only connections in the pool.
    pub readers: u32,
    /// Messages that come together in memory before their index entries are merged into the file
    /// ([`MERGE_AT`](crate::state::index::MERGE_AT)).
    pub merge_at: usize,
    /// Bytes that whoever purges the change log keeps it to: its segments are made for that.
    pub change_log_bytes: u64,
    /// Where effects go.
    pub effects: Arc<dyn EffectSink>,
}

/// Why a store can't be opened; all are exit 1 of the daemon.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A second `mbd` on a directory.
    #[error("{dir} is in use by another mbd{}", .pid.map(|p| format!(" (process {p})")).unwrap_or_default())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who holds it, if known.
        pid: Option<u32>,
    },
    /// Written by a newer version.
    #[error("{file} has schema version {found}, this mbd knows {known}; run the mbd that wrote it")]
    NewerSchema {
        /// The file.
        file: PathBuf,
        /// Its `user_version`.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// The directory belongs to another node.
    #[error("{dir} belongs to node {found}, not to node {asked}")]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// In the file.
        found: u16,
        /// On the command line.
        asked: u16,
    },
    /// Disk, permission, corruption.
    #[error("failed to open {path}: {source}")]
    Io {
        /// What was being opened.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A failure of the writer. Final: an fsync is never retried, the node acknowledges nothing more and stops.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// IOERR, FULL, CORRUPT, NOTADB, or a log version that this program does not know.
    #[error("{0}")]
    Fatal(Arc<str>),
    /// The writer has stopped.
    #[error("the store is closed")]
    Closed,
}

/// A final error with what was being done.
pub(super) fn fatal(what: &str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Fatal(format!("failed to {what}: {error}").into())
}
