//! Who leads: campaigns, liveness of a leader, handing leadership over.
//!
//! A leader's lease protects it for up to an election timeout after it was last heard of. When it is dead that is time
//! lost, but a lease that was dropped can't be taken back before the next vote, so one node's opinion is never enough:
//! see [`Replica::campaign`].

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use messagebase_protocol::limits::CAMPAIGN_DEADLINE;
use messagebase_protocol::peer::Purpose;
use openraft::async_runtime::{Instant, WatchReceiver};
use openraft::raft::TransferLeaderRequest;
use openraft::{AsyncRuntime, ServerState};

use super::api::{CampaignError, Link, Wire};
use super::frame::{Reply, Request, WireVote, decode, encode, from_wire_vote, to_wire_vote};
use super::replica::{MemberError, Replica};
use super::types::{RaftLogId, Vote, node_of, to_log_id};

/// A leader that does not answer a fresh call in this time is taken for dead by the node that asks.
const ALIVE_WAIT: Duration = Duration::from_millis(150);
/// Asking the others what they think of the leader; each of them asks it too.
const SUSPECT_WAIT: Duration = Duration::from_millis(300);
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
/// Id that no node has: a transfer addressed to it drops the lease and elects nobody.
const NO_NODE: u64 = 0;

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
    async fn elect_somebody(&self, old: Vote) -> u16 {
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
    async fn new_leader(&self, old: Vote) -> u64 {
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

    fn vote(&self) -> Vote {
        self.inner.raft.server_metrics().borrow_watched().vote
    }

    /// Whether this node leads and a quorum has said so lately.
    pub(super) fn leads_with_quorum(&self) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let alone = metrics.membership_config.voter_ids().count() == 1;
        let acked = metrics.last_quorum_acked.is_some_and(|at| at.elapsed() < self.inner.config.election_max);
        metrics.state == ServerState::Leader && (alone || acked)
    }

    /// Asks the leader of `vote` over a connection of its own: an old one may be dead without knowing it.
    async fn leader_answers(&self, vote: Vote) -> bool {
        let leader = vote.leader_id.node_id;
        if leader == self.raft_id() {
            return self.leads_with_quorum();
        }
        let Some(target) = self.target(leader) else { return false };
        let link = self.inner.wire.link(target, Purpose::Raft);
        match self.ask(&link, &Request::Alive, ALIVE_WAIT).await {
            Some(Reply::Alive { vote: theirs, leads }) => leads && from_wire_vote(theirs).leader_id == vote.leader_id,
            Some(_) | None => false,
        }
    }

    async fn ask(&self, link: &W::Link, request: &Request, wait: Duration) -> Option<Reply> {
        let frame = encode(request).ok()?;
        // The link has the same limit; ours also covers one that does not keep it.
        let answer = R::timeout(wait, link.call(frame, wait)).await.ok()?.ok()?;
        decode(&answer).ok()
    }

    /// Asks the other voters whether they find the leader of `vote` dead too; with a quorum of them, all that agreed
    /// drop their lease, and the election need not wait for it to run out.
    async fn agree_to_drop(&self, vote: Vote) {
        let voters = self.voters();
        let request = Request::Suspect { vote: to_wire_vote(&vote), last: self.last_log().map(to_log_id) };
        let others = voters.iter().filter(|id| **id != self.raft_id() && **id != vote.leader_id.node_id);
        let links = others.filter_map(|id| Some(self.inner.wire.link(self.target(*id)?, Purpose::Raft)));
        let asked: Vec<W::Link> = links.collect();
        let mut answers: FuturesUnordered<_> = asked.iter().map(|link| self.suspect(link, &request)).collect();
        let mut agreed: Vec<&W::Link> = Vec::new();
        let quorum = voters.len() / 2 + 1;
        // This node agrees with itself.
        while agreed.len() + 1 < quorum {
            match answers.next().await {
                Some((link, Some(Reply::Suspect { agrees: true, .. }))) => agreed.push(link),
                Some(_) => {}
                None => return,
            }
        }
        drop(answers);
        let request = Request::Drop { vote: to_wire_vote(&vote) };
        let drops: FuturesUnordered<_> = agreed.into_iter().map(|link| self.ask(link, &request, ALIVE_WAIT)).collect();
        drops.count().await;
        if let Err(error) = self.drop_lease(to_wire_vote(&vote)).await {
            tracing::debug!(%error, "can't drop the leader's lease");
        }
    }

    async fn suspect<'l>(&self, link: &'l W::Link, request: &Request) -> (&'l W::Link, Option<Reply>) {
        (link, self.ask(link, request, SUSPECT_WAIT).await)
    }

    /// Looks at the leader of `vote` with own eyes.
    pub(super) async fn handle_suspect(&self, vote: WireVote) -> Reply {
        let vote = from_wire_vote(vote);
        let agrees = self.vote() == vote && vote.committed && !self.leader_answers(vote).await;
        Reply::Suspect { agrees, last: self.last_log().map(to_log_id) }
    }

    /// Drops this node's lease of the leader of `vote`; only after a quorum agreed that it is dead. Of another vote, or
    /// when this node leads: nothing.
    pub(super) async fn drop_lease(&self, vote: WireVote) -> Result<(), String> {
        let vote = from_wire_vote(vote);
        if vote.leader_id.node_id == self.raft_id() {
            // Forged to itself a transfer would depose a healthy leader.
            return Ok(());
        }
        let request = TransferLeaderRequest::new(vote, NO_NODE, None);
        self.inner.raft.handle_transfer_leader(request).await.map(|_| ()).map_err(|e| e.to_string())
    }

    fn voters(&self) -> Vec<u64> {
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
        let others = self.members().into_iter().filter(|m| m.voter && m.raft_id != me);
        let Some(heir) = others.max_by_key(|m| (m.matched, m.raft_id)) else { return };
        let old = self.vote();
        if self.inner.raft.trigger().transfer_leader(heir.raft_id).await.is_err() {
            return;
        }
        if R::timeout(STOP_WAIT, self.new_leader(old)).await.is_err() {
            tracing::warn!(heir = heir.node.node, "stopping before another node leads");
        }
    }

    pub(super) fn ensure_leads(&self) -> Result<(), MemberError> {
        let leader = self.leader();
        if leader == Some(self.raft_id()) {
            return Ok(());
        }
        Err(MemberError::NotLeader { leader: leader.map(node_of) })
    }
}
