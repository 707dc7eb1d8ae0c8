//! Leadership transfer: on an operator's command, and before a graceful stop.

use std::sync::Arc;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::async_runtime::{Instant, WatchReceiver};

use super::api::{MemberError, Membership, Wire};
use super::core::Core;
use super::types::{Vote, node_of};

/// How long a transfer may take until its caller is told that it did not succeed.
const TRANSFER_WAIT: Duration = Duration::from_secs(3);
/// How long a transfer waits for a sign of life of its target before it is refused. Heartbeats are much more frequent.
const HEARD_WAIT: Duration = Duration::from_secs(1);
/// How long one candidate has to take over. It first waits for its disk, at most as long as this.
const CANDIDATE_WAIT: Duration = Duration::from_millis(300);
/// How long a graceful stop waits for its successor.
const STOP_WAIT: Duration = Duration::from_millis(1_000);

/// Hands leadership over.
pub(super) struct Transfers<R: AsyncRuntime, W: Wire> {
    core: Arc<Core<R, W>>,
}

impl<R: AsyncRuntime, W: Wire> Transfers<R, W> {
    pub(super) fn new(core: Arc<Core<R, W>>) -> Self {
        Transfers { core }
    }

    /// Hands leadership to a voter and waits until it leads.
    ///
    /// # Errors
    /// On any node but the leader, for anything but a voter, or when another node came to lead.
    pub(super) async fn transfer(&self, to_node: u16) -> Result<(), MemberError> {
        let core = &self.core;
        core.ensure_leads()?;
        let target = core
            .members()
            .into_iter()
            .find(|m| m.node.node == to_node && m.voter);
        let Some(target) = target else {
            return Err(MemberError::Refused(format!("node {to_node} is no voter")));
        };
        if target.raft_id == core.raft_id() {
            return Ok(());
        }
        let old = core.vote();
        let heard = R::timeout(HEARD_WAIT, self.wait_heard_of(target.raft_id));
        if heard.await.is_err() {
            return Err(MemberError::Refused(format!(
                "node {to_node} does not answer the leader. Hint: mbctl status shows who does"
            )));
        }
        self.hand_over(old, self.candidates(Some(target.raft_id)));
        match R::timeout(TRANSFER_WAIT, core.new_leader(old)).await {
            Ok(leader) if leader == target.raft_id => Ok(()),
            Ok(leader) => Err(MemberError::Refused(format!(
                "node {to_node} did not take over, node {} leads now",
                node_of(leader)
            ))),
            Err(_) => Err(MemberError::NoQuorum),
        }
    }

    /// Before a graceful stop: hands leadership, if held, to the most up-to-date voter; waits at most a second.
    pub(super) async fn step_down_for_stop(&self) {
        if self.core.ensure_leads().is_err() {
            return;
        }
        let candidates = self.candidates(None);
        if candidates.is_empty() {
            return;
        }
        let old = self.core.vote();
        self.hand_over(old, candidates);
        if R::timeout(STOP_WAIT, self.core.new_leader(old))
            .await
            .is_err()
        {
            tracing::warn!("stopping before another node leads");
        }
    }

    /// Hands leadership under `old` to the first of these that takes it, in a task of its own that ends when this node
    /// leads no longer. A leader that has begun a transfer refuses writes for good, whether or not it succeeds.
    fn hand_over(&self, old: Vote, candidates: Vec<u64>) {
        let core = self.core.clone();
        let transfer = async move {
            for candidate in candidates.iter().copied().cycle() {
                if core.vote() != old || old.leader_id.node_id != core.raft_id() {
                    return;
                }
                if let Err(error) = core.raft.trigger().transfer_leader(candidate).await {
                    tracing::debug!(%error, "can't hand leadership over");
                    return;
                }
                let taken_over = R::timeout(CANDIDATE_WAIT, core.new_leader(old)).await;
                if taken_over.is_ok() {
                    return;
                }
                tracing::warn!(
                    candidate = node_of(candidate),
                    "the node did not take over leadership"
                );
            }
        };
        let core = self.core.clone();
        // It ends with the leadership, or with the replica.
        drop(R::spawn(async move {
            let _ = core.unless_stopped(transfer).await;
        }));
    }

    /// The voters that answer this leader's heartbeats, the most up-to-date first; before all of them `first`.
    fn candidates(&self, first: Option<u64>) -> Vec<u64> {
        let me = self.core.raft_id();
        // A dead voter may hold as much as the living ones; waiting for it would use up the whole wait.
        let wanted = |m: &Membership| {
            m.voter && m.raft_id != me && (Some(m.raft_id) == first || self.heard_of(m.raft_id))
        };
        let mut members: Vec<Membership> = self.core.members().into_iter().filter(wanted).collect();
        members
            .sort_by_key(|m| std::cmp::Reverse((Some(m.raft_id) == first, m.matched, m.raft_id)));
        members.into_iter().map(|m| m.raft_id).collect()
    }

    async fn wait_heard_of(&self, raft_id: u64) {
        let mut metrics = self.core.raft.metrics();
        while !self.heard_of(raft_id) {
            if metrics.changed().await.is_err() {
                return self.core.stopped().await;
            }
        }
    }

    /// Whether that node has answered this leader's heartbeat lately.
    fn heard_of(&self, raft_id: u64) -> bool {
        let metrics = self.core.raft.metrics();
        let metrics = metrics.borrow_watched();
        let answered = metrics
            .heartbeat
            .as_ref()
            .and_then(|all| all.get(&raft_id).copied().flatten());
        answered.is_some_and(|at| {
            R::Instant::now().saturating_duration_since(*at) <= self.core.config.election_min
        })
    }
}
