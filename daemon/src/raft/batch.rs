//! Writes share batches: a leader's proposals, and what another node forwards to it. An entry that travels alone costs each
//! node a message, a transaction and a sync. So proposals that come while a batch is in flight wait, and go together as the
//! next one.
//!
//! The next batch starts once it would be as large as all entries in flight. Nobody waits while nothing is in flight. Under
//! load two batches of half of all writers follow each other: one is written while the other is answered. No timer waits
//! for company, and a batch that ends lets the next one go, whatever its size.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
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
use super::core::Core;
use super::forward::{forward, time_left};
use super::frame::ForwardReply;
use super::types::{Command, Types};
use crate::change::{Change, Envelope, LOG_VERSION};

/// Proposals that may wait for a batching task; more wait for a place.
const PROPOSALS_MAX: usize = 4_096;
/// A batch with this many entries goes at once.
const BATCH_ENTRIES: usize = 2_000;
/// How often a batch yields to other tasks at most: these may be a storm of handshakes.
const YIELDS_MAX: usize = 2;
/// How long the callers' threads have to take a peer's proposal. Then it goes into the batches of
/// replication's own thread; a
/// crowd of handshakes keeps the callers' threads busy for longer.
const LATE: Duration = Duration::from_millis(20);
/// How far a deadline may be from that of its frame's first proposal: all of them get the earliest.
const DEADLINES_APART: Duration = Duration::from_millis(250);
/// Bytes proposed at once; they have to fit a frame.
pub(super) const PART_BYTES: usize = 2 * 1024 * 1024;

/// What the leader answered a proposal; `None`: nothing is known.
pub(super) type BatchResult = Option<Result<ForwardReply, LeaseExpired>>;

/// Refused as a whole: no quorum has answered this leader lately, or none yet.
#[derive(Debug)]
pub(super) struct LeaseExpired;

/// Where the batches of a task go.
#[derive(Debug, Clone, Copy)]
enum Route {
    /// Into this leader's log.
    Local,
    /// To the leader, over the network.
    Leader,
}

/// One connection's writes, a frame that another node forwarded, or housekeeping. Admitted as a whole or not at all.
struct Proposal<I> {
    drafts: Vec<Draft>,
    /// When its caller gives up.
    deadline: I,
    /// Dropped when nothing is known, at the deadline or before.
    answer: oneshot::Sender<Result<ForwardReply, LeaseExpired>>,
    /// Set when it is offered to two tasks.
    ticket: Option<Ticket>,
}

/// Of a proposal that is offered to two tasks, one takes it.
#[derive(Clone, Default)]
struct Ticket(Arc<AtomicBool>);

impl Ticket {
    /// False if it was taken before.
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

type Queue<I> = mpsc::Sender<Proposal<I>>;
type Feed<I> = mpsc::Receiver<Proposal<I>>;

/// The batching tasks of one replica.
pub(super) struct Batcher<R: AsyncRuntime> {
    /// To propose here, for callers and for peers. Were what peers forward batched by itself, each such batch would cost a
    /// sync of its own on every node.
    local: Queue<R::Instant>,
    /// To propose here, on replication's own thread: for what must not wait for threads that callers keep busy.
    apart: Queue<R::Instant>,
    /// To forward.
    leader: Queue<R::Instant>,
}

/// The tasks' ends of the queues.
pub(super) struct BatchFeeds<R: AsyncRuntime> {
    local: Feed<R::Instant>,
    apart: Feed<R::Instant>,
    leader: Feed<R::Instant>,
}

impl<R: AsyncRuntime> Batcher<R> {
    pub(super) fn new() -> (Self, BatchFeeds<R>) {
        let (local, local_feed) = mpsc::channel(PROPOSALS_MAX);
        let (apart, apart_feed) = mpsc::channel(PROPOSALS_MAX);
        let (leader, leader_feed) = mpsc::channel(PROPOSALS_MAX);
        let feeds = BatchFeeds {
            local: local_feed,
            apart: apart_feed,
            leader: leader_feed,
        };
        (
            Batcher {
                local,
                apart,
                leader,
            },
            feeds,
        )
    }

    /// Proposes here, together with other callers.
    pub(super) async fn local(&self, drafts: &[Draft], deadline: R::Instant) -> BatchResult {
        offer::<R>(&self.local, drafts, deadline, None).await
    }

    /// Proposes here, apart from callers.
    pub(super) async fn apart(&self, drafts: &[Draft], deadline: R::Instant) -> BatchResult {
        offer::<R>(&self.apart, drafts, deadline, None).await
    }

    /// Proposes here, together with callers; apart from them when nobody has taken it in [`LATE`].
    pub(super) async fn local_or_apart(
        &self,
        drafts: &[Draft],
        deadline: R::Instant,
    ) -> BatchResult {
        let ticket = Ticket::default();
        let offered = offer::<R>(&self.local, drafts, deadline, Some(ticket.clone()));
        let mut offered = pin!(offered);
        match R::select2(offered.as_mut(), R::sleep(LATE)).await {
            Select2::First(result) => result,
            Select2::Second(()) if ticket.take() => self.apart(drafts, deadline).await,
            Select2::Second(()) => offered.await,
        }
    }

    /// Has the leader propose.
    pub(super) async fn leader(&self, drafts: &[Draft], deadline: R::Instant) -> BatchResult {
        offer::<R>(&self.leader, drafts, deadline, None).await
    }
}

async fn offer<R: AsyncRuntime>(
    queue: &Queue<R::Instant>,
    drafts: &[Draft],
    deadline: R::Instant,
    ticket: Option<Ticket>,
) -> BatchResult {
    let (answer, answered) = oneshot::channel();
    let proposal = Proposal {
        drafts: drafts.to_vec(),
        deadline,
        answer,
        ticket,
    };
    let ask = async {
        queue.send(proposal).await.ok()?;
        answered.await.ok()
    };
    R::timeout_at(deadline, ask).await.ok().flatten()
}

impl<R: AsyncRuntime> BatchFeeds<R> {
    /// The tasks: one for replication's threads, and two for the callers' threads. A wake-up across threads costs more than
    /// the batching, so callers' writes are batched on the callers' own runtime.
    pub(super) fn tasks<W: Wire>(
        self,
        core: &Arc<Core<R, W>>,
    ) -> (
        impl Future<Output = ()> + Send + 'static,
        [impl Future<Output = ()> + Send + 'static; 2],
    ) {
        let task = |route, feed| batch_loop(core.clone(), route, feed);
        (
            task(Route::Local, self.apart),
            [
                task(Route::Local, self.local),
                task(Route::Leader, self.leader),
            ],
        )
    }
}

/// The proposals of the next batch.
struct NextBatch<I> {
    proposals: Vec<Proposal<I>>,
    entries: usize,
}

impl<I> Default for NextBatch<I> {
    fn default() -> Self {
        NextBatch {
            proposals: Vec::new(),
            entries: 0,
        }
    }
}

impl<I> NextBatch<I> {
    fn take(&mut self, proposal: Proposal<I>) {
        if proposal
            .ticket
            .as_ref()
            .is_some_and(|ticket| !ticket.take())
        {
            return;
        }
        self.entries += proposal.drafts.len();
        self.proposals.push(proposal);
    }

    fn take_all(&mut self, feed: &mut Feed<I>) {
        while self.entries < BATCH_ENTRIES
            && let Ok(proposal) = feed.try_recv()
        {
            self.take(proposal);
        }
    }

    /// Yields twice at most, so that tasks that are ready run and writers that woke together share a batch. The runtime runs the
    /// task that was woken last first, and the first writer of a wake-up would otherwise go alone.
    async fn gather(&mut self, feed: &mut Feed<I>) {
        for _ in 0..YIELDS_MAX {
            let before = self.entries;
            if before >= BATCH_ENTRIES {
                return;
            }
            yield_to_ready_tasks().await;
            self.take_all(feed);
            if self.entries == before {
                return;
            }
        }
    }
}

/// Ready at the second poll, which it asks for at the first: a runtime puts the task behind those that are ready.
async fn yield_to_ready_tasks() {
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

async fn batch_loop<R: AsyncRuntime, W: Wire>(
    core: Arc<Core<R, W>>,
    route: Route,
    mut feed: Feed<R::Instant>,
) {
    let mut metrics = core.raft.server_metrics();
    // Batches that began under an earlier vote may never be answered; nobody waits for them.
    let mut vote = core.vote();
    let mut in_flight = FuturesUnordered::new();
    let mut entries_in_flight = 0;
    let mut next = NextBatch::default();
    loop {
        next.take_all(&mut feed);
        if next.entries >= entries_in_flight.clamp(1, BATCH_ENTRIES) {
            next.gather(&mut feed).await;
            entries_in_flight += next.entries;
            let (core, begun) = (core.clone(), vote);
            let NextBatch { proposals, entries } = std::mem::take(&mut next);
            in_flight.push(async move {
                match route {
                    Route::Local => write_batch(&core, proposals).await,
                    Route::Leader => forward_batch(&core, proposals).await,
                }
                (entries, begun)
            });
        }
        let ended = async {
            match in_flight.next().await {
                Some(ended) => ended,
                None => std::future::pending().await,
            }
        };
        let event = R::select3(ended, feed.recv(), metrics.changed());
        match core.unless_stopped(event).await {
            Some(Select3::First((entries, begun))) if begun == vote => entries_in_flight -= entries,
            Some(Select3::First(_)) => {}
            Some(Select3::Second(Some(proposal))) => next.take(proposal),
            Some(Select3::Third(Ok(()))) => {
                metrics.borrow_and_update();
                if core.vote() != vote {
                    vote = core.vote();
                    entries_in_flight = 0;
                }
            }
            Some(Select3::Second(None) | Select3::Third(Err(_))) | None => return,
        }
    }
}

/// Proposes the batch in one piece and answers each proposal. Ends with the last answer, or when the last caller gives up.
async fn write_batch<R: AsyncRuntime, W: Wire>(
    core: &Core<R, W>,
    mut batch: Vec<Proposal<R::Instant>>,
) {
    // What callers have given up need not take effect.
    batch.retain(|proposal| !proposal.answer.is_closed());
    let Some(deadline) = batch.iter().map(|proposal| proposal.deadline).max() else {
        return;
    };
    let (drafts, waiters) = Waiter::split(batch);
    let commands = stamp((core.clock)(), drafts);
    let answering = async {
        match core.raft.client_write_many(commands).await {
            Ok(written) => answer_waiters(written, waiters).await,
            // The node is ending; the change may be in its log already.
            Err(_) => drop(waiters),
        }
    };
    // A waiter without an answer by then has given up.
    let _ = R::timeout_at(deadline, answering).await;
}

/// The leader's stamp: its clock `at`, and the version that all members know.
fn stamp(at: u64, drafts: Vec<Draft>) -> Vec<Command> {
    let envelope = |draft: Draft| Envelope {
        v: LOG_VERSION,
        at,
        actor: draft.actor,
        body: draft.body,
        secrets: draft.secrets,
    };
    drafts
        .into_iter()
        .map(|draft| Command(Arc::new(envelope(draft))))
        .collect()
}

/// Forwards the batch to the leader, in one frame unless it is large.
async fn forward_batch<R: AsyncRuntime, W: Wire>(
    core: &Core<R, W>,
    mut batch: Vec<Proposal<R::Instant>>,
) {
    // Callers whose deadline is too close would shorten the deadline of the whole frame.
    batch.retain(|proposal| {
        !proposal.answer.is_closed() && time_left::<R>(proposal.deadline).is_some()
    });
    let frames = frames(batch).into_iter();
    join_all(frames.map(|frame| forward_frame(core, frame))).await;
}

async fn forward_frame<R: AsyncRuntime, W: Wire>(
    core: &Core<R, W>,
    batch: Vec<Proposal<R::Instant>>,
) {
    // The earliest one: later, the leader may propose nothing that its caller has given up. The others ask again.
    let Some(deadline) = batch.iter().map(|proposal| proposal.deadline).min() else {
        return;
    };
    let (drafts, waiters) = Waiter::split(batch);
    let reply = match core.leader().filter(|leader| *leader != core.raft_id()) {
        Some(leader) => forward(core, leader, drafts, deadline).await,
        None => Some(ForwardReply::NotLeader { hint: None }),
    };
    match reply {
        Some(ForwardReply::Answered(answers)) => {
            let mut answers = answers.into_iter();
            for waiter in waiters {
                let theirs = answers.by_ref().take(waiter.entries).collect();
                waiter.tell(Ok(ForwardReply::Answered(theirs)));
            }
        }
        Some(ForwardReply::NotLeader { hint }) => waiters
            .into_iter()
            .for_each(|waiter| waiter.tell(Ok(ForwardReply::NotLeader { hint }))),
        // The frame may have arrived. The waiters are dropped untold.
        None => {}
    }
}

/// Splits a batch into frames: each has at most [`PART_BYTES`], and deadlines that are close together.
fn frames<I: Instant>(batch: Vec<Proposal<I>>) -> Vec<Vec<Proposal<I>>> {
    let apart = |a: I, b: I| {
        a.saturating_duration_since(b)
            .max(b.saturating_duration_since(a))
    };
    let mut frames: Vec<Vec<Proposal<I>>> = Vec::new();
    let mut room = 0;
    for proposal in batch {
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

/// Roughly what a draft adds to a frame.
pub(super) fn draft_bytes(draft: &Draft) -> usize {
    const FIXED: usize = 512;
    match &draft.body {
        Change::Send { body, .. } => FIXED + body.len(),
        _ => FIXED,
    }
}

/// Waits for its part of a batch.
struct Waiter {
    entries: usize,
    answer: oneshot::Sender<Result<ForwardReply, LeaseExpired>>,
}

impl Waiter {
    fn split<I>(batch: Vec<Proposal<I>>) -> (Vec<Draft>, VecDeque<Waiter>) {
        let entries = batch.iter().map(|proposal| proposal.drafts.len()).sum();
        let mut drafts = Vec::with_capacity(entries);
        let mut waiters = VecDeque::with_capacity(batch.len());
        for proposal in batch {
            waiters.push_back(Waiter {
                entries: proposal.drafts.len(),
                answer: proposal.answer,
            });
            drafts.extend(proposal.drafts);
        }
        (drafts, waiters)
    }

    fn tell(self, result: Result<ForwardReply, LeaseExpired>) {
        // A caller that gave up is no error.
        let _ = self.answer.send(result);
    }
}

/// Hands the answers out in order, as they come. A waiter that is dropped untold knows that nothing is known.
async fn answer_waiters<R: AsyncRuntime>(
    mut written: impl Stream<Item = Result<WriteResult<Types<R>>, Fatal<Types<R>>>> + Unpin,
    mut waiters: VecDeque<Waiter>,
) {
    while let Some(waiter) = waiters.pop_front() {
        let mut answers = Vec::with_capacity(waiter.entries);
        while answers.len() < waiter.entries {
            answers.push(match written.next().await {
                Some(Ok(Ok(written))) => Some((written.log_id.index, written.response)),
                Some(Ok(Err(ClientWriteError::ForwardToLeader(to)))) => {
                    // Refused as a whole, before anything was appended.
                    waiters.push_front(waiter);
                    for waiter in waiters {
                        waiter.tell(match to.reason {
                            ForwardReason::LeaseExpired => Err(LeaseExpired),
                            _ => Ok(ForwardReply::NotLeader { hint: to.leader_id }),
                        });
                    }
                    return;
                }
                Some(Ok(Err(_))) => None,
                Some(Err(_)) | None => return,
            });
        }
        waiter.tell(Ok(ForwardReply::Answered(answers)));
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
            ticket: None,
        }
    }

    #[tokio::test]
    async fn ready_writers_share_a_batch() {
        let (send, mut queue) = mpsc::channel(PROPOSALS_MAX);
        let mut next = NextBatch::default();
        next.take(proposal(1, Now::now()));
        for ready in 0..2 {
            let send = send.clone();
            tokio::spawn(async move {
                // Ready only when somebody else has run.
                for _ in 0..ready {
                    yield_to_ready_tasks().await;
                }
                send.send(proposal(1, Now::now())).await.ok();
            });
        }
        next.gather(&mut queue).await;
        assert_eq!((next.entries, next.proposals.len()), (3, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_proposal_that_nobody_takes_goes_apart_and_once() {
        type Runtime = openraft_rt_tokio::TokioRuntime;
        let (batcher, mut feeds) = Batcher::<Runtime>::new();
        let drafts = proposal(1, Now::now()).drafts;
        let deadline = Now::now() + Duration::from_secs(3);
        let asked = batcher.local_or_apart(&drafts, deadline);
        let answer = async {
            let late = tokio::time::timeout(2 * LATE, feeds.apart.recv()).await;
            let late: Proposal<Now> = late.expect("it goes apart").unwrap();
            let mut next = NextBatch::default();
            next.take_all(&mut feeds.local);
            assert_eq!(next.entries, 0, "it was taken from there");
            assert_eq!(late.drafts, drafts);
            late.answer.send(Err(LeaseExpired)).ok().unwrap();
        };
        let (written, ()) = tokio::join!(asked, answer);
        assert!(matches!(written, Some(Err(LeaseExpired))));

        let asked = batcher.local_or_apart(&drafts, deadline);
        let answer = async {
            let mut next = NextBatch::default();
            next.take(feeds.local.recv().await.unwrap());
            tokio::time::sleep(2 * LATE).await;
            assert!(
                feeds.apart.try_recv().is_err(),
                "it is taken, however long it takes"
            );
            next.proposals
                .pop()
                .unwrap()
                .answer
                .send(Err(LeaseExpired))
                .ok()
                .unwrap();
        };
        let (written, ()) = tokio::join!(asked, answer);
        assert!(matches!(written, Some(Err(LeaseExpired))));
    }

    #[test]
    fn a_frame_takes_what_fits_and_no_proposal_is_left_out() {
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
