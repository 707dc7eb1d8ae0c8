//! Whether the leader is dead, and how a majority comes to agree on it.
//!
//! A leader's lease protects it for up to an election timeout after it was last heard of. When the leader is dead, that
//! time is lost. But a lease that was dropped can't be restored before the next vote. So a suspicion (a lost connection,
//! silence, a client's campaign) only makes a node probe the leader. With evidence it asks the other voters, which probe
//! for themselves. When a quorum agrees, those who agreed drop the lease, and one of them campaigns. Raft's own timers are
//! the backstop, and its safety depends on none of this.
//!
//! What a probe proves is in `probe`, how a leader is elected in `election`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use messagebase_protocol::limits::CAMPAIGN_DEADLINE;
use messagebase_protocol::quorum::majority;
use openraft::AsyncRuntime;
use openraft::async_runtime::{Instant, Select2, WatchReceiver};

use super::api::{CampaignError, Wire};
use super::core::Core;
use super::election::Elections;
use super::frame::{Reply, Request, WireVote, from_wire_vote, to_wire_vote};
use super::probe::{FINDING_COUNTS, Prober, ask};
use super::types::{Vote, node_of, to_log_id};
use crate::entry::LogId;
use crate::watch;

/// How long the other voters have to answer; each of them probes the leader too.
const SUSPECT_WAIT: Duration = Duration::from_millis(500);
/// How long a voter has to drop the lease, or to begin its campaign.
const DROP_WAIT: Duration = Duration::from_millis(100);
/// A finding that the leader is dead is reused for this long. When a leader hangs, all nodes probe it and then ask each other; the cached
/// result lets them answer at once.
const PROBE_COUNTS: Duration = Duration::from_millis(100);
/// Pause before a leader whose process is gone is probed again, when no majority has agreed.
const AGAIN_AFTER: Duration = Duration::from_millis(30);
/// Such probes in a row; then the next one waits as after any probe.
const AGAIN_MAX: u32 = 6;
/// An election that nobody won in this time is left to Raft's timers.
const ELECTION_MAX: Duration = Duration::from_secs(1);

/// What the other voters think of the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agreement {
    /// No quorum finds the leader dead; every lease stands.
    Disagreed,
    /// Those who agreed have dropped their leases, and the most up to date of them campaigns.
    Dropped {
        /// Whether that is another node, which was told to.
        another_campaigns: bool,
    },
}

/// A voter that finds the leader dead too.
struct Agreed<L> {
    id: u64,
    last: Option<LogId>,
    link: Arc<L>,
}

/// Whether `agreed` has a majority of each set of voters; during a membership change there are two sets.
fn is_quorum(voter_sets: &[BTreeSet<u64>], agreed: &BTreeSet<u64>) -> bool {
    !voter_sets.is_empty()
        && voter_sets
            .iter()
            .all(|voters| voters.intersection(agreed).count() >= majority(voters.len()))
}

/// Suspects the leader.
pub(super) struct Suspicion<R: AsyncRuntime, W: Wire> {
    core: Arc<Core<R, W>>,
    prober: Arc<Prober<R, W>>,
    elections: Arc<Elections<R, W>>,
    /// Counts broken connections with the leader.
    lost: watch::Sender<u64>,
}

impl<R: AsyncRuntime, W: Wire> Suspicion<R, W> {
    pub(super) fn new(
        core: Arc<Core<R, W>>,
        prober: Arc<Prober<R, W>>,
        elections: Arc<Elections<R, W>>,
    ) -> Self {
        Suspicion {
            core,
            prober,
            elections,
            lost: watch::Sender::new(0),
        }
    }

    /// A connection from or to this peer broke. If it leads, it is probed.
    pub(super) fn peer_lost(&self, raft_id: u64) {
        if self.core.leader() == Some(raft_id) && raft_id != self.core.raft_id() {
            self.lost
                .send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Notices that the leader is gone.
    pub(super) async fn run(self: Arc<Self>) {
        let silence = self.prober.silence();
        let mut lost = self.lost.subscribe();
        // The leader is not probed again before this.
        let mut next_probe = R::Instant::now() + silence;
        let mut again = 0;
        loop {
            let heard_until = if again > 0 {
                next_probe
            } else {
                self.core.heard_at() + silence
            };
            let wake = next_probe.max(heard_until);
            let wait = R::select2(lost.changed(), R::sleep_until(wake));
            match self.core.unless_stopped(wait).await {
                None | Some(Select2::First(Err(_))) => return,
                Some(Select2::First(Ok(()))) => {}
                // A heartbeat came during the sleep.
                Some(Select2::Second(())) if again == 0 && !self.prober.is_silent() => continue,
                Some(Select2::Second(())) => {}
            }
            let Some(settled) = self.core.unless_stopped(self.suspect_leader()).await else {
                return;
            };
            again = if settled { 0 } else { (again + 1) % AGAIN_MAX };
            next_probe = R::Instant::now() + if again > 0 { AGAIN_AFTER } else { silence };
        }
    }

    /// False: the leader's process is gone, but no majority has agreed yet. The others may not have noticed.
    async fn suspect_leader(&self) -> bool {
        let vote = self.core.vote();
        let leader = self.core.leader();
        if !vote.committed || leader.is_none_or(|leader| leader == self.core.raft_id()) {
            return true;
        }
        if !self.prober.finds_dead(vote).await {
            return true;
        }
        match self.agree_to_drop(vote).await {
            Agreement::Dropped { another_campaigns } => {
                tracing::warn!(
                    leader = node_of(vote.leader_id.node_id),
                    "the leader is dead, a majority agrees"
                );
                // The winner is logged where the view changes.
                let election = self.elections.elect(vote, another_campaigns);
                let _ = R::timeout(ELECTION_MAX, election).await;
                true
            }
            Agreement::Disagreed => !self.prober.is_gone(vote),
        }
    }

    /// A client's request for a leader; returns the winner's number.
    ///
    /// # Errors
    /// `LeaderAlive` when the leader answers a probe; `NoQuorum` after [`CAMPAIGN_DEADLINE`].
    pub(super) async fn campaign(&self) -> Result<u16, CampaignError> {
        let deadline = R::Instant::now() + CAMPAIGN_DEADLINE;
        let campaign = async {
            let vote = self.core.vote();
            let mut another_campaigns = false;
            if let Some(leader) = self.core.leader() {
                if !self.prober.finds_dead(vote).await {
                    return Err(CampaignError::LeaderAlive(node_of(leader)));
                }
                // Without an agreement the leases run out by themselves, within an election timeout.
                another_campaigns = self.agree_to_drop(vote).await
                    == Agreement::Dropped {
                        another_campaigns: true,
                    };
            }
            let elected = self.elections.elect(vote, another_campaigns).await;
            elected.map_err(CampaignError::LeaderAlive)
        };
        let within = R::timeout_at(deadline, campaign);
        match self.core.unless_stopped(within).await {
            Some(Ok(result)) => result,
            Some(Err(_)) | None => Err(CampaignError::NoQuorum),
        }
    }

    /// Asks the other voters whether they find the leader of `vote` dead too, as this node does. With a quorum of them, all
    /// that agreed drop their lease, and an election need not wait for it to run out.
    async fn agree_to_drop(&self, vote: Vote) -> Agreement {
        let voter_sets = self.voter_sets();
        let me = self.core.raft_id();
        if !voter_sets.iter().any(|voters| voters.contains(&me)) {
            return Agreement::Disagreed;
        }
        let Some(agreed) = self.ask_other_voters(vote, &voter_sets).await else {
            return Agreement::Disagreed;
        };
        let mine = (self.core.last_log().map(to_log_id), me);
        // A leader that finds itself without a quorum can't campaign: it leads.
        let mine = (me != vote.leader_id.node_id).then_some(mine);
        if !self.drop_leases(vote, &voter_sets, &agreed).await {
            return Agreement::Disagreed;
        }
        let best = agreed.iter().max_by_key(|voter| (voter.last, voter.id));
        let Some(best) = best.filter(|voter| mine.is_none_or(|mine| (voter.last, voter.id) > mine))
        else {
            return Agreement::Dropped {
                another_campaigns: false,
            };
        };
        let request = Request::Stand {
            vote: to_wire_vote(&vote),
        };
        ask::<R, _>(&*best.link, &request, DROP_WAIT).await;
        Agreement::Dropped {
            another_campaigns: true,
        }
    }

    /// The voters that find the leader of `vote` dead, once they are a quorum together with this node.
    async fn ask_other_voters(
        &self,
        vote: Vote,
        voter_sets: &[BTreeSet<u64>],
    ) -> Option<Vec<Agreed<W::Link>>> {
        let me = self.core.raft_id();
        let request = Request::Suspect {
            vote: to_wire_vote(&vote),
            last: self.core.last_log().map(to_log_id),
        };
        let voters: BTreeSet<u64> = voter_sets.iter().flatten().copied().collect();
        let others = voters
            .into_iter()
            .filter(|id| *id != me && *id != vote.leader_id.node_id);
        let asked: Vec<(u64, Arc<W::Link>)> = others
            .filter_map(|id| Some((id, self.core.links.control.to(self.core.target(id)?))))
            .collect();
        let mut answers: FuturesUnordered<_> = asked
            .into_iter()
            .map(async |(id, link)| {
                let reply = ask::<R, _>(&*link, &request, SUSPECT_WAIT).await;
                (id, link, reply)
            })
            .collect();
        let mut agreed = Vec::new();
        let mut quorum = BTreeSet::from([me]);
        while !is_quorum(voter_sets, &quorum) {
            if let (id, link, Some(Reply::Suspect { agrees: true, last })) = answers.next().await? {
                quorum.insert(id);
                agreed.push(Agreed { id, last, link });
            }
        }
        Some(agreed)
    }

    /// Drops the leases, this node's first: if it has heard of the leader meanwhile, no lease is dropped. Whether a quorum of
    /// them is dropped.
    async fn drop_leases(
        &self,
        vote: Vote,
        voter_sets: &[BTreeSet<u64>],
        agreed: &[Agreed<W::Link>],
    ) -> bool {
        if let Err(error) = self.prober.drop_lease(vote).await {
            tracing::debug!(%error, "can't drop the leader's lease");
            return false;
        }
        let request = Request::Drop {
            vote: to_wire_vote(&vote),
        };
        let mut drops: FuturesUnordered<_> = agreed
            .iter()
            .map(async |voter| {
                let reply = ask::<R, _>(&*voter.link, &request, DROP_WAIT).await;
                (voter.id, reply)
            })
            .collect();
        let mut dropped = BTreeSet::from([self.core.raft_id()]);
        while !is_quorum(voter_sets, &dropped) {
            match drops.next().await {
                Some((id, Some(Reply::Done))) => drop(dropped.insert(id)),
                Some(_) => {}
                None => return false,
            }
        }
        true
    }

    /// Answers another voter that suspects the leader of `vote`, after a probe of this node's own.
    pub(super) async fn answer_suspect(&self, vote: WireVote) -> Reply {
        let vote = from_wire_vote(vote);
        let follows = || vote.committed && self.core.vote() == vote;
        let found = follows()
            && (self.prober.found_dead(vote, PROBE_COUNTS) || self.prober.finds_dead(vote).await);
        // A newer vote that came during the probe settles the matter.
        Reply::Suspect {
            agrees: found && follows(),
            last: self.core.last_log().map(to_log_id),
        }
    }

    /// The leases are dropped, and this node is the most up to date of those who agreed: it campaigns, in a task of its own.
    pub(super) fn campaign_as_most_up_to_date(&self, vote: Vote) {
        if self.core.vote() != vote || !self.prober.found_dead(vote, FINDING_COUNTS) {
            return;
        }
        let (core, elections) = (self.core.clone(), self.elections.clone());
        let election = async move {
            let elect = R::timeout(ELECTION_MAX, elections.elect(vote, false));
            let _ = core.unless_stopped(elect).await;
        };
        // It ends by itself.
        drop(R::spawn(election));
    }

    fn voter_sets(&self) -> Vec<BTreeSet<u64>> {
        let metrics = self.core.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        membership.get_joint_config().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_a_majority_of_each_set_of_voters() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        let quorum = |configs: &[&[u64]], agreed: &[u64]| {
            is_quorum(
                &configs.iter().map(|ids| set(ids)).collect::<Vec<_>>(),
                &set(agreed),
            )
        };
        assert!(quorum(&[&[1, 2, 3]], &[2, 3]));
        assert!(!quorum(&[&[1, 2, 3]], &[3]));
        assert!(!quorum(&[&[1, 2, 3, 4]], &[1, 2]));
        // Between 1, 2, 3 and 3, 4, 5: three of the five together are not enough.
        assert!(!quorum(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 4]));
        assert!(!quorum(&[&[1, 2, 3], &[3, 4, 5]], &[4, 5]));
        assert!(quorum(&[&[1, 2, 3], &[3, 4, 5]], &[2, 3, 4]));
        // Learners do not count, and without a membership there is no quorum.
        assert!(!quorum(&[&[1, 2, 3]], &[3, 7, 8]));
        assert!(!quorum(&[], &[1, 2, 3]));
    }
}
