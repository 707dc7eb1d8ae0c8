//! Who leads: campaigns, and handing leadership over. Whether a leader is dead is settled in `suspicion`.

use std::time::Duration;

use messagebase_protocol::limits::CAMPAIGN_DEADLINE;
use openraft::async_runtime::{Instant, WatchReceiver};
use openraft::{AsyncRuntime, ServerState};

use super::api::{CampaignError, Wire};
use super::replica::{MemberError, Replica};
use super::types::{RaftLogId, Vote, node_of};

/// Pauses between elections that nobody won; the last one repeats. They grow, because a new round voids the answers to
/// the one before, and far peers need longer than the first pause.
const ELECT_PAUSES: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
    Duration::from_millis(160),
    Duration::from_millis(250),
];
/// What a transfer may take before the other voters' timers have to settle it.
const TRANSFER_WAIT: Duration = Duration::from_secs(3);
/// What a graceful stop waits for its successor.
const STOP_WAIT: Duration = Duration::from_millis(1_000);

impl<R: AsyncRuntime, W: Wire> Replica<R, W> {
    /// A client's wish for a leader; returns the winner's number.
    ///
    /// # Errors
    /// `LeaderAlive` when the leader answers a fresh call; `NoQuorum` after [`CAMPAIGN_DEADLINE`].
    pub async fn campaign(&self) -> Result<u16, CampaignError> {
        let deadline = R::Instant::now() + CAMPAIGN_DEADLINE;
        let campaign = async {
            let vote = self.vote();
            if let Some(leader) = self.leader() {
                if self.leader_answers(vote).await {
                    return Err(CampaignError::LeaderAlive(node_of(leader)));
                }
                // Without an agreement the leases run out by themselves, within an election timeout.
                self.agree_to_drop(vote).await;
            }
            Ok(self.elect_somebody(vote).await)
        };
        match self.unless_stopped(R::timeout_at(deadline, campaign)).await {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Err(CampaignError::NoQuorum),
        }
    }

    /// Elects until a leader under another vote than `old` is known.
    pub(super) async fn elect_somebody(&self, old: Vote) -> u16 {
        let last = ELECT_PAUSES[ELECT_PAUSES.len() - 1];
        for pause in ELECT_PAUSES.into_iter().chain(std::iter::repeat(last)) {
            if let Err(error) = self.inner.raft.trigger().elect(true).await {
                tracing::debug!(%error, "can't campaign");
            }
            if let Ok(leader) = R::timeout(pause, self.new_leader(old)).await {
                return node_of(leader);
            }
        }
        // The pauses never end.
        std::future::pending().await
    }

    /// Resolves with the leader once the vote is committed and not `old`.
    pub(super) async fn new_leader(&self, old: Vote) -> u64 {
        let mut metrics = self.inner.raft.server_metrics();
        loop {
            {
                let now = metrics.borrow_and_update();
                if let Some(leader) = now.current_leader
                    && (now.vote.leader_id != old.leader_id || !old.committed)
                    && now.vote.committed
                {
                    return leader;
                }
            }
            if metrics.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    pub(super) fn vote(&self) -> Vote {
        self.inner.raft.server_metrics().borrow_watched().vote
    }

    /// Whether this node leads and a quorum has said so lately.
    pub fn leads_with_quorum(&self) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let alone = metrics.membership_config.voter_ids().count() == 1;
        let acked = metrics.last_quorum_acked.is_some_and(|at| at.elapsed() < self.inner.config.election_max);
        metrics.state == ServerState::Leader && (alone || acked)
    }

    pub(super) fn voters(&self) -> Vec<u64> {
        self.inner.raft.server_metrics().borrow_watched().membership_config.voter_ids().collect()
    }

    pub(super) fn last_log(&self) -> Option<RaftLogId> {
        self.inner.raft.data_metrics().borrow_watched().last_log
    }

    /// Hands leadership to a voter and waits until it leads.
    ///
    /// # Errors
    /// On any node but the leader, for anything but a voter, or when another node came to lead.
    pub async fn transfer(&self, to_node: u16) -> Result<(), MemberError> {
        self.ensure_leads()?;
        let target = self.members().into_iter().find(|m| m.node.node == to_node && m.voter);
        let Some(target) = target else {
            return Err(MemberError::Refused(format!("node {to_node} is no voter")));
        };
        if target.raft_id == self.raft_id() {
            return Ok(());
        }
        let old = self.vote();
        let refused = |e: openraft::errors::Fatal<_>| MemberError::Refused(format!("this node is stopping: {e}"));
        self.inner.raft.trigger().transfer_leader(target.raft_id).await.map_err(refused)?;
        // When the target does not take over, this leader stays without writes until the others' timers elect.
        match R::timeout(TRANSFER_WAIT, self.new_leader(old)).await {
            Ok(leader) if leader == target.raft_id => Ok(()),
            Ok(leader) => Err(MemberError::Refused(format!(
                "node {to_node} did not take over, node {} leads now",
                node_of(leader)
            ))),
            Err(_) => Err(MemberError::NoQuorum),
        }
    }

    /// Before a graceful stop: hands leadership, if held, to the most up-to-date voter; waits at most a second.
    pub async fn step_down_for_stop(&self) {
        if self.ensure_leads().is_err() {
            return;
        }
        let me = self.raft_id();
        // A dead voter may hold as much as the living ones; waiting for it to take over would cost the whole wait.
        let others = self.members().into_iter().filter(|m| m.voter && m.raft_id != me && self.heard_of(m.raft_id));
        let Some(heir) = others.max_by_key(|m| (m.matched, m.raft_id)) else { return };
        let old = self.vote();
        if self.inner.raft.trigger().transfer_leader(heir.raft_id).await.is_err() {
            return;
        }
        if R::timeout(STOP_WAIT, self.new_leader(old)).await.is_err() {
            tracing::warn!(heir = heir.node.node, "stopping before another node leads");
        }
    }

    /// Whether this leader's heartbeat was answered by that node lately.
    fn heard_of(&self, raft_id: u64) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let answered = metrics.heartbeat.as_ref().and_then(|all| all.get(&raft_id).copied().flatten());
        answered.is_some_and(|at| R::Instant::now().saturating_duration_since(*at) <= self.inner.config.election_min)
    }

    pub(super) fn ensure_leads(&self) -> Result<(), MemberError> {
        let leader = self.leader();
        if leader == Some(self.raft_id()) {
            return Ok(());
        }
        Err(MemberError::NotLeader { leader: leader.map(node_of) })
    }
}
