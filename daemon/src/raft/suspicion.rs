//! Whether the leader is dead, and what to do about it at once.
//!
//! A leader's lease protects it for up to an election timeout after it was last heard of. When it is dead that is time
//! lost, but a lease that was dropped can't be taken back before the next vote. So a suspicion (a lost connection,
//! silence, a client's campaign) only makes a node ask the leader afresh; when that fails it asks the other voters, each
//! of which asks the leader for itself; with a quorum of one opinion, those who agreed drop the lease and one of them
//! stands for election. Raft's own timers are the backstop for all of this, and its safety depends on none of it.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use messagebase_protocol::peer::Purpose;
use openraft::AsyncRuntime;
use openraft::async_runtime::{Instant, Select2};
use openraft::raft::TransferLeaderRequest;

use super::api::{Link, Wire};
use super::frame::{Reply, Request, WireVote, decode, encode, from_wire_vote, to_wire_vote};
use super::replica::Replica;
use super::types::{Vote, node_of, to_log_id};
use crate::store::LogId;

/// A leader that does not answer a fresh call in this time is taken for dead by the node that asks.
const ALIVE_WAIT: Duration = Duration::from_millis(100);
/// Asking the others what they think of the leader; each of them asks it too.
const SUSPECT_WAIT: Duration = Duration::from_millis(250);
/// So many heartbeats may fail to come before the leader is asked whether it lives.
const SILENT_HEARTBEATS: u32 = 5;
/// Who is not the most up to date lets the other stand first.
const STAND_BY: Duration = Duration::from_millis(15);
/// An election that nobody won in this time is left to Raft's timers.
const ELECT_MOST: Duration = Duration::from_secs(1);
/// Id that no node has: a transfer addressed to it drops the lease and elects nobody.
const NO_NODE: u64 = 0;

/// What came of asking the other voters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agreement {
    /// No quorum thinks that the leader is dead; every lease stands.
    Disagreed,
    /// The leases of those who agreed are dropped.
    Dropped {
        /// Whether another of them holds a longer log, or an equal one under a greater id.
        another_first: bool,
    },
}

impl<R: AsyncRuntime, W: Wire> Replica<R, W> {
    /// The peer door tells that a connection from or to this peer broke. Of a follower nothing follows; the leader is
    /// asked whether it lives.
    pub fn peer_lost(&self, raft_id: u64) {
        if self.leader() == Some(raft_id) && raft_id != self.raft_id() {
            self.inner.lost.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Notices that the leader is gone.
    pub(super) async fn suspicion_loop(self) {
        let silence = self.inner.config.heartbeat * SILENT_HEARTBEATS;
        let mut lost = self.inner.lost.subscribe();
        // Asked before this, the leader is not asked again.
        let mut quiet_until = R::Instant::now() + silence;
        loop {
            let wake = quiet_until.max(self.heard_at() + silence);
            let wait = R::select2(lost.changed(), R::sleep_until(wake));
            match self.unless_stopped(wait).await {
                None | Some(Select2::First(Err(_))) => return,
                Some(Select2::First(Ok(()))) => {}
                // Heard of it while asleep.
                Some(Select2::Second(())) if self.heard_at() + silence > R::Instant::now() => {
                    continue;
                }
                Some(Select2::Second(())) => {}
            }
            if self.unless_stopped(self.suspect_leader()).await.is_none() {
                return;
            }
            quiet_until = R::Instant::now() + silence;
        }
    }

    async fn suspect_leader(&self) {
        let vote = self.vote();
        if !vote.committed || self.leader().is_none_or(|leader| leader == self.raft_id()) {
            return;
        }
        if self.leader_answers(vote).await {
            return;
        }
        tracing::warn!(leader = node_of(vote.leader_id.node_id), "the leader does not answer");
        if let Agreement::Dropped { another_first } = self.agree_to_drop(vote).await {
            if another_first && R::timeout(STAND_BY, self.new_leader(vote)).await.is_ok() {
                return;
            }
            // The winner is logged where the view changes.
            let _ = R::timeout(ELECT_MOST, self.elect_somebody(vote)).await;
        }
    }

    /// Asks the leader of `vote` over a connection of its own: an old one may be dead without knowing it.
    pub(super) async fn leader_answers(&self, vote: Vote) -> bool {
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
    /// drop their lease, and an election need not wait for it to run out.
    pub(super) async fn agree_to_drop(&self, vote: Vote) -> Agreement {
        let voters = self.voters();
        if !voters.contains(&self.raft_id()) {
            return Agreement::Disagreed;
        }
        let mine = self.last_log().map(to_log_id);
        let request = Request::Suspect { vote: to_wire_vote(&vote), last: mine };
        let others = voters.iter().filter(|id| **id != self.raft_id() && **id != vote.leader_id.node_id);
        let links = others.filter_map(|id| Some((*id, self.inner.wire.link(self.target(*id)?, Purpose::Raft))));
        let asked: Vec<(u64, W::Link)> = links.collect();
        let mut answers: FuturesUnordered<_> =
            asked.iter().map(|(id, link)| self.suspect(*id, link, &request)).collect();
        let mut agreed: Vec<(u64, &W::Link, Option<LogId>)> = Vec::new();
        let quorum = voters.len() / 2 + 1;
        // This node agrees with itself.
        while agreed.len() + 1 < quorum {
            match answers.next().await {
                Some((id, link, Some(Reply::Suspect { agrees: true, last }))) => agreed.push((id, link, last)),
                Some(_) => {}
                None => return Agreement::Disagreed,
            }
        }
        drop(answers);
        let another_first = agreed.iter().any(|(id, _, last)| (*last, *id) > (mine, self.raft_id()));
        let request = Request::Drop { vote: to_wire_vote(&vote) };
        let drops: FuturesUnordered<_> =
            agreed.into_iter().map(|(_, link, _)| self.ask(link, &request, ALIVE_WAIT)).collect();
        drops.count().await;
        if let Err(error) = self.drop_lease(to_wire_vote(&vote)).await {
            tracing::debug!(%error, "can't drop the leader's lease");
        }
        Agreement::Dropped { another_first }
    }

    async fn suspect<'l>(&self, id: u64, link: &'l W::Link, request: &Request) -> (u64, &'l W::Link, Option<Reply>) {
        (id, link, self.ask(link, request, SUSPECT_WAIT).await)
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
}
