//! Replication: openraft behind a facade. Only this room names openraft. The async runtime is a type parameter
//! everywhere, so that the simulation runs the same code in virtual time.
//!
//! Start at [`Replica`], all that the rest of the daemon sees; `api` holds the words it speaks. `types` binds openraft
//! to our entries, `log_store` and `state_machine` bind it to the store, `network`, `pipeline`, `notices`, `frame` and
//! `serve` to peers. `propose` is the way of a write, `group` the last stretch of it, `barrier` of a linear read;
//! `suspicion` and `election` find and replace a dead leader; `member` and `upkeep` are the rest.
//!
//! **Invariant:** no tokio timer, socket, `select!` or `spawn` in this room; tokio's channels need no runtime and are
//! used.

pub mod api;
mod barrier;
mod blocking;
mod due;
mod election;
mod frame;
mod glance;
mod group;
mod links;
mod log_store;
mod member;
mod network;
mod notices;
mod pipeline;
mod propose;
mod receivers;
mod replica;
mod serve;
mod state_machine;
#[cfg(test)]
mod suite;
mod suspicion;
mod types;
mod upkeep;

pub use frame::kind as frame_kind;
pub use glance::Glance;
pub use replica::{Clock, MemberError, Membership, Replica, ReplicaConfig, ReplicaError};
pub use types::{Node, RAFT_ID_GENERATION, alone, node_of, raft_id};

/// The replica as the daemon runs it.
pub type TokioReplica<W> = Replica<openraft_rt_tokio::TokioRuntime, W>;
