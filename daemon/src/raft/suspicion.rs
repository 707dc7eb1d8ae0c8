//! Whether the leader is dead, and what to do about it at once.
//!
//! A leader's lease protects it for up to an election timeout after it was last heard of. When it is dead that is time
//! lost, but a lease that was dropped can't be taken back before the next vote. So a suspicion (a lost connection,
//! silence, a client's campaign) only makes a node look at the leader afresh; when that fails it asks the other voters,
//! each of which looks for itself; with a quorum of one opinion, those who agreed drop the lease and one of them stands
//! for election. Raft's own timers are the backstop for all of this, and its safety depends on none of it.
//!
//! How the winner is found is in `election`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use messagebase_protocol::peer::Purpose;
use openraft::AsyncRuntime;
use openraft::async_runtime::{Instant, Select2, Select3, WatchReceiver};
use openraft::raft::TransferLeaderRequest;

use super::api::{Link, Target, Wire, WireError};
use super::frame::{Reply, Request, WireVote, decode, encode, from_wire_vote, to_wire_vote};
use super::replica::Replica;
use super::types::{Vote, node_of, to_log_id};
use crate::entry::LogId;

/// How long one look at the leader takes at most, on a machine that has time for us: [`PATIENCE_TICKS`] ticks.
const LOOK_MOST: Duration = Duration::from_millis(200);
/// A look's patience is counted in short sleeps. On a machine that is too busy each of them takes longer, so a look there
/// takes longer too: the leader may be as late as we are. (With a load of 25 on two cores a handshake took over 200 ms.)
const PATIENCE_TICKS: u32 = 20;
/// A look's answer is waited for so long whatever the machine does.
const LOOK_EVER: Duration = Duration::from_secs(1);
/// Between two dials of one look, when the first was broken off: a process that is gone refuses the next one.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Dials of one look that must have been broken off to make a difference.
const BREAKS: u32 = 3;
/// Asking the others what they think of the leader; each of them looks at it too.
const SUSPECT_WAIT: Duration = Duration::from_millis(500);
/// Telling those who agreed to drop the lease, or one of them to stand.
const DROP_WAIT: Duration = Duration::from_millis(100);
/// So many heartbeats may fail to come before the leader is asked whether it lives.
const SILENT_HEARTBEATS: u32 = 5;
/// What a node found by looking counts so long without looking again: whoever is asked right after its own look, as all
/// are when a leader hangs, answers at once.
const LOOK_COUNTS: Duration = Duration::from_millis(100);
/// What a node found counts so long when it is told to drop the lease: a frame that was under way for longer is about
/// a leader that may have come back.
const FOUND_COUNTS: Duration = Duration::from_secs(1);
/// A leader that is gone for sure is looked at again after this long, when no majority has agreed.
const AGAIN_AFTER: Duration = Duration::from_millis(30);
/// So many times in a row; then as after any look.
const AGAIN_MOST: u32 = 6;
/// An election that nobody won in this time is left to Raft's timers.
const ELECT_MOST: Duration = Duration::from_secs(1);
/// Id that no node has: a transfer addressed to it drops the lease and elects nobody.
const NO_NODE: u64 = 0;

/// What came of asking the other voters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agreement {
    /// No quorum thinks that the leader is dead; every lease stands.
    Disagreed,
    /// The leases of those who agreed are dropped, and one of them is the most up to date.
    Dropped {
        /// Whether that is another node, which was told to stand.
        another_stands: bool,
    },
}

/// What a node saw when it dialed the leader of a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// It leads under this very vote, and a quorum follows it.
    Leads,
    /// It answers that it does not.
    Denies,
    /// Nobody listens there: the process is gone.
    Gone,
    /// The connection broke before the answer, every time. A dying process does that, and so does a bad network.
    Broken,
    /// No answer in time. A hung process does that, and so does a busy machine.
    Silent,
}

impl Sight {
    /// Whether it is evidence that the leader is dead. `heard_since`: a heartbeat came while looking. `quiet`: no
    /// heartbeat has come for as long as calls for a look.
    fn is_evidence(self, heard_since: bool, quiet: bool) -> bool {
        match self {
            Sight::Leads => false,
            Sight::Denies | Sight::Gone => true,
            Sight::Broken => !heard_since,
            Sight::Silent => quiet,
        }
    }

    /// Whether it stays true: what is heard afterwards was sent before, and a process that starts again does not lead
    /// under an old vote.
    fn is_proof(self) -> bool {
        self == Sight::Gone
    }
}

/// A leader that was found dead.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoundDead<I> {
    vote: Vote,
    at: I,
    proven: bool,
}

/// Whether those are a majority of each set of voters; while a membership change is under way there are two.
fn is_quorum(configs: &[BTreeSet<u64>], agreed: &BTreeSet<u64>) -> bool {
    !configs.is_empty()
        && configs
            .iter()
            .all(|voters| voters.intersection(agreed).count() > voters.len() / 2)
}

async fn patience<R: AsyncRuntime>() {
    for _ in 0..PATIENCE_TICKS {
        R::sleep(LOOK_MOST / PATIENCE_TICKS).await;
    }
}

/// A voter that finds the leader dead too.
struct Agreed<L> {
    id: u64,
    last: Option<LogId>,
    link: Arc<L>,
}

impl<R: AsyncRuntime, W: Wire> Replica<R, W> {
    /// The peer door tells that a connection from or to this peer broke. Of a follower nothing follows; the leader is
    /// looked at.
    pub fn peer_lost(&self, raft_id: u64) {
        if self.leader() == Some(raft_id) && raft_id != self.raft_id() {
            self.inner
                .lost
                .send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Notices that the leader is gone.
    pub(super) async fn suspicion_loop(self) {
        let silence = self.silence();
        let mut lost = self.inner.lost.subscribe();
        // Asked before this, the leader is not asked again.
        let mut quiet_until = R::Instant::now() + silence;
        let mut again = 0;
        loop {
            let heard_until = if again > 0 {
                quiet_until
            } else {
                self.heard_at() + silence
            };
            let wake = quiet_until.max(heard_until);
            let wait = R::select2(lost.changed(), R::sleep_until(wake));
            match self.unless_stopped(wait).await {
                None | Some(Select2::First(Err(_))) => return,
                Some(Select2::First(Ok(()))) => {}
                // Heard of it while asleep.
                Some(Select2::Second(())) if again == 0 && !self.is_quiet() => continue,
                Some(Select2::Second(())) => {}
            }
            let Some(settled) = self.unless_stopped(self.suspect_leader()).await else {
                return;
            };
            again = if settled { 0 } else { (again + 1) % AGAIN_MOST };
            quiet_until = R::Instant::now() + if again > 0 { AGAIN_AFTER } else { silence };
        }
    }

    /// False: the leader is gone for sure, but no majority has agreed yet. It may not have noticed.
    async fn suspect_leader(&self) -> bool {
        let vote = self.vote();
        if !vote.committed || self.leader().is_none_or(|leader| leader == self.raft_id()) {
            return true;
        }
        if !self.finds_dead(vote).await {
            return true;
        }
        match self.agree_to_drop(vote).await {
            Agreement::Dropped { another_stands } => {
                tracing::warn!(
                    leader = node_of(vote.leader_id.node_id),
                    "the leader is dead, a majority agrees"
                );
                // The winner is logged where the view changes.
                let _ = R::timeout(ELECT_MOST, self.elect_somebody(vote, another_stands)).await;
                true
            }
            Agreement::Disagreed => !self
                .found(vote, FOUND_COUNTS)
                .is_some_and(|found| found.proven),
        }
    }

    fn silence(&self) -> Duration {
        self.inner.config.heartbeat * SILENT_HEARTBEATS
    }

    /// Whether the leader's heartbeats have failed to come for so long that it is to be looked at.
    pub(super) fn is_quiet(&self) -> bool {
        self.heard_at() + self.silence() <= R::Instant::now()
    }

    /// Looks at the leader of `vote` with own eyes; whether there is evidence that it is dead. Remembered, because
    /// [`Replica::drop_lease`] believes nobody else.
    pub(super) async fn finds_dead(&self, vote: Vote) -> bool {
        let began = R::Instant::now();
        let sight = self.look_at_leader(vote).await;
        let dead = sight.is_evidence(self.heard_at() > began, self.is_quiet());
        if dead {
            tracing::info!(
                leader = node_of(vote.leader_id.node_id),
                ?sight,
                "the leader may be dead"
            );
            let found = FoundDead {
                vote,
                at: R::Instant::now(),
                proven: sight.is_proof(),
            };
            *self
                .inner
                .found_dead
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(found);
        }
        dead
    }

    /// Whether this node has found the leader of `vote` dead in the last `within`, and heard nothing of it since.
    fn found_dead(&self, vote: Vote, within: Duration) -> bool {
        self.found(vote, within)
            .is_some_and(|found| found.proven || self.heard_at() <= found.at)
    }

    /// Whether the leader of `vote`, which this node found dead and still follows, was heard of since.
    pub(super) fn is_back(&self, vote: Vote) -> bool {
        let found = *self
            .inner
            .found_dead
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.vote() == vote
            && found.is_some_and(|f| f.vote == vote && !f.proven && self.heard_at() > f.at)
    }

    fn found(&self, vote: Vote, within: Duration) -> Option<FoundDead<R::Instant>> {
        let found = *self
            .inner
            .found_dead
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        found.filter(|found| found.vote == vote && found.at + within >= R::Instant::now())
    }

    /// Asks the leader of `vote` over connections of their own: an old one may be dead without knowing it.
    async fn look_at_leader(&self, vote: Vote) -> Sight {
        let leader = vote.leader_id.node_id;
        if leader == self.raft_id() {
            let (mine, leads) = self.leadership();
            return if leads && mine == vote {
                Sight::Leads
            } else {
                Sight::Denies
            };
        }
        // A leader whose address is not known here yet can't be looked at: no evidence but its silence.
        let (Some(target), Ok(frame)) = (self.target(leader), encode(&Request::Alive)) else {
            return Sight::Silent;
        };
        // The kept connection needs no handshake, but it may be dead without knowing it; the new one settles that.
        let kept = async {
            match self
                .ask(
                    &self.inner.links.control.to(target.clone()),
                    &Request::Alive,
                    LOOK_EVER,
                )
                .await
            {
                Some(Reply::Alive {
                    vote: theirs,
                    leads: true,
                }) if from_wire_vote(theirs) == vote => {}
                Some(_) | None => std::future::pending().await,
            }
        };
        let breaks = AtomicU32::new(0);
        let anew = self.look_anew(vote, &target, frame, &breaks);
        match R::select3(kept, anew, patience::<R>()).await {
            Select3::First(()) => Sight::Leads,
            Select3::Second(sight) => sight,
            Select3::Third(()) if breaks.load(Ordering::Relaxed) >= BREAKS => Sight::Broken,
            Select3::Third(()) => Sight::Silent,
        }
    }

    async fn look_anew(
        &self,
        vote: Vote,
        target: &Target,
        frame: Vec<u8>,
        breaks: &AtomicU32,
    ) -> Sight {
        loop {
            let link = self.inner.wire.link(target.clone(), Purpose::Raft);
            match link.call(frame.clone(), LOOK_EVER).await {
                Ok(answer) => {
                    return match decode(&answer) {
                        Ok(Reply::Alive {
                            vote: theirs,
                            leads: true,
                        }) if from_wire_vote(theirs) == vote => Sight::Leads,
                        Ok(_) | Err(_) => Sight::Denies,
                    };
                }
                Err(WireError::Refused(_)) => return Sight::Gone,
                Err(WireError::Unreachable(_) | WireError::Lost(_)) => {
                    breaks.fetch_add(1, Ordering::Relaxed)
                }
            };
            R::sleep(LOOK_AGAIN).await;
        }
    }

    async fn ask(&self, link: &W::Link, request: &Request, wait: Duration) -> Option<Reply> {
        let frame = encode(request).ok()?;
        // The link has the same limit; ours also covers one that does not keep it.
        let answer = R::timeout(wait, link.call(frame, wait)).await.ok()?.ok()?;
        decode(&answer).ok()
    }

    /// Asks the other voters whether they find the leader of `vote` dead too, as this node does; with a quorum of them,
    /// all that agreed drop their lease, and an election need not wait for it to run out.
    pub(super) async fn agree_to_drop(&self, vote: Vote) -> Agreement {
        let configs = self.voter_sets();
        let me = self.raft_id();
        if !configs.iter().any(|voters| voters.contains(&me)) {
            return Agreement::Disagreed;
        }
        let Some(agreed) = self.ask_the_others(vote, &configs).await else {
            return Agreement::Disagreed;
        };
        let mine = (self.last_log().map(to_log_id), me);
        // A leader that finds itself without a quorum can't stand: it leads.
        let mine = (me != vote.leader_id.node_id).then_some(mine);
        if !self.drop_all(vote, &configs, &agreed).await {
            return Agreement::Disagreed;
        }
        let best = agreed.iter().max_by_key(|voter| (voter.last, voter.id));
        let Some(best) = best.filter(|voter| mine.is_none_or(|mine| (voter.last, voter.id) > mine))
        else {
            return Agreement::Dropped {
                another_stands: false,
            };
        };
        self.ask(
            &best.link,
            &Request::Stand {
                vote: to_wire_vote(&vote),
            },
            DROP_WAIT,
        )
        .await;
        Agreement::Dropped {
            another_stands: true,
        }
    }

    /// Those who find the leader of `vote` dead, once they are a quorum with this node.
    async fn ask_the_others(
        &self,
        vote: Vote,
        configs: &[BTreeSet<u64>],
    ) -> Option<Vec<Agreed<W::Link>>> {
        let me = self.raft_id();
        let request = Request::Suspect {
            vote: to_wire_vote(&vote),
            last: self.last_log().map(to_log_id),
        };
        let voters: BTreeSet<u64> = configs.iter().flatten().copied().collect();
        let others = voters
            .into_iter()
            .filter(|id| *id != me && *id != vote.leader_id.node_id);
        let asked: Vec<(u64, Arc<W::Link>)> = others
            .filter_map(|id| Some((id, self.inner.links.control.to(self.target(id)?))))
            .collect();
        let mut answers: FuturesUnordered<_> = asked
            .into_iter()
            .map(async |(id, link)| {
                let reply = self.ask(&link, &request, SUSPECT_WAIT).await;
                (id, link, reply)
            })
            .collect();
        let mut agreed = Vec::new();
        let mut quorum = BTreeSet::from([me]);
        while !is_quorum(configs, &quorum) {
            if let (id, link, Some(Reply::Suspect { agrees: true, last })) = answers.next().await? {
                quorum.insert(id);
                agreed.push(Agreed { id, last, link });
            }
        }
        Some(agreed)
    }

    /// Drops the leases, this node's first: a leader that was heard of meanwhile costs nobody's then. Whether a quorum of
    /// them is gone.
    async fn drop_all(
        &self,
        vote: Vote,
        configs: &[BTreeSet<u64>],
        agreed: &[Agreed<W::Link>],
    ) -> bool {
        // The others may have taken their time, and the leader may have said something meanwhile.
        if let Err(error) = self.drop_lease(vote).await {
            tracing::debug!(%error, "can't drop the leader's lease");
            return false;
        }
        let request = Request::Drop {
            vote: to_wire_vote(&vote),
        };
        let mut drops: FuturesUnordered<_> = agreed
            .iter()
            .map(async |voter| (voter.id, self.ask(&voter.link, &request, DROP_WAIT).await))
            .collect();
        let mut dropped = BTreeSet::from([self.raft_id()]);
        while !is_quorum(configs, &dropped) {
            match drops.next().await {
                Some((id, Some(Reply::Done))) => drop(dropped.insert(id)),
                Some(_) => {}
                None => return false,
            }
        }
        true
    }

    /// Looks at the leader of `vote` with own eyes.
    pub(super) async fn handle_suspect(&self, vote: WireVote) -> Reply {
        let vote = from_wire_vote(vote);
        let follows = || vote.committed && self.vote() == vote;
        let found =
            follows() && (self.found_dead(vote, LOOK_COUNTS) || self.finds_dead(vote).await);
        // Who has heard of a newer vote while looking has nothing to agree to.
        Reply::Suspect {
            agrees: found && follows(),
            last: self.last_log().map(to_log_id),
        }
    }

    /// Drops this node's lease of the leader of `vote`; only after a quorum agreed that it is dead. Of another vote, or
    /// when this node leads: nothing.
    ///
    /// # Errors
    /// When this node does not find that leader dead (any more), or is stopping.
    pub(super) async fn drop_lease(&self, vote: Vote) -> Result<(), String> {
        if vote.leader_id.node_id == self.raft_id() {
            // Forged to itself a transfer would depose a healthy leader.
            return Ok(());
        }
        if !self.found_dead(vote, FOUND_COUNTS) {
            return Err("this node does not find that leader dead".into());
        }
        let request = TransferLeaderRequest::new(vote, NO_NODE, None);
        self.inner
            .raft
            .handle_transfer_leader(request)
            .await
            .map(|_| ())
            .map_err(|e| e.to_string())
    }

    /// The leases are dropped, and this node is the most up to date of those who agreed. Returns at once.
    pub(super) fn stand(&self, vote: Vote) {
        if self.vote() != vote || !self.found_dead(vote, FOUND_COUNTS) {
            return;
        }
        let replica = self.clone();
        let election = async move {
            let _ = replica
                .unless_stopped(R::timeout(ELECT_MOST, replica.elect_somebody(vote, false)))
                .await;
        };
        // It ends by itself.
        drop(R::spawn(election));
    }

    fn voter_sets(&self) -> Vec<BTreeSet<u64>> {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics
            .membership_config
            .membership()
            .get_joint_config()
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_evidence_and_what_is_not() {
        for (heard_since, quiet) in [(false, false), (false, true), (true, false), (true, true)] {
            assert!(!Sight::Leads.is_evidence(heard_since, quiet));
            assert!(Sight::Denies.is_evidence(heard_since, quiet));
            assert!(Sight::Gone.is_evidence(heard_since, quiet) && Sight::Gone.is_proof());
            // A reset network breaks every dial; a heartbeat that came through tells that the leader lives.
            assert_eq!(Sight::Broken.is_evidence(heard_since, quiet), !heard_since);
            // A look without an answer is nothing on a busy machine, unless the heartbeats have failed to come too.
            assert_eq!(Sight::Silent.is_evidence(heard_since, quiet), quiet);
        }
    }

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
        // Half way from 1, 2, 3 to 3, 4, 5: three of the five together are not enough.
        assert!(!quorum(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 4]));
        assert!(!quorum(&[&[1, 2, 3], &[3, 4, 5]], &[4, 5]));
        assert!(quorum(&[&[1, 2, 3], &[3, 4, 5]], &[2, 3, 4]));
        // Learners count for nothing, nor does a membership that is not there.
        assert!(!quorum(&[&[1, 2, 3]], &[3, 7, 8]));
        assert!(!quorum(&[], &[1, 2, 3]));
    }
}
