//! Writes: from a session's batch to applied outcomes, through the leader.
//!
//! The order of one connection is kept. Its caller has one batch in flight, and the leader admits a batch as a whole or not
//! at all. After any failure, ALL drafts without an answer are proposed again, in order. Keys make the repetition harmless:
//! whichever attempts survive, the first occurrence of each change is in the order of the batch.
//!
//! A change that has its answer is not proposed again: a refused one could take effect after all. A refusal counts only
//! while no attempt was lost before it ([`Verdict::InDoubt`]). The lost attempt may have taken effect, and what it needed,
//! such as the session, may have ended since.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::limits::WRITE_DEADLINE;
use openraft::AsyncRuntime;
use openraft::async_runtime::{Instant, WatchReceiver};
use openraft::metrics::SerdeInstant;

use super::api::{Draft, Verdict, Wire};
use super::batch::{Batcher, LeaseExpired, PART_BYTES, draft_bytes};
use super::core::Core;
use super::frame::ForwardReply;
use crate::change::Outcome;

/// Drafts proposed at once; a longer batch goes in parts, one after the other.
const PART_DRAFTS: usize = 512;

/// Who asks a leader to propose. This decides on which threads the batch is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// Clients and operators of this node: on their threads.
    Callers,
    /// Another node, for its own callers: on the threads of this node's callers too, to share their batches, unless these
    /// threads are too busy.
    Peer,
    /// Replication itself, which must not wait for callers.
    Replication,
}

/// Proposes for callers, peers and replication.
pub(super) struct Proposer<R: AsyncRuntime, W: Wire> {
    core: Arc<Core<R, W>>,
    batcher: Batcher<R>,
}

impl<R: AsyncRuntime, W: Wire> Proposer<R, W> {
    pub(super) fn new(core: Arc<Core<R, W>>, batcher: Batcher<R>) -> Self {
        Proposer { core, batcher }
    }

    /// Proposes one ordered batch and waits until it is applied on this node; returns within `within`, [`WRITE_DEADLINE`] at
    /// most. See [`Replica::propose_by`](super::Replica::propose_by).
    pub(super) async fn propose_by(&self, drafts: Vec<Draft>, within: Duration) -> Vec<Verdict> {
        let deadline = R::Instant::now() + within.min(WRITE_DEADLINE);
        let mut verdicts = Vec::with_capacity(drafts.len());
        let mut rest = drafts.as_slice();
        while !rest.is_empty() {
            let (part, later) = rest.split_at(part_len(rest));
            // Pinned where it is: the future is large, and moving it would cost more than its work.
            let proposing = pin!(self.propose_part(part, deadline));
            let Some(known) = self.core.unless_stopped(proposing).await else {
                verdicts.resize(drafts.len(), Verdict::Closing);
                return verdicts;
            };
            let complete = !known
                .iter()
                .any(|verdict| matches!(verdict, None | Some(Verdict::InDoubt(_))));
            verdicts.extend(
                known
                    .into_iter()
                    .map(|verdict| verdict.unwrap_or(Verdict::NoQuorum)),
            );
            if !complete {
                // Later drafts must not overtake those that their caller will repeat.
                verdicts.resize(drafts.len(), Verdict::NoQuorum);
                return verdicts;
            }
            rest = later;
        }
        verdicts
    }

    async fn propose_part(&self, drafts: &[Draft], deadline: R::Instant) -> Vec<Option<Verdict>> {
        let mut tracker = ProposalTracker::new(drafts.len());
        loop {
            let leader = self.core.leader();
            let open = tracker.open(drafts);
            let reply = match leader {
                Some(id) if id == self.core.raft_id() => {
                    self.propose_here(Origin::Callers, &open, deadline).await
                }
                Some(_) => self.propose_to_leader(&open, deadline).await,
                None => ForwardReply::NotLeader { hint: None },
            };
            tracker.take(reply);
            let all_known = tracker.are_all_known();
            if all_known && self.core.applied(tracker.last_index, deadline).await {
                return tracker.verdicts;
            }
            if all_known || R::Instant::now() >= deadline {
                let applied = self.core.store.applied().borrow().map_or(0, |id| id.index);
                return tracker.applied_through(applied);
            }
            Box::pin(self.core.wait_before_retry(leader, deadline)).await;
        }
    }

    /// Proposes as leader. Waits for a fresh leader's lease, but not for another leader.
    pub(super) async fn propose_here(
        &self,
        origin: Origin,
        drafts: &[Draft],
        deadline: R::Instant,
    ) -> ForwardReply {
        let unknown = || ForwardReply::Answered(vec![None; drafts.len()]);
        loop {
            // Read before the attempt, so that an answer in between counts.
            let acked = self
                .core
                .raft
                .data_metrics()
                .borrow_watched()
                .last_quorum_acked;
            let result = match origin {
                Origin::Callers => self.batcher.local(drafts, deadline).await,
                Origin::Peer => self.batcher.local_or_apart(drafts, deadline).await,
                Origin::Replication => self.batcher.apart(drafts, deadline).await,
            };
            match result {
                Some(Ok(reply)) => return reply,
                Some(Err(LeaseExpired)) => {}
                None => return unknown(),
            }
            // A new leader's lease begins with the first quorum of answers, milliseconds after its election. To wait for just
            // any change of the metrics would spin: the refused attempt itself is one.
            let another = R::select2(
                self.acked_since(acked),
                self.core.leader_changed(Some(self.core.raft_id())),
            );
            if Box::pin(R::timeout_at(deadline, another)).await.is_err() {
                return unknown();
            }
        }
    }

    /// Has the leader propose.
    async fn propose_to_leader(&self, drafts: &[Draft], deadline: R::Instant) -> ForwardReply {
        match self.batcher.leader(drafts, deadline).await {
            Some(Ok(reply)) => reply,
            Some(Err(LeaseExpired)) => ForwardReply::NotLeader { hint: None },
            None => ForwardReply::Answered(vec![None; drafts.len()]),
        }
    }

    /// Resolves when a quorum has answered this leader after `seen`.
    async fn acked_since(&self, seen: Option<SerdeInstant<R::Instant>>) {
        let mut metrics = self.core.raft.data_metrics();
        loop {
            if metrics.borrow_and_update().last_quorum_acked != seen {
                return;
            }
            if metrics.changed().await.is_err() {
                return self.core.stopped().await;
            }
        }
    }
}

/// What is known of the drafts of a part, over all attempts.
struct ProposalTracker {
    /// One a draft; `None`: no answer yet.
    verdicts: Vec<Option<Verdict>>,
    /// Whether an attempt was lost. It contained all drafts that have no answer yet.
    is_in_doubt: bool,
    /// The greatest index of an answer.
    last_index: u64,
}

impl ProposalTracker {
    fn new(drafts: usize) -> Self {
        ProposalTracker {
            verdicts: vec![None; drafts],
            is_in_doubt: false,
            last_index: 0,
        }
    }

    /// The drafts without an answer, in order.
    fn open<'a>(&self, drafts: &'a [Draft]) -> Cow<'a, [Draft]> {
        if self.verdicts.iter().all(Option::is_none) {
            return Cow::Borrowed(drafts);
        }
        let open = drafts
            .iter()
            .zip(&self.verdicts)
            .filter(|(_, verdict)| verdict.is_none());
        Cow::Owned(open.map(|(draft, _)| draft.clone()).collect())
    }

    /// Takes the reply to an attempt with all open drafts.
    fn take(&mut self, reply: ForwardReply) {
        let ForwardReply::Answered(answers) = reply else {
            return;
        };
        let mut answers = answers.into_iter();
        let mut is_lost = false;
        for verdict in self.verdicts.iter_mut().filter(|verdict| verdict.is_none()) {
            let Some((index, outcome)) = answers.next().flatten() else {
                is_lost = true;
                continue;
            };
            self.last_index = self.last_index.max(index);
            *verdict = Some(match outcome {
                Outcome::Refused(refusal) if self.is_in_doubt => Verdict::InDoubt(refusal),
                outcome => Verdict::Applied { index, outcome },
            });
        }
        self.is_in_doubt |= is_lost;
    }

    /// Forgets what this node has not applied yet: a read here would not see it, so unknown is the honest answer.
    fn applied_through(self, here: u64) -> Vec<Option<Verdict>> {
        let seen =
            |verdict: &Verdict| !matches!(verdict, Verdict::Applied { index, .. } if *index > here);
        self.verdicts
            .into_iter()
            .map(|verdict| verdict.filter(seen))
            .collect()
    }

    fn are_all_known(&self) -> bool {
        self.verdicts.iter().all(Option::is_some)
    }
}

/// How many of the first drafts make the next part; at least one.
fn part_len(drafts: &[Draft]) -> usize {
    let mut bytes = 0;
    let fits = |draft: &&Draft| {
        let first = bytes == 0;
        bytes += draft_bytes(draft);
        first || bytes <= PART_BYTES
    };
    drafts.iter().take(PART_DRAFTS).take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, Refusal};

    fn send(bytes: usize) -> Draft {
        let body = Change::Send {
            user: 1,
            to: "b".into(),
            body: "x".repeat(bytes),
            key: "k".into(),
        };
        Draft {
            actor: Some(1),
            body,
            secrets: None,
        }
    }

    fn answered(answers: &[Option<Outcome>]) -> ForwardReply {
        ForwardReply::Answered(
            answers
                .iter()
                .map(|answer| answer.clone().map(|outcome| (7, outcome)))
                .collect(),
        )
    }

    const DONE: Option<Outcome> = Some(Outcome::Done);
    const REFUSED: Option<Outcome> = Some(Outcome::Refused(Refusal::NoSuchUser));

    #[test]
    fn a_refusal_counts_unless_an_attempt_was_lost_before_it() {
        let refused = Verdict::Applied {
            index: 7,
            outcome: Outcome::Refused(Refusal::NoSuchUser),
        };
        let mut tracker = ProposalTracker::new(1);
        tracker.take(ForwardReply::NotLeader { hint: None });
        tracker.take(answered(&[REFUSED]));
        assert_eq!(
            tracker.verdicts,
            [Some(refused)],
            "nothing had been proposed"
        );

        let mut tracker = ProposalTracker::new(1);
        tracker.take(answered(&[None]));
        tracker.take(ForwardReply::NotLeader { hint: None });
        tracker.take(answered(&[REFUSED]));
        assert_eq!(
            tracker.verdicts,
            [Some(Verdict::InDoubt(Refusal::NoSuchUser))]
        );

        let mut tracker = ProposalTracker::new(1);
        tracker.take(answered(&[None]));
        tracker.take(answered(&[DONE]));
        assert_eq!(
            tracker.verdicts,
            [Some(Verdict::Applied {
                index: 7,
                outcome: Outcome::Done
            })]
        );
    }

    #[test]
    fn what_was_answered_is_not_proposed_again() {
        let drafts = [send(1), send(2), send(3), send(4)];
        let mut tracker = ProposalTracker::new(4);
        assert_eq!(*tracker.open(&drafts), drafts);
        tracker.take(answered(&[REFUSED, DONE, None, None]));
        assert_eq!(*tracker.open(&drafts), drafts[2..]);
        tracker.take(answered(&[DONE, REFUSED]));
        assert!(tracker.are_all_known());
        let of = |outcome| Some(Verdict::Applied { index: 7, outcome });
        let doubt = Some(Verdict::InDoubt(Refusal::NoSuchUser));
        let refused = of(Outcome::Refused(Refusal::NoSuchUser));
        assert_eq!(
            tracker.verdicts,
            [refused, of(Outcome::Done), of(Outcome::Done), doubt]
        );
        assert_eq!(tracker.last_index, 7);
        // What is not applied here yet is unknown; of a refused repetition nothing can be seen anyway.
        assert_eq!(
            tracker.applied_through(6),
            [
                None,
                None,
                None,
                Some(Verdict::InDoubt(Refusal::NoSuchUser))
            ]
        );
    }

    #[test]
    fn a_part_is_bounded_by_count_and_bytes_and_never_empty() {
        assert_eq!(part_len(&vec![send(1); PART_DRAFTS + 1]), PART_DRAFTS);
        assert_eq!(part_len(&[send(PART_BYTES + 1), send(1)]), 1);
        let half = PART_BYTES / 2 + 1;
        assert_eq!(part_len(&[send(half), send(half), send(half)]), 1);
    }
}
