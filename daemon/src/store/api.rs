//! The types of the store's interface: jobs, acknowledgements, errors.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::change::Outcome;
use crate::entry::{LogId, LogRow};
use crate::state::effect::Effect;

/// Acknowledges a job. Called exactly once, on the writer's thread, after COMMIT or failure. Must not block.
pub type BoxedDone<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// A write to this node's own tables.
pub type LocalWrite = Box<dyn FnOnce(&rusqlite::Connection) -> rusqlite::Result<()> + Send>;

/// A committed entry that is to be applied.
pub struct ApplyItem {
    /// The entry.
    pub row: LogRow,
    /// Called after COMMIT with the change's outcome ([`Outcome::Done`] for blank and membership entries).
    pub respond: Option<Box<dyn FnOnce(Outcome) + Send>>,
}

/// A request to the writer. `writer` says in which order jobs are carried out.
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
        /// Last entry to remove. Its id is stored: the log begins after it.
        through: LogId,
        /// Acknowledgement.
        done: BoxedDone<()>,
    },
    /// Applies committed entries; done after COMMIT.
    Apply {
        /// Consecutive entries.
        items: Vec<ApplyItem>,
        /// Acknowledgement, after every `respond`.
        done: BoxedDone<()>,
    },
    /// Replaces the application state by a snapshot's, in capped transactions and one short switch. The log through the
    /// snapshot's last entry is purged with it.
    InstallSnapshot {
        /// A finished, checked file.
        file: SnapshotFile,
        /// Acknowledgement.
        done: BoxedDone<()>,
    },
    /// Writes to this node's own tables, in order with the log jobs and as durable. For rare, small writes.
    Local {
        /// Runs in the writer's transaction. Its error is final: the writer stops.
        write: LocalWrite,
        /// Acknowledgement.
        done: BoxedDone<()>,
    },
    /// Stores this node's identity. Durable before `done`.
    SaveIdentity {
        /// The identity.
        identity: Identity,
        /// Acknowledgement.
        done: BoxedDone<()>,
    },
}

impl Job {
    /// Acknowledges the job with `error`: it was not carried out.
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

/// This node's identity; a blank node has none.
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
    /// Last applied membership: its place in the log and its JSON.
    pub membership: Option<(LogId, Arc<str>)>,
}

/// A snapshot file: a SQLite database with the application tables alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Its path, in `snapshots/`.
    pub path: PathBuf,
    /// Last entry it contains.
    pub last: LogId,
    /// The membership it contains.
    pub membership: Option<(LogId, Arc<str>)>,
}

/// Receives the effects of applied changes, in log order, on the writer's thread after COMMIT. Must not block.
pub trait EffectSink: Send + Sync + 'static {
    /// Effects that live sessions are to be told.
    fn publish(&self, effects: Vec<Effect>);
    /// A snapshot replaced the state: the effects of the entries that it skipped are unknown.
    fn resync(&self);
}

/// How to open a store.
#[derive(Clone)]
pub struct StoreOptions {
    /// `data/node-N`; created (0700) if missing.
    pub dir: PathBuf,
    /// This node's number, for the `node_state` view and for refusing another node's directory.
    pub node: u16,
    /// Read-only connections in the pool.
    pub readers: u32,
    /// Messages that collect in memory before their index entries are merged into the file
    /// ([`MERGE_AT`](crate::state::index::MERGE_AT)).
    pub merge_at: usize,
    /// Bytes that the change log is purged down to (`change_log_bytes`); sets the size of its segments.
    pub change_log_bytes: u64,
    /// Receives the effects.
    pub effects: Arc<dyn EffectSink>,
}

/// Why a store can't be opened. The daemon exits with 1 on each.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another `mbd` runs on the directory.
    #[error("{dir} is in use by another mbd{}", .pid.map(|p| format!(" (process {p})")).unwrap_or_default())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Its process id, if known.
        pid: Option<u32>,
    },
    /// Written by a newer version.
    #[error("{file} has schema version {found}, this mbd knows {known}; run the mbd that wrote it")]
    NewerSchema {
        /// The file.
        file: PathBuf,
        /// Its `user_version`.
        found: i64,
        /// This program's.
        known: i64,
    },
    /// The directory belongs to another node.
    #[error("{dir} belongs to node {found}, not to node {asked}")]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// The node in the file.
        found: u16,
        /// The node on the command line.
        asked: u16,
    },
    /// Disk, permission, corruption.
    #[error("failed to open {path}: {source}")]
    Io {
        /// The file or directory that was being opened.
        path: PathBuf,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A failure of the writer. Final, because a failed fsync must not be retried: the node acknowledges nothing more and
/// stops.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// IOERR, FULL, CORRUPT, NOTADB, or a log version that this program does not know.
    #[error("{0}")]
    Fatal(Arc<str>),
    /// The writer has stopped.
    #[error("the store is closed")]
    Closed,
}

/// A final error, with the action that failed.
pub(super) fn fatal(what: &str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Fatal(format!("failed to {what}: {error}").into())
}
