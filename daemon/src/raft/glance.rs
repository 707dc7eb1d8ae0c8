//! What a replica knows, cheaply: for whoever looks after every step, as the simulation's invariants do.

use openraft::async_runtime::WatchReceiver;
use openraft::{AsyncRuntime, ServerState};

use super::api::Wire;
use super::replica::Replica;
use super::types::to_log_id;
use crate::entry::LogId;

/// Copied, not counted: no allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// Term of the vote.
    pub term: u64,
    /// Raft id of whom the vote is for.
    pub vote_for: u64,
    /// Whether a quorum gave that vote.
    pub vote_committed: bool,
    /// Whether this node leads under that vote.
    pub leads: bool,
    /// Greatest entry known as committed here.
    pub committed: Option<LogId>,
    /// Greatest entry that Raft counts as applied here.
    pub applied: Option<LogId>,
}

impl<R: AsyncRuntime, W: Wire> Replica<R, W> {
    /// Looks at Raft's metrics, which it publishes at the end of each of its rounds.
    pub fn glance(&self) -> Glance {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        Glance {
            term: metrics.vote.leader_id.term,
            vote_for: metrics.vote.leader_id.node_id,
            vote_committed: metrics.vote.committed,
            leads: metrics.state == ServerState::Leader,
            committed: metrics.local_committed.map(to_log_id),
            applied: metrics.last_applied.map(to_log_id),
        }
    }
}
