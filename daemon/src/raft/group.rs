//! Writes in groups: a leader's proposals, and what another node forwards to it. Every entry that travels alone costs
//! each node a message, a transaction and a sync; so what comes while a group is on its way waits, and goes as one group
//! with the others that came.
//!
//! The next group starts once it would be as large as all that is on its way. Nobody waits while nothing is on its way;
//! under load two groups of half of all writers follow each other, one being written while the other is answered. No
//! timer waits for company: it comes from load, and a group that ends lets the next one go, whatever its size. Only who
//! is ready to write at that moment comes along.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use openraft::AsyncRuntime;
use openraft::async_runtime::{Instant, Select2, Select3, WatchReceiver};
use openraft::errors::{ClientWriteError, Fatal, ForwardReason};
use openraft::raft::WriteResult;
use tokio::sync::{mpsc, oneshot};

use super::api::{Draft, Wire};
use super::frame::ForwardReply;
use super::propose::{Answers, PART_BYTES, draft_bytes, time_left};
use super::replica::Replica;
use super::types::Types;

/// Batches that may wait for the task; more wait for a place.
pub(super) const PROPOSALS_MAX: usize = 4_096;
/// A group that has reached so many entries goes at once.
const GROUP_ENTRIES: usize = 2_000;
/// A group lets others run so often at most: what runs then may be a storm of handshakes.
const GATHERINGS_MAX: usize = 2;
/// So long the callers' threads may take to look at what a peer forwards; then it goes apart from what they ask. A crowd of
/// handshakes keeps them for longer.
const LATE: Duration = Duration::from_millis(20);
/// Batches that are forwarded in one frame may lose so much of their time.
const DEADLINES_APART: Duration = Duration::from_millis(250);

/// What became of one connection's batch.
pub(super) enum Written {
    /// One a command; `None` when its entry was lost with this leader.
    Answered(Answers),
    /// Refused whole, before anything was appended: the node that was asked does not lead.
    NotLeader {
        /// Who does, perhaps.
        hint: Option<u64>,
    },
    /// Refused whole: no quorum has answered this leader lately, or none yet.
    LeaseExpired,
}

/// Where the groups of a task go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// Into this leader's log.
    Here,
    /// To the leader, over the network.
    ToLeader,
}

/// One connection's batch, a group that another node forwarded, or housekeeping. Admitted whole or not at all.
pub(super) struct Proposal<I> {
    pub(super) drafts: Vec<Draft>,
    /// When its caller gives up.
    pub(super) deadline: I,
    /// Dropped when nothing is known, at the deadline or before.
    pub(super) answer: oneshot::Sender<Written>,
    /// Where it has been offered twice.
    claim: Option<Claim>,
}

/// Of a proposal that is offered to two tasks, one takes it.
#[derive(Clone, Default)]
struct Claim(Arc<AtomicBool>);

impl Claim {
    /// False if it was taken before.
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// Feeds a task that makes groups.
pub(super) type Groups<I> = mpsc::Sender<Proposal<I>>;

/// What is to go as one group.
struct Waiting<I> {
    proposals: Vec<Proposal<I>>,
    entries: usize,
}

impl<I> Default for Waiting<I> {
    fn default() -> Self {
        Waiting {
            proposals: Vec::new(),
            entries: 0,
        }
    }
}

impl<I> Waiting<I> {
    fn take(&mut self, proposal: Proposal<I>) {
        if proposal.claim.as_ref().is_some_and(|claim| !claim.take()) {
            return;
        }
        self.entries += proposal.drafts.len();
        self.proposals.push(proposal);
    }

    fn take_all(&mut self, queue: &mut mpsc::Receiver<Proposal<I>>) {
        while self.entries < GROUP_ENTRIES
            && let Ok(proposal) = queue.try_recv()
        {
            self.take(proposal);
        }
    }

    /// Takes along what comes while other tasks of this runtime that are ready run. It runs whoever is woken next, before
    /// other connections of which something has arrived: the first of them to write would go alone.
    async fn gather(&mut self, queue: &mut mpsc::Receiver<Proposal<I>>) {
        for _ in 0..GATHERINGS_MAX {
            let before = self.entries;
            if before >= GROUP_ENTRIES {
                return;
            }
            let_others_run().await;
            self.take_all(queue);
            if self.entries == before {
                return;
            }
        }
    }
}

/// Ready at the second poll, for which it asks at the first: a runtime puts the task behind those that are ready.
async fn let_others_run() {
    let mut asked = false;
    poll_fn(|context| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Has the task behind `groups` propose the drafts. `None`: nothing is known of what became of them.
pub(super) async fn in_a_group<R: AsyncRuntime>(
    groups: &Groups<R::Instant>,
    drafts: &[Draft],
    deadline: R::Instant,
) -> Option<Written> {
    offer::<R>(groups, drafts, deadline, None).await
}

/// As [`in_a_group`], but by the task behind `apart` when nobody has looked at them in [`LATE`].
pub(super) async fn in_a_group_or_apart<R: AsyncRuntime>(
    groups: &Groups<R::Instant>,
    apart: &Groups<R::Instant>,
    drafts: &[Draft],
    deadline: R::Instant,
) -> Option<Written> {
    let claim = Claim::default();
    let mut offered = pin!(offer::<R>(groups, drafts, deadline, Some(claim.clone())));
    match R::select2(offered.as_mut(), R::sleep(LATE)).await {
        Select2::First(written) => written,
        Select2::Second(()) if claim.take() => in_a_group::<R>(apart, drafts, deadline).await,
        Select2::Second(()) => offered.await,
    }
}

async fn offer<R: AsyncRuntime>(
    groups: &Groups<R::Instant>,
    drafts: &[Draft],
    deadline: R::Instant,
    claim: Option<Claim>,
) -> Option<Written> {
    let (answer, answered) = oneshot::channel();
    let proposal = Proposal {
        drafts: drafts.to_vec(),
        deadline,
        answer,
        claim,
    };
    let ask = async {
        groups.send(proposal).await.ok()?;
        answered.await.ok()
    };
    R::timeout_at(deadline, ask).await.ok().flatten()
}

impl<R: AsyncRuntime, W: Wire> Replica<R, W> {
    pub(super) async fn group_loop(
        self,
        way: Way,
        mut queue: mpsc::Receiver<Proposal<R::Instant>>,
    ) {
        let mut metrics = self.inner.raft.server_metrics();
        // Groups that began under an earlier vote may never be answered; nobody waits for them.
        let mut reign = self.vote();
        let mut running = FuturesUnordered::new();
        let mut entries_running = 0;
        let mut waiting = Waiting::default();
        loop {
            waiting.take_all(&mut queue);
            if waiting.entries >= entries_running.clamp(1, GROUP_ENTRIES) {
                waiting.gather(&mut queue).await;
                entries_running += waiting.entries;
                let (replica, begun) = (self.clone(), reign);
                let Waiting {
                    proposals: group,
                    entries,
                } = std::mem::take(&mut waiting);
                running.push(async move {
                    match way {
                        Way::Here => replica.write_group(group).await,
                        Way::ToLeader => replica.forward_group(group).await,
                    }
                    (entries, begun)
                });
            }
            let ended = async {
                match running.next().await {
                    Some(ended) => ended,
                    None => std::future::pending().await,
                }
            };
            match self
                .unless_stopped(R::select3(ended, queue.recv(), metrics.changed()))
                .await
            {
                Some(Select3::First((entries, begun))) if begun == reign => {
                    entries_running -= entries
                }
                Some(Select3::First(_)) => {}
                Some(Select3::Second(Some(proposal))) => waiting.take(proposal),
                Some(Select3::Third(Ok(()))) => {
                    metrics.borrow_and_update();
                    if self.vote() != reign {
                        reign = self.vote();
                        entries_running = 0;
                    }
                }
                Some(Select3::Second(None) | Select3::Third(Err(_))) | None => return,
            }
        }
    }

    /// Proposes the batches in one piece and tells each what became of it. Ends with the last answer, or when the last
    /// caller gives up.
    async fn write_group(self, mut group: Vec<Proposal<R::Instant>>) {
        // Of those whose callers have given up meanwhile nothing needs to take effect any more.
        group.retain(|proposal| !proposal.answer.is_closed());
        let Some(deadline) = group.iter().map(|proposal| proposal.deadline).max() else {
            return;
        };
        let (drafts, members) = Member::split(group);
        let commands = self.stamp(drafts);
        let answering = async {
            match self.inner.raft.client_write_many(commands).await {
                Ok(written) => answer_members(written, members).await,
                // The node is ending; the change may be in its log already.
                Err(_) => drop(members),
            }
        };
        // Who was told nothing by then has given up.
        let _ = R::timeout_at(deadline, answering).await;
    }

    /// Forwards the batches to whoever leads, in one frame unless they are large.
    async fn forward_group(self, mut group: Vec<Proposal<R::Instant>>) {
        // Who has too little time left for the leader would only take it from the others; it gives up by itself.
        group.retain(|proposal| {
            !proposal.answer.is_closed() && time_left::<R>(proposal.deadline).is_some()
        });
        join_all(
            frames(group)
                .into_iter()
                .map(|frame| self.forward_frame(frame)),
        )
        .await;
    }

    async fn forward_frame(&self, group: Vec<Proposal<R::Instant>>) {
        // The first one's: past it the leader may propose nothing of what its caller has given up. The others ask again.
        let Some(deadline) = group.iter().map(|proposal| proposal.deadline).min() else {
            return;
        };
        let (drafts, members) = Member::split(group);
        let reply = match self.leader().filter(|leader| *leader != self.raft_id()) {
            Some(leader) => self.forward(leader, drafts, deadline).await,
            None => Some(ForwardReply::NotLeader { hint: None }),
        };
        let mut answers = match reply {
            Some(ForwardReply::Answered(answers)) => answers.into_iter(),
            Some(ForwardReply::NotLeader { hint }) => {
                return members
                    .into_iter()
                    .for_each(|member| member.tell(Written::NotLeader { hint }));
            }
            // The frame may have arrived. The members are dropped untold.
            None => return,
        };
        for member in members {
            let theirs = answers.by_ref().take(member.entries).collect();
            member.tell(Written::Answered(theirs));
        }
    }
}

/// What goes into one frame each: no more bytes than one batch may have, and deadlines that are not far apart.
fn frames<I: Instant>(group: Vec<Proposal<I>>) -> Vec<Vec<Proposal<I>>> {
    let apart = |a: I, b: I| {
        a.saturating_duration_since(b)
            .max(b.saturating_duration_since(a))
    };
    let mut frames: Vec<Vec<Proposal<I>>> = Vec::new();
    let mut room = 0;
    for proposal in group {
        let bytes: usize = proposal.drafts.iter().map(draft_bytes).sum();
        let fits = |frame: &&mut Vec<Proposal<I>>| {
            let first = frame.first().map(|first| first.deadline);
            bytes <= room
                && first.is_none_or(|first| apart(first, proposal.deadline) <= DEADLINES_APART)
        };
        match frames.last_mut().filter(fits) {
            Some(frame) => frame.push(proposal),
            None => {
                frames.push(vec![proposal]);
                room = PART_BYTES;
            }
        }
        room = room.saturating_sub(bytes);
    }
    frames
}

/// Who waits for a part of a group.
struct Member {
    entries: usize,
    answer: oneshot::Sender<Written>,
}

impl Member {
    fn split<I>(group: Vec<Proposal<I>>) -> (Vec<Draft>, VecDeque<Member>) {
        let mut drafts =
            Vec::with_capacity(group.iter().map(|proposal| proposal.drafts.len()).sum());
        let mut members = VecDeque::with_capacity(group.len());
        for proposal in group {
            members.push_back(Member {
                entries: proposal.drafts.len(),
                answer: proposal.answer,
            });
            drafts.extend(proposal.drafts);
        }
        (drafts, members)
    }

    fn tell(self, written: Written) {
        // A caller that gave up is no error.
        let _ = self.answer.send(written);
    }
}

/// Hands the answers out as they come, in order. A member that is dropped untold knows that nothing is known.
async fn answer_members<R: AsyncRuntime>(
    mut written: impl Stream<Item = Result<WriteResult<Types<R>>, Fatal<Types<R>>>> + Unpin,
    mut members: VecDeque<Member>,
) {
    while let Some(member) = members.pop_front() {
        let mut answers: Answers = Vec::with_capacity(member.entries);
        while answers.len() < member.entries {
            answers.push(match written.next().await {
                Some(Ok(Ok(written))) => Some((written.log_id.index, written.response)),
                Some(Ok(Err(ClientWriteError::ForwardToLeader(to)))) => {
                    // Refused whole, before anything was appended.
                    members.push_front(member);
                    for member in members {
                        member.tell(match to.reason {
                            ForwardReason::LeaseExpired => Written::LeaseExpired,
                            _ => Written::NotLeader { hint: to.leader_id },
                        });
                    }
                    return;
                }
                Some(Ok(Err(_))) => None,
                Some(Err(_)) | None => return,
            });
        }
        member.tell(Written::Answered(answers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Change;

    type Now = <openraft_rt_tokio::TokioRuntime as AsyncRuntime>::Instant;

    fn proposal(bytes: usize, deadline: Now) -> Proposal<Now> {
        let body = Change::Send {
            user: 1,
            to: "b".into(),
            body: "x".repeat(bytes),
            key: "k".into(),
        };
        let drafts = vec![Draft {
            actor: Some(1),
            body,
            secrets: None,
        }];
        Proposal {
            drafts,
            deadline,
            answer: oneshot::channel().0,
            claim: None,
        }
    }

    #[tokio::test]
    async fn who_is_ready_comes_along() {
        let (send, mut queue) = mpsc::channel(PROPOSALS_MAX);
        let mut waiting = Waiting::default();
        waiting.take(proposal(1, Now::now()));
        for ready in 0..2 {
            let send = send.clone();
            tokio::spawn(async move {
                // Ready only when somebody else has run.
                for _ in 0..ready {
                    let_others_run().await;
                }
                send.send(proposal(1, Now::now())).await.ok();
            });
        }
        waiting.gather(&mut queue).await;
        assert_eq!((waiting.entries, waiting.proposals.len()), (3, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_looks_at_goes_apart_and_once() {
        type Runtime = openraft_rt_tokio::TokioRuntime;
        let (groups, mut queue) = mpsc::channel(PROPOSALS_MAX);
        let (apart, mut queue_apart) = mpsc::channel(PROPOSALS_MAX);
        let drafts = proposal(1, Now::now()).drafts;
        let deadline = Now::now() + Duration::from_secs(3);
        let asked = in_a_group_or_apart::<Runtime>(&groups, &apart, &drafts, deadline);
        let answer = async {
            let late = tokio::time::timeout(2 * LATE, queue_apart.recv()).await;
            let late: Proposal<Now> = late.expect("it goes apart").unwrap();
            let mut waiting = Waiting::default();
            waiting.take_all(&mut queue);
            assert_eq!(waiting.entries, 0, "it was taken from there");
            assert_eq!(late.drafts, drafts);
            late.answer.send(Written::LeaseExpired).ok().unwrap();
        };
        let (written, ()) = tokio::join!(asked, answer);
        assert!(matches!(written, Some(Written::LeaseExpired)));

        let asked = in_a_group_or_apart::<Runtime>(&groups, &apart, &drafts, deadline);
        let answer = async {
            let mut waiting = Waiting::default();
            waiting.take(queue.recv().await.unwrap());
            tokio::time::sleep(2 * LATE).await;
            assert!(
                queue_apart.try_recv().is_err(),
                "it is taken, however long it takes"
            );
            waiting
                .proposals
                .pop()
                .unwrap()
                .answer
                .send(Written::LeaseExpired)
                .ok()
                .unwrap();
        };
        let (written, ()) = tokio::join!(asked, answer);
        assert!(matches!(written, Some(Written::LeaseExpired)));
    }

    #[test]
    fn a_frame_takes_what_fits_and_nobody_is_left_behind() {
        let now = Now::now();
        let lens = |sizes: &[usize]| -> Vec<usize> {
            frames(sizes.iter().map(|size| proposal(*size, now)).collect())
                .iter()
                .map(Vec::len)
                .collect()
        };
        let third = PART_BYTES / 3 - 600;
        assert!(lens(&[]).is_empty());
        assert_eq!(lens(&[1; 100]), [100]);
        assert_eq!(lens(&[third; 7]), [3, 3, 1]);
        assert_eq!(lens(&[1, PART_BYTES, 1]), [1, 1, 1]);
        let late = [0, 200, 400, 300].map(|ms| proposal(1, now + Duration::from_millis(ms)));
        assert_eq!(
            frames(late.into()).iter().map(Vec::len).collect::<Vec<_>>(),
            [2, 2]
        );
    }
}
