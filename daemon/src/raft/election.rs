//! Who leads: campaigns, and handing leadership over. Whether a leader is dead is settled in `suspicion`.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use messagebase_protocol::limits::CAMPAIGN_DEADLINE;
use openraft::async_runtime::{Instant, WatchReceiver};
use openraft::{AsyncRuntime, ServerState};

use super::api::{CampaignError, Wire};
use super::replica::{MemberError, Membership, Replica};
use super::suspicion::Agreement;
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
/// The head start of a node that was told to stand.
const STAND_BY: Duration = Duration::from_millis(20);
/// An election of another node, for which this one has voted, is waited for so long in all.
const ASIDE_MOST: Duration = Duration::from_millis(150);
/// What a transfer may take until whoever asked for it is told that it did not succeed.
const TRANSFER_WAIT: Duration = Duration::from_secs(3);
/// What is waited for the heir's next sign of life before a transfer to it is refused; heartbeats are much more frequent.
const HEARD_WAIT: Duration = Duration::from_secs(1);
/// What one heir gets to take over. It first waits for its disk, at most as long as this.
const HEIR_WAIT: Duration = Duration::from_millis(300);
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
            let mut another_stands = false;
            if let Some(leader) = self.leader() {
                if !self.finds_dead(vote).await {
                    return Err(CampaignError::LeaderAlive(node_of(leader)));
                }
                // Without an agreement the leases run out by themselves, within an election timeout.
                another_stands = self.agree_to_drop(vote).await
                    == Agreement::Dropped {
                        another_stands: true,
                    };
            }
            self.elect_somebody(vote, another_stands)
                .await
                .map_err(CampaignError::LeaderAlive)
        };
        match self.unless_stopped(R::timeout_at(deadline, campaign)).await {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Err(CampaignError::NoQuorum),
        }
    }

    /// Elects until a leader under another vote than `old` is known. `another_stands`: a node with a longer log was told
    /// to; it gets a head start.
    ///
    /// # Errors
    /// The number of the leader of `old`, when that is heard of again.
    pub(super) async fn elect_somebody(&self, old: Vote, another_stands: bool) -> Result<u16, u16> {
        if another_stands && let Ok(leader) = R::timeout(STAND_BY, self.new_leader(old)).await {
            return Ok(node_of(leader));
        }
        let mut aside = Duration::ZERO;
        let last = ELECT_PAUSES[ELECT_PAUSES.len() - 1];
        for pause in ELECT_PAUSES.into_iter().chain(std::iter::repeat(last)) {
            if self.is_back(old) {
                return Err(node_of(old.leader_id.node_id));
            }
            // One task of a node at a time, and nobody while the election of a node that this one has voted for is under
            // way: another round would only void that one.
            let one = Electing::begin(&self.inner.electing);
            if aside < ASIDE_MOST && self.is_for_another(old) {
                aside += pause;
            } else if one.is_some()
                && let Err(error) = self.inner.raft.trigger().elect(true).await
            {
                tracing::debug!(%error, "can't campaign");
            }
            if let Ok(leader) = R::timeout(pause, self.new_leader(old)).await {
                return Ok(node_of(leader));
            }
        }
        // The pauses never end.
        std::future::pending().await
    }

    /// Whether this node has voted for another one since `old`, and that election is not decided.
    fn is_for_another(&self, old: Vote) -> bool {
        let vote = self.vote();
        !vote.committed
            && vote.leader_id != old.leader_id
            && vote.leader_id.node_id != self.raft_id()
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
        let acked = metrics
            .last_quorum_acked
            .is_some_and(|at| at.elapsed() < self.inner.config.election_max);
        metrics.state == ServerState::Leader && (alone || acked)
    }

    /// This node's vote, and whether it is a leader under it that is well: one with a quorum, or a new one that may
    /// still get it. A leader that denied itself until the first answers came would be voted out at once.
    pub(super) fn leadership(&self) -> (Vote, bool) {
        let vote = self.vote();
        let leads = self.leader() == Some(self.raft_id());
        let led = *self
            .inner
            .led
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let fresh = led.is_none_or(|(of, since)| {
            of != vote || since.elapsed() < self.inner.config.election_max
        });
        (vote, leads && (fresh || self.leads_with_quorum()))
    }

    /// Remembers since when this node leads.
    pub(super) fn note_leading(&self) {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state == ServerState::Leader {
            let mut led = self
                .inner
                .led
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if led.is_none_or(|(vote, _)| vote != metrics.vote) {
                *led = Some((metrics.vote, R::Instant::now()));
            }
        }
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
        let target = self
            .members()
            .into_iter()
            .find(|m| m.node.node == to_node && m.voter);
        let Some(target) = target else {
            return Err(MemberError::Refused(format!("node {to_node} is no voter")));
        };
        if target.raft_id == self.raft_id() {
            return Ok(());
        }
        let old = self.vote();
        if R::timeout(HEARD_WAIT, self.wait_heard_of(target.raft_id))
            .await
            .is_err()
        {
            return Err(MemberError::Refused(format!(
                "node {to_node} does not answer the leader. Hint: mbctl status shows who does"
            )));
        }
        self.hand_over(old, self.heirs(Some(target.raft_id)));
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
        let heirs = self.heirs(None);
        if heirs.is_empty() {
            return;
        }
        let old = self.vote();
        self.hand_over(old, heirs);
        if R::timeout(STOP_WAIT, self.new_leader(old)).await.is_err() {
            tracing::warn!("stopping before another node leads");
        }
    }

    /// Hands leadership under `old` to the first of these that takes it, in a task of its own that ends when this node
    /// does not lead any more: a leader that has begun a transfer refuses writes for good, whatever becomes of it.
    fn hand_over(&self, old: Vote, heirs: Vec<u64>) {
        let replica = self.clone();
        let task = async move {
            for heir in heirs.iter().copied().cycle() {
                if replica.vote() != old || old.leader_id.node_id != replica.raft_id() {
                    return;
                }
                if let Err(error) = replica.inner.raft.trigger().transfer_leader(heir).await {
                    tracing::debug!(%error, "can't hand leadership over");
                    return;
                }
                if R::timeout(HEIR_WAIT, replica.new_leader(old)).await.is_ok() {
                    return;
                }
                tracing::warn!(heir = node_of(heir), "the heir did not take over");
            }
        };
        let replica = self.clone();
        // It ends with the leadership, or with the replica.
        drop(R::spawn(async move {
            let _ = replica.unless_stopped(task).await;
        }));
    }

    /// The voters that answer this leader's heartbeats, the most up-to-date first; before all of them `first`.
    fn heirs(&self, first: Option<u64>) -> Vec<u64> {
        let me = self.raft_id();
        // A dead voter may hold as much as the living ones; waiting for it to take over would cost the whole wait.
        let wanted = |m: &Membership| {
            m.voter && m.raft_id != me && (Some(m.raft_id) == first || self.heard_of(m.raft_id))
        };
        let mut heirs: Vec<Membership> = self.members().into_iter().filter(wanted).collect();
        heirs.sort_by_key(|m| std::cmp::Reverse((Some(m.raft_id) == first, m.matched, m.raft_id)));
        heirs.into_iter().map(|m| m.raft_id).collect()
    }

    async fn wait_heard_of(&self, raft_id: u64) {
        let mut metrics = self.inner.raft.metrics();
        while !self.heard_of(raft_id) {
            if metrics.changed().await.is_err() {
                return self.stopped().await;
            }
        }
    }

    /// Whether this leader's heartbeat was answered by that node lately.
    fn heard_of(&self, raft_id: u64) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let answered = metrics
            .heartbeat
            .as_ref()
            .and_then(|all| all.get(&raft_id).copied().flatten());
        answered.is_some_and(|at| {
            R::Instant::now().saturating_duration_since(*at) <= self.inner.config.election_min
        })
    }

    pub(super) fn ensure_leads(&self) -> Result<(), MemberError> {
        let leader = self.leader();
        if leader == Some(self.raft_id()) {
            return Ok(());
        }
        Err(MemberError::NotLeader {
            leader: leader.map(node_of),
        })
    }
}

/// While it lives, its task is the one of this node that sees to an election.
struct Electing<'a>(&'a AtomicBool);

impl<'a> Electing<'a> {
    fn begin(electing: &'a AtomicBool) -> Option<Self> {
        (!electing.swap(true, Ordering::AcqRel)).then_some(Electing(electing))
    }
}

impl Drop for Electing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
