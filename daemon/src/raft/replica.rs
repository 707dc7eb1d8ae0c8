//! The facade.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use openraft::AsyncRuntime;
use tokio::sync::watch;

use super::api::{CampaignError, Draft, NoQuorum, Verdict, View, Wire};
use super::types::Node;
use crate::change::Settings;
use crate::store::Store;

/// Wall clock, Unix ms; read on the leader alone, to stamp changes.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How a replica behaves.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// This node's Raft id, as in its file.
    pub raft_id: u64,
    /// As in its file; snapshots of other clusters are refused.
    pub cluster_id: String,
    /// Bytes of change log kept for followers that were away.
    pub change_log_bytes: u64,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout.
    pub election_max: Duration,
    /// This node's file's settings; proposed when it leads and the replicated ones differ.
    pub settings: Settings,
}

impl ReplicaConfig {
    /// With the timing of DESIGN 6.
    pub fn new(raft_id: u64, cluster_id: String, change_log_bytes: u64, settings: Settings) -> Self {
        ReplicaConfig {
            raft_id,
            cluster_id,
            change_log_bytes,
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            settings,
        }
    }
}

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

/// One node's part in replication. Cheap to clone; all clones are the same replica.
pub struct Replica<R: AsyncRuntime, W: Wire> {
    _todo: PhantomData<fn() -> (R, W)>,
}

impl<R: AsyncRuntime, W: Wire> Clone for Replica<R, W> {
    fn clone(&self) -> Self {
        Replica { _todo: PhantomData }
    }
}

impl<R: AsyncRuntime, W: Wire> Replica<R, W> {
    /// Starts Raft on an opened store whose writer runs.
    pub async fn start(_store: Store, _config: ReplicaConfig, _wire: W, _clock: Clock) -> Result<Self, ReplicaError> {
        todo!()
    }

    /// Formation: makes the first membership. Called on one founder alone, once all took the identity.
    pub async fn initialize(&self, _members: BTreeMap<u64, Node>) -> Result<(), ReplicaError> {
        todo!()
    }

    /// Answers one frame of a peer that the peer door has authenticated as `from_raft_id`. Frames may be handled
    /// concurrently, those of one append link too.
    pub async fn serve(&self, _from_raft_id: u64, _frame: Vec<u8>) -> Vec<u8> {
        todo!()
    }

    /// Proposes ONE ordered batch and waits until it is applied HERE. One verdict a draft, in order. The caller keeps
    /// at most one batch of a connection in flight; that keeps the connection's order.
    pub async fn propose(&self, _drafts: Vec<Draft>) -> Vec<Verdict> {
        todo!()
    }

    /// A read barrier: when it returns, this node has applied all that was acknowledged before the call.
    pub async fn linear(&self) -> Result<(), NoQuorum> {
        todo!()
    }

    /// A client's wish for a leader; returns the winner's number.
    pub async fn campaign(&self) -> Result<u16, CampaignError> {
        todo!()
    }

    /// What this node knows, at once.
    pub fn view(&self) -> View {
        todo!()
    }

    /// Changes when role, term, leader or membership change (not with every entry).
    pub fn watch_view(&self) -> watch::Receiver<View> {
        todo!()
    }

    /// The replicated membership, by Raft id.
    pub fn members(&self) -> Vec<Membership> {
        todo!()
    }

    /// Hands leadership to a voter and waits until it leads.
    pub async fn transfer(&self, _to_node: u16) -> Result<(), MemberError> {
        todo!()
    }

    /// Before a graceful stop: hands leadership, if held, to the most up-to-date voter; waits at most a second.
    pub async fn step_down_for_stop(&self) {
        todo!()
    }

    /// Takes a node in as a learner under a new Raft id, which is returned. With `promote` it becomes a voter by
    /// itself once it has caught up, whoever leads then.
    pub async fn add_learner(
        &self,
        _node: u16,
        _client: String,
        _peer: String,
        _promote: bool,
    ) -> Result<u64, MemberError> {
        todo!()
    }

    /// Makes a learner a voter; refused while it is far behind.
    pub async fn promote(&self, _node: u16) -> Result<(), MemberError> {
        todo!()
    }

    /// Takes a node out of the membership.
    pub async fn remove(&self, _node: u16) -> Result<(), MemberError> {
        todo!()
    }

    /// Takes the node's old Raft id out and its next generation in, as a learner that becomes a voter by itself.
    /// Returns the new Raft id, for the blank node to adopt.
    pub async fn replace(&self, _node: u16) -> Result<u64, MemberError> {
        todo!()
    }

    /// Resolves when replication has failed for good (the store, most likely), with the reason. Never on shutdown.
    pub async fn failed(&self) -> String {
        todo!()
    }

    /// Stops Raft and its tasks; proposals in flight answer `Closing`.
    pub async fn shutdown(&self) {
        todo!()
    }
}
