//! One SQLite file and one writer. In production a thread loops over [`Writer::step`]; the simulation calls it itself.
//! Readers come from a read-only pool. The store knows rows and transactions, not Raft: log entries are
//! [`LogRow`](crate::entry::LogRow)s, acknowledgements are closures.
//!
//! Where to go next: [`Store`] is the handle and [`Writer`] carries out the jobs. `tail` is the log as readers see it,
//! `snapshot` builds and keeps snapshot files, `open` decides whether a directory may be used. `adhoc_sql` runs what an
//! operator types.
//!
//! **Invariant:** nothing here names openraft, tokio's timers or sockets (its channels are used: they need no runtime).

mod adhoc_sql;
mod api;
mod backup;
mod compile_options;
mod connect;
mod digest;
mod files;
mod handle;
mod inner;
mod log_rows;
mod open;
mod readers;
mod schema;
mod snapshot;
mod tail;
mod writer;

#[cfg(test)]
mod tests;

pub use crate::state::index::MERGE_AT;
pub use api::{
    ApplyItem, BoxedDone, EffectSink, Identity, Job, LocalWrite, OpenError, RaftState,
    SnapshotFile, StoreError, StoreOptions,
};
pub use backup::{Backup, BackupInfo, RestoreError, RestoredNode, check_room, restore};
pub use digest::{TableDigest, digest};
pub use handle::Store;
pub use readers::{ReadError, Readers};
pub use writer::{Piece, Writer, spawn_writer};
