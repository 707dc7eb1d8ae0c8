//! Probes of the leader: whether it answers, and what its silence proves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use messagebase_protocol::peer::Purpose;
use openraft::AsyncRuntime;
use openraft::async_runtime::{Instant, Select3};
use openraft::raft::TransferLeaderRequest;
use parking_lot::Mutex;

use super::api::{Link, Target, Wire, WireError};
use super::core::Core;
use super::frame::{Reply, Request, decode, encode, from_wire_vote};
use super::leadership::Leadership;
use super::types::{Vote, node_of};

/// How long one probe takes at most on an idle machine: [`PROBE_TICKS`] ticks.
const PROBE_MAX: Duration = Duration::from_millis(200);
/// A probe's time is counted in short sleeps. On a busy machine each sleep takes longer, and so does the probe, because
/// the leader may be as late as this node. (With a load of 25 on two cores a handshake took over 200 ms.)
const PROBE_TICKS: u32 = 20;
/// A probe's answer is waited for this long at most, however busy the machine is.
const PROBE_EVER: Duration = Duration::from_secs(1);
/// Pause between two dials of one probe after a broken connection. A process that is gone refuses the next dial.
const DIAL_AGAIN: Duration = Duration::from_millis(10);
/// Broken dials of one probe that count as a broken connection rather than as silence.
const BREAKS: u32 = 3;
/// Missed heartbeats after which the leader is probed.
const SILENT_HEARTBEATS: u32 = 5;
/// A finding counts this long when the node is told to drop the lease. An older one is about a leader that may have come
/// back.
pub(super) const FINDING_COUNTS: Duration = Duration::from_secs(1);
/// Id that no node has: a transfer addressed to it drops the lease and elects nobody.
const NO_NODE: u64 = 0;

/// What a probe of the leader of a vote found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// It leads under this very vote, and a quorum follows it.
    Leads,
    /// It answers that it does not.
    Denies,
    /// Nothing listens there: the process is gone.
    Gone,
    /// The connection broke before the answer, every time. A dying process does that, and so does a bad network.
    Broken,
    /// No answer in time. A hung process does that, and so does a busy machine.
    Silent,
}

impl Probe {
    /// Whether it is evidence that the leader is dead. `heard_since`: a heartbeat came during the probe. `is_silent`: the
    /// leader has missed enough heartbeats to be probed.
    fn is_evidence(self, heard_since: bool, is_silent: bool) -> bool {
        match self {
            Probe::Leads => false,
            Probe::Denies | Probe::Gone => true,
            Probe::Broken => !heard_since,
            Probe::Silent => is_silent,
        }
    }

    /// Whether it stays true. What is heard after a refused dial was sent before, and a process that starts again does
    /// not lead under an old vote.
    fn is_proof(self) -> bool {
        self == Probe::Gone
    }
}

/// A leader that a probe found dead.
#[derive(Debug, Clone, Copy)]
struct DeadLeader<I> {
    vote: Vote,
    at: I,
    is_proven: bool,
}

/// Probes the leader and remembers what it found.
pub(super) struct Prober<R: AsyncRuntime, W: Wire> {
    core: Arc<Core<R, W>>,
    leadership: Arc<Leadership<R, W>>,
    /// For connections that no other task uses.
    wire: W,
    /// What this node found itself: it drops a lease on nobody else's word.
    found_dead: Mutex<Option<DeadLeader<R::Instant>>>,
}

impl<R: AsyncRuntime, W: Wire> Prober<R, W> {
    pub(super) fn new(core: Arc<Core<R, W>>, leadership: Arc<Leadership<R, W>>, wire: W) -> Self {
        Prober {
            core,
            leadership,
            wire,
            found_dead: Mutex::default(),
        }
    }

    /// After this long without a heartbeat the leader is probed.
    pub(super) fn silence(&self) -> Duration {
        self.core.config.heartbeat * SILENT_HEARTBEATS
    }

    /// Whether the leader has missed enough heartbeats to be probed.
    pub(super) fn is_silent(&self) -> bool {
        self.core.heard_at() + self.silence() <= R::Instant::now()
    }

    /// Probes the leader of `vote`; whether there is evidence that it is dead. The finding is remembered.
    pub(super) async fn finds_dead(&self, vote: Vote) -> bool {
        let began = R::Instant::now();
        let probe = self.probe_leader(vote).await;
        let dead = probe.is_evidence(self.core.heard_at() > began, self.is_silent());
        if dead {
            tracing::info!(
                leader = node_of(vote.leader_id.node_id),
                ?probe,
                "the leader may be dead"
            );
            *self.found_dead.lock() = Some(DeadLeader {
                vote,
                at: R::Instant::now(),
                is_proven: probe.is_proof(),
            });
        }
        dead
    }

    /// Whether this node found the leader of `vote` dead in the last `within`, and has not heard of it since.
    pub(super) fn found_dead(&self, vote: Vote, within: Duration) -> bool {
        self.finding(vote, within)
            .is_some_and(|found| found.is_proven || self.core.heard_at() <= found.at)
    }

    /// Whether this node found lately that the process of the leader of `vote` is gone.
    pub(super) fn is_gone(&self, vote: Vote) -> bool {
        self.finding(vote, FINDING_COUNTS)
            .is_some_and(|found| found.is_proven)
    }

    /// Whether the leader of `vote`, which this node found dead and still follows, was heard of since.
    pub(super) fn is_back(&self, vote: Vote) -> bool {
        let found = *self.found_dead.lock();
        self.core.vote() == vote
            && found.is_some_and(|f| f.vote == vote && !f.is_proven && self.core.heard_at() > f.at)
    }

    fn finding(&self, vote: Vote, within: Duration) -> Option<DeadLeader<R::Instant>> {
        let found = *self.found_dead.lock();
        found.filter(|found| found.vote == vote && found.at + within >= R::Instant::now())
    }

    /// Drops this node's lease of the leader of `vote`; only after a quorum agreed that it is dead. With another vote, or
    /// when this node leads, it does nothing.
    ///
    /// # Errors
    /// When this node does not find that leader dead (any more), or is stopping.
    pub(super) async fn drop_lease(&self, vote: Vote) -> Result<(), String> {
        if vote.leader_id.node_id == self.core.raft_id() {
            // The request below is made in the leader's name: given to the leader itself it would depose it. A leader without a
            // quorum that campaigns comes here.
            return Ok(());
        }
        if !self.found_dead(vote, FINDING_COUNTS) {
            return Err("this node does not find that leader dead".into());
        }
        let request = TransferLeaderRequest::new(vote, NO_NODE, None);
        let dropped = self.core.raft.handle_transfer_leader(request).await;
        dropped.map(|_| ()).map_err(|e| e.to_string())
    }

    /// Asks the leader of `vote` over the kept connection and over new ones: the kept one may be dead without knowing it.
    async fn probe_leader(&self, vote: Vote) -> Probe {
        let leader = vote.leader_id.node_id;
        if leader == self.core.raft_id() {
            let (mine, leads) = self.leadership.current();
            return if leads && mine == vote {
                Probe::Leads
            } else {
                Probe::Denies
            };
        }
        // A leader whose address is not known here yet can't be probed: only its silence is evidence.
        let (Some(target), Ok(frame)) = (self.core.target(leader), encode(&Request::Alive)) else {
            return Probe::Silent;
        };
        let kept = async {
            let link = self.core.links.control.to(target.clone());
            match ask::<R, _>(&*link, &Request::Alive, PROBE_EVER).await {
                Some(reply) if leads_under(vote, &reply) => {}
                Some(_) | None => std::future::pending().await,
            }
        };
        let breaks = AtomicU32::new(0);
        let anew = self.probe_anew(vote, &target, frame, &breaks);
        match R::select3(kept, anew, probe_time::<R>()).await {
            Select3::First(()) => Probe::Leads,
            Select3::Second(probe) => probe,
            Select3::Third(()) if breaks.load(Ordering::Relaxed) >= BREAKS => Probe::Broken,
            Select3::Third(()) => Probe::Silent,
        }
    }

    async fn probe_anew(
        &self,
        vote: Vote,
        target: &Target,
        frame: Vec<u8>,
        breaks: &AtomicU32,
    ) -> Probe {
        loop {
            let link = self.wire.link(target.clone(), Purpose::Raft);
            match link.call(frame.clone(), PROBE_EVER).await {
                Ok(answer) => {
                    return match decode(&answer) {
                        Ok(reply) if leads_under(vote, &reply) => Probe::Leads,
                        Ok(_) | Err(_) => Probe::Denies,
                    };
                }
                Err(WireError::Refused(_)) => return Probe::Gone,
                Err(WireError::Unreachable(_) | WireError::Lost(_)) => {
                    breaks.fetch_add(1, Ordering::Relaxed)
                }
            };
            R::sleep(DIAL_AGAIN).await;
        }
    }
}

fn leads_under(vote: Vote, reply: &Reply) -> bool {
    matches!(reply, Reply::Alive { vote: theirs, leads: true } if from_wire_vote(*theirs) == vote)
}

async fn probe_time<R: AsyncRuntime>() {
    for _ in 0..PROBE_TICKS {
        R::sleep(PROBE_MAX / PROBE_TICKS).await;
    }
}

/// Asks a peer. `None`: no answer in time, or one that can't be read.
pub(super) async fn ask<R: AsyncRuntime, L: Link>(
    link: &L,
    request: &Request,
    wait: Duration,
) -> Option<Reply> {
    let frame = encode(request).ok()?;
    // The link has the same limit; ours also covers one that does not keep it.
    let answer = R::timeout(wait, link.call(frame, wait)).await.ok()?.ok()?;
    decode(&answer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_evidence_and_what_is_not() {
        for (heard_since, silent) in [(false, false), (false, true), (true, false), (true, true)] {
            assert!(!Probe::Leads.is_evidence(heard_since, silent));
            assert!(Probe::Denies.is_evidence(heard_since, silent));
            assert!(Probe::Gone.is_evidence(heard_since, silent) && Probe::Gone.is_proof());
            // A reset network breaks every dial; a heartbeat that came through shows that the leader lives.
            assert_eq!(Probe::Broken.is_evidence(heard_since, silent), !heard_since);
            // On a busy machine a probe without an answer means nothing, unless the heartbeats are missing too.
            assert_eq!(Probe::Silent.is_evidence(heard_since, silent), silent);
        }
    }
}
