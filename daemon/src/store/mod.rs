//! ONE SQLite file, ONE writer. The writer is a [`Writer::step`] that a thread loops over in production and the
//! simulation calls by itself; readers come from a read-only pool. Knows rows and transactions, not Raft: log
//! entries are [`LogRow`]s, acknowledgements are closures.
//!
//! **Invariant:** nothing here names openraft, tokio's timers or sockets (its channels are used: they need no runtime).

mod api;
mod digest;
mod handle;
mod readers;
mod snapshot;
mod writer;

pub use api::{
    ApplyItem, BoxedDone, EffectSink, Identity, Job, LogId, LogPayload, LogRow, OpenError, RaftState, SnapshotFile,
    StoreError, StoreOptions,
};
pub use digest::{TableDigest, digest};
pub use handle::Store;
pub use readers::{ReadError, Readers};
pub use writer::{Writer, spawn_writer};
