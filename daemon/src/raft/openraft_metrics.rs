//! Raft's metrics as plain values, cheap enough to read after every step of the simulation.

use openraft::async_runtime::WatchReceiver;
use openraft::{AsyncRuntime, ServerState};

use super::core::OpenRaft;
use super::types::to_log_id;
use crate::entry::LogId;

/// What a replica knows of its vote and its log. Plain values: reading it allocates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftMetrics {
    /// Term of the vote.
    pub term: u64,
    /// Raft id of the node that the vote is for.
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

impl RaftMetrics {
    /// Reads the metrics that openraft publishes at the end of each of its rounds.
    pub(super) fn of<R: AsyncRuntime>(raft: &OpenRaft<R>) -> Self {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        RaftMetrics {
            term: metrics.vote.leader_id.term,
            vote_for: metrics.vote.leader_id.node_id,
            vote_committed: metrics.vote.committed,
            leads: metrics.state == ServerState::Leader,
            committed: metrics.local_committed.map(to_log_id),
            applied: metrics.last_applied.map(to_log_id),
        }
    }
}
