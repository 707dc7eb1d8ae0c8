//! Replication: openraft behind [`Replica`]. Only this room names openraft. The async runtime is a type parameter everywhere,
//! so that the simulation runs the same code in virtual time.
//!
//! Start at [`Replica`], all that the rest of the daemon sees; `api` has the types that it speaks. It is made of parts that
//! share a `core`:
//!
//! - `types`, `log_store`, `state_machine` and `config` bind openraft to our entries, our store and our timing;
//! - `network`, `pipeline`, `commit_notify`, `frame`, `peer_links` and `serve` bind it to peers;
//! - `propose` and `batch` are the path of a write, `barrier` of a linear read, `forward` of both to another node that leads;
//! - `suspicion`, `probe`, `election` and `leadership` find and replace a dead leader, `transfer` a living one;
//! - `membership` changes who is a member, `housekeeping` and `log_retention` run on their own;
//! - `snapshot_receiver` and `snapshot_transfers` are snapshots on their way in and out.
//!
//! **Invariant:** no tokio timer, socket, `select!` or `spawn` in this room. tokio's channels need no runtime and are used.

pub mod api;
mod barrier;
mod batch;
mod blocking;
mod commit_notify;
mod config;
mod core;
mod election;
mod forward;
mod frame;
mod housekeeping;
mod leadership;
mod log_retention;
mod log_store;
mod membership;
mod network;
mod openraft_metrics;
mod peer_links;
mod pending_requests;
mod pipeline;
mod probe;
mod propose;
mod replica;
mod serve;
mod snapshot_receiver;
mod snapshot_transfers;
mod state_machine;
#[cfg(test)]
mod storage_suite;
mod suspicion;
mod transfer;
mod types;
mod view;

pub use api::{MemberError, Membership, ReplicaError};
pub use config::{Clock, ReplicaConfig};
pub use frame::kind as frame_kind;
pub use openraft_metrics::RaftMetrics;
pub use replica::Replica;
pub use types::{Node, RAFT_ID_GENERATION, alone, node_of, raft_id};

/// The replica as the daemon runs it.
pub type TokioReplica<W> = Replica<openraft_rt_tokio::TokioRuntime, W>;
