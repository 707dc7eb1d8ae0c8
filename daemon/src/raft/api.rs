//! The types between `service/` and replication, and between replication and the connections under it.

use std::future::Future;
use std::time::Duration;

pub use messagebase_protocol::json::ReplicaView as View;
use messagebase_protocol::peer::Purpose;
use serde::{Deserialize, Serialize};

use super::types::Node;
use crate::change::{Change, Outcome, Refusal, Secrets};

/// Why a replica can't start or go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ReplicaError(pub String);

/// Why the membership was not changed, or leadership not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Ask the leader.
    #[error("this node does not lead{}", .leader.map(|n| format!("; node {n} does")).unwrap_or_default())]
    NotLeader {
        /// Its number, if known.
        leader: Option<u16>,
    },
    /// It may still happen.
    #[error("no majority of the nodes answered in time")]
    NoQuorum,
    /// Nothing was changed; it will be possible.
    #[error("node {0} is still catching up")]
    Behind(u16),
    /// Nothing was changed.
    #[error("{0}")]
    Refused(String),
}

/// A member of the replicated membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Raft id.
    pub raft_id: u64,
    /// Number and addresses.
    pub node: Node,
    /// Whether it votes.
    pub voter: bool,
    /// Last index that it is known to hold; only the leader knows.
    pub matched: Option<u64>,
}

/// A change before the leader stamps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    /// The session that asks.
    pub actor: Option<u64>,
    /// What is to change.
    pub body: Change,
    /// Hashes that must not be read in the change log.
    pub secrets: Option<Secrets>,
}

/// What became of a draft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Committed, and applied on THIS node too: a read that follows sees it.
    Applied {
        /// Where it stands in the log.
        index: u64,
        /// What it came to.
        outcome: Outcome,
    },
    /// Refused, after an attempt whose answer was lost: that one may have taken effect, or may yet.
    InDoubt(Refusal),
    /// No majority answered in time; it may still be applied later.
    NoQuorum,
    /// This node is stopping; it may still be applied later.
    Closing,
}

/// No leader could confirm itself in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no majority of the nodes answered in time")]
pub struct NoQuorum;

/// Why `campaign` elected nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CampaignError {
    /// The leader answers this node.
    #[error("node {0} leads and answers")]
    LeaderAlive(u16),
    /// Nobody could be elected in time.
    #[error("no majority of the nodes answered in time")]
    NoQuorum,
}

/// A peer to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Raft id (generation · 65536 + node).
    pub raft_id: u64,
    /// Number.
    pub node: u16,
    /// `peer` address as the membership has it; the configuration file wins.
    pub peer: String,
}

/// Why a frame got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Nobody listens there: the process is gone. The only failure that proves something.
    #[error("cannot reach the node: {0}")]
    Refused(String),
    /// Nothing was sent: unresolvable, closed before the handshake ended, no answer to the dial.
    #[error("cannot reach the node: {0}")]
    Unreachable(String),
    /// The frame may have arrived: connection lost or no answer in time.
    #[error("the answer was lost: {0}")]
    Lost(String),
}

/// Makes connections to peers; TLS in production, memory in the simulation. Every [`Link`] has a connection of its
/// own, dialed when it is first used and again after it broke, so that a long append never delays a heartbeat.
pub trait Wire: Clone + Send + Sync + 'static {
    /// A connection to one peer for one purpose.
    type Link: Link;
    /// Does not dial yet.
    fn link(&self, to: Target, purpose: Purpose) -> Self::Link;
}

/// One connection to one peer. Frames leave in the order of the calls; answers may come in any order.
pub trait Link: Send + Sync + 'static {
    /// Sends a frame and waits for its answer, at most `timeout`.
    fn call(
        &self,
        frame: Vec<u8>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Vec<u8>, WireError>> + Send;
}
