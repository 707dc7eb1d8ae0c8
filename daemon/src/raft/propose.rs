//! Writes: from a session's batch to applied outcomes, through whoever leads.
//!
//! One connection's order is kept like this: its caller has one batch in flight; the leader admits a batch whole or
//! not at all; whatever went wrong, ALL of it that has no answer is proposed again, in its order. Keys make the
//! repetition harmless, and the first occurrence of each change is in the order of the batch whichever attempts survive.
//!
//! A change that has its answer is not proposed again: a refused one could take effect after all. And a refusal counts
//! only while no attempt was lost before it ([`Verdict::InDoubt`]): the lost one may have taken effect, and what it
//! needed, such as the session, may have ended since.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::limits::WRITE_DEADLINE;
use openraft::AsyncRuntime;
use openraft::async_runtime::{Instant, Select3, WatchReceiver};
use openraft::metrics::SerdeInstant;

use super::api::{Draft, Link, Verdict, Wire, WireError};
use super::frame::{ForwardReply, Reply, Request, decode, encode};
use super::group::{Written, in_a_group, in_a_group_or_apart};
use super::replica::Replica;
use super::types::Command;
use crate::change::{Change, Envelope, LOG_VERSION, Outcome};

/// Pause before an attempt is repeated when nothing tells that it would go better now.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The leader answers this much before the asking node gives up, so that the answer still counts.
pub(super) const ANSWER_MARGIN: Duration = Duration::from_millis(50);
/// Drafts proposed at once; a longer batch goes in parts, one after the other.
const PART_DRAFTS: usize = 512;
/// Bytes proposed at once; a part has to fit a frame.
pub(super) const PART_BYTES: usize = 2 * 1024 * 1024;

/// Who asks a leader to propose, which decides on whose threads that is done.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// Clients and operators of this node: beside them.
    Callers,
    /// Another node, for its own: beside this node's callers too, that they go as one group, unless these keep their
    /// threads too busy.
    Peer,
    /// Replication itself, which must not wait for callers.
    Replication,
}

/// What is known of each draft's fate.
pub(super) type Answers = Vec<Option<(u64, Outcome)>>;

impl<R: AsyncRuntime, W: Wire> Replica<R, W> {
    /// Proposes ONE ordered batch and waits until it is applied HERE. One verdict a draft, in order. The caller keeps
    /// at most one batch of a connection in flight; that keeps the connection's order. Returns within
    /// [`WRITE_DEADLINE`].
    pub async fn propose(&self, drafts: Vec<Draft>) -> Vec<Verdict> {
        self.propose_by(drafts, WRITE_DEADLINE).await
    }

    /// As [`Replica::propose`], but returns within `within`: the caller's requests may have waited before. The leader
    /// that a batch is forwarded to answers `ANSWER_MARGIN` earlier.
    pub async fn propose_by(&self, drafts: Vec<Draft>, within: Duration) -> Vec<Verdict> {
        let deadline = R::Instant::now() + within.min(WRITE_DEADLINE);
        let mut verdicts = Vec::with_capacity(drafts.len());
        let mut rest = drafts.as_slice();
        while !rest.is_empty() {
            let (part, later) = rest.split_at(part_len(rest));
            // Pinned where it is: it is large, and moving it would cost more than what it does.
            let proposing = pin!(self.propose_part(part, deadline));
            let Some(fates) = self.unless_stopped(proposing).await else {
                verdicts.resize(drafts.len(), Verdict::Closing);
                return verdicts;
            };
            let complete = !fates
                .iter()
                .any(|fate| matches!(fate, None | Some(Verdict::InDoubt(_))));
            verdicts.extend(
                fates
                    .into_iter()
                    .map(|fate| fate.unwrap_or(Verdict::NoQuorum)),
            );
            if !complete {
                // What follows must not overtake what its caller will repeat.
                verdicts.resize(drafts.len(), Verdict::NoQuorum);
                return verdicts;
            }
            rest = later;
        }
        verdicts
    }

    async fn propose_part(&self, drafts: &[Draft], deadline: R::Instant) -> Vec<Option<Verdict>> {
        let mut fates = Fates::of(drafts.len());
        loop {
            let leader = self.leader();
            let open = fates.open(drafts);
            let reply = match leader {
                Some(id) if id == self.raft_id() => {
                    self.propose_here(Origin::Callers, &open, deadline).await
                }
                Some(_) => self.propose_there(&open, deadline).await,
                None => ForwardReply::NotLeader { hint: None },
            };
            fates.take(reply);
            let all_known = fates.are_all_known();
            if all_known && self.applied(fates.last_index, deadline).await {
                return fates.verdicts;
            }
            if all_known || R::Instant::now() >= deadline {
                let applied = self.inner.store.applied().borrow().map_or(0, |id| id.index);
                return fates.applied_through(applied);
            }
            Box::pin(self.another_chance(leader, deadline)).await;
        }
    }

    /// Waits for a reason to try again: another leader, or a short pause.
    pub(super) async fn another_chance(&self, tried: Option<u64>, deadline: R::Instant) {
        R::select3(
            self.leader_changed(tried),
            R::sleep(RETRY_PAUSE),
            R::sleep_until(deadline),
        )
        .await;
    }

    /// Proposes as leader, in a group with what others ask. Waits for a fresh leader's lease, but not for another leader.
    pub(super) async fn propose_here(
        &self,
        origin: Origin,
        drafts: &[Draft],
        deadline: R::Instant,
    ) -> ForwardReply {
        let (groups, apart) = (&self.inner.proposals, &self.inner.proposals_apart);
        loop {
            // Looked at before the attempt, so that an answer in between counts.
            let acked = self
                .inner
                .raft
                .data_metrics()
                .borrow_watched()
                .last_quorum_acked;
            let written = match origin {
                Origin::Callers => in_a_group::<R>(groups, drafts, deadline).await,
                Origin::Peer => in_a_group_or_apart::<R>(groups, apart, drafts, deadline).await,
                Origin::Replication => in_a_group::<R>(apart, drafts, deadline).await,
            };
            match written {
                Some(Written::Answered(answers)) => return ForwardReply::Answered(answers),
                Some(Written::NotLeader { hint }) => return ForwardReply::NotLeader { hint },
                Some(Written::LeaseExpired) => {}
                None => return ForwardReply::Answered(vec![None; drafts.len()]),
            }
            // A new leader's lease begins with the first quorum of answers, milliseconds after its election. Waiting
            // for just any change of the metrics would spin: the refused attempt itself is one.
            let another = R::select2(
                self.acked_since(acked),
                self.leader_changed(Some(self.raft_id())),
            );
            if Box::pin(R::timeout_at(deadline, another)).await.is_err() {
                return ForwardReply::Answered(vec![None; drafts.len()]);
            }
        }
    }

    /// Has whoever leads propose, in a group with what other connections here ask.
    async fn propose_there(&self, drafts: &[Draft], deadline: R::Instant) -> ForwardReply {
        match in_a_group::<R>(&self.inner.forwards, drafts, deadline).await {
            Some(Written::Answered(answers)) => ForwardReply::Answered(answers),
            Some(Written::NotLeader { hint }) => ForwardReply::NotLeader { hint },
            Some(Written::LeaseExpired) => ForwardReply::NotLeader { hint: None },
            None => ForwardReply::Answered(vec![None; drafts.len()]),
        }
    }

    /// Resolves when a quorum has answered this leader after `seen`.
    async fn acked_since(&self, seen: Option<SerdeInstant<R::Instant>>) {
        let mut metrics = self.inner.raft.data_metrics();
        loop {
            if metrics.borrow_and_update().last_quorum_acked != seen {
                return;
            }
            if metrics.changed().await.is_err() {
                return self.stopped().await;
            }
        }
    }

    /// The leader's stamp: its clock, and the version that all members know.
    pub(super) fn stamp(&self, drafts: Vec<Draft>) -> Vec<Command> {
        let at = (self.inner.clock)();
        let envelope = |Draft {
                            actor,
                            body,
                            secrets,
                        }| Envelope {
            v: LOG_VERSION,
            at,
            actor,
            body,
            secrets,
        };
        drafts
            .into_iter()
            .map(|draft| Command(Arc::new(envelope(draft))))
            .collect()
    }

    /// `None`: nothing is known of what became of them.
    pub(super) async fn forward(
        &self,
        leader: u64,
        drafts: Vec<Draft>,
        deadline: R::Instant,
    ) -> Option<ForwardReply> {
        let Some(wait_ms) = time_left::<R>(deadline) else {
            return Some(ForwardReply::NotLeader { hint: None });
        };
        let asked = drafts.len();
        let request = Request::Forward { drafts, wait_ms };
        match self.ask_leader(leader, &request, deadline).await {
            Ok(Reply::Forward(ForwardReply::Answered(answers))) if answers.len() != asked => None,
            Ok(Reply::Forward(reply)) => Some(reply),
            Err(Silence::NotAsked) => Some(ForwardReply::NotLeader { hint: None }),
            Ok(_) | Err(Silence::Lost) => None,
        }
    }

    /// Asks `leader` over the kept connection; gives up when another one leads.
    pub(super) async fn ask_leader(
        &self,
        leader: u64,
        request: &Request,
        deadline: R::Instant,
    ) -> Result<Reply, Silence> {
        let link = self
            .inner
            .links
            .forward
            .to(self.target(leader).ok_or(Silence::NotAsked)?);
        let frame = match encode(request) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::error!(%error);
                return Err(Silence::NotAsked);
            }
        };
        let left = deadline.saturating_duration_since(R::Instant::now());
        let call = link.call(frame, left);
        match R::select3(
            call,
            self.leader_changed(Some(leader)),
            R::sleep_until(deadline),
        )
        .await
        {
            Select3::First(Ok(answer)) => match decode(&answer) {
                Ok(reply) => Ok(reply),
                Err(error) => {
                    tracing::warn!(%error, leader);
                    Err(Silence::Lost)
                }
            },
            Select3::First(Err(error)) => {
                tracing::debug!(%error, leader, "failed to reach the leader");
                Err(match error {
                    WireError::Refused(_) | WireError::Unreachable(_) => Silence::NotAsked,
                    WireError::Lost(_) => Silence::Lost,
                })
            }
            Select3::Second(()) | Select3::Third(()) => Err(Silence::Lost),
        }
    }
}

/// Why a leader gave no answer.
pub(super) enum Silence {
    /// Nothing was sent.
    NotAsked,
    /// It may have got the question.
    Lost,
}

/// What has become of the drafts of a part, over all attempts.
struct Fates {
    /// One a draft; `None`: no answer yet.
    verdicts: Vec<Option<Verdict>>,
    /// Whether an attempt was lost on its way there or back. It had all that has no answer yet.
    is_in_doubt: bool,
    /// The greatest index of an answer.
    last_index: u64,
}

impl Fates {
    fn of(drafts: usize) -> Fates {
        Fates {
            verdicts: vec![None; drafts],
            is_in_doubt: false,
            last_index: 0,
        }
    }

    /// The drafts that are to be proposed (again), in order.
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

    /// Takes the reply to an attempt with what was open.
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

    /// A read here would not see what is applied later: unknown is the honest answer to that.
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

/// What the leader may use of the time until `deadline`, ms; `None`: too little to ask.
pub(super) fn time_left<R: AsyncRuntime>(deadline: R::Instant) -> Option<u64> {
    let left = deadline
        .saturating_duration_since(R::Instant::now())
        .checked_sub(ANSWER_MARGIN)?;
    u64::try_from(left.as_millis()).ok().filter(|ms| *ms > 0)
}

/// How many drafts from the beginning make the next part; at least one.
fn part_len(drafts: &[Draft]) -> usize {
    let mut bytes = 0;
    let fits = |draft: &&Draft| {
        let first = bytes == 0;
        bytes += draft_bytes(draft);
        first || bytes <= PART_BYTES
    };
    drafts.iter().take(PART_DRAFTS).take_while(fits).count()
}

pub(super) fn draft_bytes(draft: &Draft) -> usize {
    const FIXED: usize = 512;
    match &draft.body {
        Change::Send { body, .. } => FIXED + body.len(),
        _ => FIXED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Refusal;

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
        let mut fates = Fates::of(1);
        fates.take(ForwardReply::NotLeader { hint: None });
        fates.take(answered(&[REFUSED]));
        assert_eq!(fates.verdicts, [Some(refused)], "nothing had been proposed");

        let mut fates = Fates::of(1);
        fates.take(answered(&[None]));
        fates.take(ForwardReply::NotLeader { hint: None });
        fates.take(answered(&[REFUSED]));
        assert_eq!(
            fates.verdicts,
            [Some(Verdict::InDoubt(Refusal::NoSuchUser))]
        );

        let mut fates = Fates::of(1);
        fates.take(answered(&[None]));
        fates.take(answered(&[DONE]));
        assert_eq!(
            fates.verdicts,
            [Some(Verdict::Applied {
                index: 7,
                outcome: Outcome::Done
            })]
        );
    }

    #[test]
    fn what_was_answered_is_not_proposed_again() {
        let drafts = [send(1), send(2), send(3), send(4)];
        let mut fates = Fates::of(4);
        assert_eq!(*fates.open(&drafts), drafts);
        fates.take(answered(&[REFUSED, DONE, None, None]));
        assert_eq!(*fates.open(&drafts), drafts[2..]);
        fates.take(answered(&[DONE, REFUSED]));
        assert!(fates.are_all_known());
        let of = |outcome| Some(Verdict::Applied { index: 7, outcome });
        let doubt = Some(Verdict::InDoubt(Refusal::NoSuchUser));
        let refused = of(Outcome::Refused(Refusal::NoSuchUser));
        assert_eq!(
            fates.verdicts,
            [refused, of(Outcome::Done), of(Outcome::Done), doubt]
        );
        assert_eq!(fates.last_index, 7);
        // What is not applied here yet is unknown; of a refused repetition nothing can be seen anyway.
        assert_eq!(
            fates.applied_through(6),
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
