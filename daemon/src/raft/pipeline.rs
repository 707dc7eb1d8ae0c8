//! Appends to one peer, several on their way: what is to be written next waits at the peer for its disk, instead of here
//! for the answer about what came before. Answers are told in the order of the appends.
//!
//! Frames leave in order, and the peer door hands them over in order; still nothing here relies on that. An append that
//! arrives before its predecessor is refused for the gap, which says nothing about the peer's log: the stream then ends,
//! and openraft begins the next one behind what was acknowledged.

use std::future::{Future, poll_fn};
use std::task::Poll;

use futures_util::stream::{self, FuturesOrdered, Stream, StreamExt};
use openraft::AsyncRuntime;
use openraft::base::BoxStream;
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};

use super::types::{RaftLogId, Types};

/// Appends on their way to one peer, each of at most `APPEND_BYTES`. The groups of writes are two at a time
/// (`super::group`); more is for a peer that catches up.
const ON_THEIR_WAY_MAX: usize = 4;

type Asked<R> = AppendEntriesRequest<Types<R>>;
type Told<R> = Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>>;

/// Sends what `input` yields by `send`, whose first poll puts a frame on its way. Ends after the first answer that is not
/// a whole success.
pub(super) fn pipelined<'s, R, S, A>(
    input: S,
    send: impl Fn(Asked<R>) -> A + Send + 's,
) -> BoxStream<'s, Result<StreamAppendResult<Types<R>>, RPCError<Types<R>>>>
where
    R: AsyncRuntime,
    S: Stream<Item = Asked<R>> + Unpin + Send + 'static,
    A: Future<Output = Told<R>> + Send + 's,
{
    // Boxed once a call: what is on its way is moved about.
    let begin = move |rpc: Asked<R>, alone: bool| {
        let (prev, last) = range(&rpc);
        let told = send(rpc);
        Box::pin(async move { Answered { prev, last, alone, told: told.await } })
    };
    let pipeline = Pipeline { input: Some(input), begin, on_the_way: FuturesOrdered::new(), notice: None };
    Box::pin(stream::unfold(Some(pipeline), |pipeline| async move {
        let mut pipeline = pipeline?;
        let answered = pipeline.next().await?;
        let (result, whole) = answered.result()?;
        Some((result, whole.then_some(pipeline)))
    }))
}

/// What the request builds on, and what the peer has when it succeeds.
fn range<R: AsyncRuntime>(rpc: &Asked<R>) -> (Option<RaftLogId>, Option<RaftLogId>) {
    (rpc.prev_log_id, rpc.entries.last().map_or(rpc.prev_log_id, |last| Some(last.log_id)))
}

struct Answered<R: AsyncRuntime> {
    prev: Option<RaftLogId>,
    last: Option<RaftLogId>,
    /// Sent when nothing else was on its way.
    alone: bool,
    told: Told<R>,
}

impl<R: AsyncRuntime> Answered<R> {
    /// What openraft is told, and whether more may follow; `None` if nothing can be said.
    fn result(self) -> Option<(Result<StreamAppendResult<Types<R>>, RPCError<Types<R>>>, bool)> {
        match self.told {
            Ok(AppendEntriesResponse::Conflict) if !self.alone => {
                tracing::debug!("an append came before its predecessor; sending it again");
                None
            }
            Ok(response) => {
                let result = response.into_stream_result(self.prev, self.last);
                let whole = matches!(&result, Ok(matching) if *matching == self.last);
                Some((Ok(result), whole))
            }
            Err(error) => Some((Err(error), false)),
        }
    }
}

struct Pipeline<R: AsyncRuntime, S, B, F: Future> {
    /// `None`: at its end.
    input: Option<S>,
    begin: B,
    on_the_way: FuturesOrdered<F>,
    /// The newest request without entries, which tells only what is committed. It waits while something is on its way,
    /// because the next entries mostly come before the answer and tell it as well: half as many frames.
    notice: Option<Asked<R>>,
}

impl<R, S, B, F> Pipeline<R, S, B, F>
where
    R: AsyncRuntime,
    S: Stream<Item = Asked<R>> + Unpin,
    B: Fn(Asked<R>, bool) -> F,
    F: Future<Output = Answered<R>>,
{
    /// The next answer, in the order of the requests; sends what is to be sent meanwhile.
    async fn next(&mut self) -> Option<Answered<R>> {
        loop {
            if self.on_the_way.is_empty()
                && let Some(notice) = self.notice.take()
            {
                self.send(notice);
            }
            if self.on_the_way.is_empty() && self.input.is_none() {
                return None;
            }
            let Pipeline { input, on_the_way, .. } = &mut *self;
            let event = poll_fn(|cx| {
                // The calls first: being polled puts them on their way.
                if let Poll::Ready(Some(answered)) = on_the_way.poll_next_unpin(cx) {
                    return Poll::Ready(Event::Answered(answered));
                }
                match input {
                    Some(input) if on_the_way.len() < ON_THEIR_WAY_MAX => input.poll_next_unpin(cx).map(Event::Asked),
                    _ => Poll::Pending,
                }
            });
            match event.await {
                Event::Answered(answered) => return Some(answered),
                Event::Asked(None) => self.input = None,
                Event::Asked(Some(rpc)) if rpc.entries.is_empty() && !self.on_the_way.is_empty() => {
                    self.notice = Some(rpc);
                }
                Event::Asked(Some(rpc)) => {
                    self.notice = None;
                    self.send(rpc);
                }
            }
        }
    }

    fn send(&mut self, rpc: Asked<R>) {
        let alone = self.on_the_way.is_empty();
        self.on_the_way.push_back((self.begin)(rpc, alone));
    }
}

enum Event<R: AsyncRuntime> {
    Asked(Option<Asked<R>>),
    Answered(Answered<R>),
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Waker};

    use futures_util::stream::BoxStream as Answers;
    use openraft::EntryPayload;
    use openraft::raft::StreamAppendError;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::raft::types::{Entry, Vote, from_log_id};
    use crate::store::LogId;

    type Runtime = openraft_rt_tokio::TokioRuntime;
    type Response = AppendEntriesResponse<Types<Runtime>>;

    fn id(index: u64) -> RaftLogId {
        from_log_id(LogId { term: 1, leader: 1, index })
    }

    /// Entries (prev, last]; none: only what is committed.
    fn append(prev: u64, last: u64) -> Asked<Runtime> {
        let entries =
            (prev + 1..=last).map(|index| Entry { log_id: id(index), payload: EntryPayload::Blank }).collect();
        AppendEntriesRequest { vote: Vote::new(1, 1), prev_log_id: Some(id(prev)), entries, leader_commit: None }
    }

    /// A stream whose input and answers the test gives.
    struct Peer {
        input: RefCell<Option<mpsc::Sender<Asked<Runtime>>>>,
        /// (prev, last) of what was sent, and where its answer goes.
        sent: Arc<Mutex<Vec<(u64, u64, Option<oneshot::Sender<Response>>)>>>,
        answers: RefCell<Answers<'static, Result<StreamAppendResult<Types<Runtime>>, RPCError<Types<Runtime>>>>>,
    }

    impl Peer {
        fn new() -> Peer {
            let (input, asked) = mpsc::channel(16);
            let sent = Arc::<Mutex<Vec<_>>>::default();
            let on_send = sent.clone();
            let send = move |rpc: Asked<Runtime>| {
                let (told, answer) = oneshot::channel();
                let (prev, last) = range(&rpc);
                let on_send = on_send.clone();
                async move {
                    on_send.lock().unwrap().push((prev.unwrap().index, last.unwrap().index, Some(told)));
                    Ok(answer.await.unwrap())
                }
            };
            let asked = Box::pin(stream::unfold(asked, |mut asked| async { Some((asked.recv().await?, asked)) }));
            Peer { input: RefCell::new(Some(input)), sent, answers: RefCell::new(pipelined(asked, send)) }
        }

        fn ask(&self, rpc: Asked<Runtime>) {
            self.input.borrow().as_ref().unwrap().try_send(rpc).unwrap();
        }

        fn answer(&self, nth: usize, response: Response) {
            self.sent.lock().unwrap()[nth].2.take().unwrap().send(response).unwrap();
        }

        fn sent(&self) -> Vec<(u64, u64)> {
            self.sent.lock().unwrap().iter().map(|(prev, last, _)| (*prev, *last)).collect()
        }

        /// The index that the next answer confirms; an error that ends the stream is `Err`.
        fn told(&self) -> Poll<Option<Result<u64, StreamAppendError<Types<Runtime>>>>> {
            let mut answers = self.answers.borrow_mut();
            Pin::new(&mut *answers)
                .poll_next(&mut Context::from_waker(Waker::noop()))
                .map(|told| told.map(|told| told.unwrap().map(|matching| matching.unwrap().index)))
        }
    }

    #[test]
    fn appends_do_not_wait_for_each_other_and_are_answered_in_order() {
        let peer = Peer::new();
        for n in 0..ON_THEIR_WAY_MAX as u64 + 2 {
            peer.ask(append(n, n + 1));
        }
        assert_eq!(peer.told(), Poll::Pending);
        assert_eq!(peer.sent(), (0..ON_THEIR_WAY_MAX as u64).map(|n| (n, n + 1)).collect::<Vec<_>>());
        peer.answer(1, Response::Success);
        assert_eq!(peer.told(), Poll::Pending);
        peer.answer(0, Response::Success);
        assert_eq!(peer.told(), Poll::Ready(Some(Ok(1))));
        assert_eq!(peer.told(), Poll::Ready(Some(Ok(2))));
        assert_eq!(peer.told(), Poll::Pending);
        assert_eq!(peer.sent().len(), ON_THEIR_WAY_MAX + 2);
    }

    #[test]
    fn what_tells_only_the_commit_waits_for_entries_or_for_the_last_answer() {
        let peer = Peer::new();
        peer.ask(append(4, 4));
        assert_eq!(peer.told(), Poll::Pending);
        assert_eq!(peer.sent(), [(4, 4)]);
        peer.ask(append(4, 5));
        peer.ask(append(5, 5));
        peer.ask(append(5, 7));
        assert_eq!(peer.told(), Poll::Pending);
        assert_eq!(peer.sent(), [(4, 4), (4, 5), (5, 7)]);
        peer.ask(append(7, 7));
        assert_eq!(peer.told(), Poll::Pending);
        peer.input.borrow_mut().take();
        for (nth, index) in [(0, 4), (1, 5), (2, 7)] {
            assert_eq!(peer.told(), Poll::Pending);
            assert_eq!(peer.sent().len(), 3);
            peer.answer(nth, Response::Success);
            assert_eq!(peer.told(), Poll::Ready(Some(Ok(index))));
        }
        assert_eq!(peer.told(), Poll::Pending);
        assert_eq!(peer.sent().last(), Some(&(7, 7)));
        peer.answer(3, Response::Success);
        assert_eq!(peer.told(), Poll::Ready(Some(Ok(7))));
        assert_eq!(peer.told(), Poll::Ready(None));
    }

    #[test]
    fn a_conflict_counts_only_when_nothing_was_overtaken() {
        let peer = Peer::new();
        peer.ask(append(1, 2));
        peer.ask(append(2, 3));
        assert_eq!(peer.told(), Poll::Pending);
        peer.answer(1, Response::Conflict);
        peer.answer(0, Response::Success);
        assert_eq!(peer.told(), Poll::Ready(Some(Ok(2))));
        // Of the second nothing is known; openraft begins anew behind the first.
        assert_eq!(peer.told(), Poll::Ready(None));

        let peer = Peer::new();
        peer.ask(append(1, 2));
        assert_eq!(peer.told(), Poll::Pending);
        peer.answer(0, Response::Conflict);
        assert_eq!(peer.told(), Poll::Ready(Some(Err(StreamAppendError::Conflict(id(1))))));
        assert_eq!(peer.told(), Poll::Ready(None));
    }

    #[test]
    fn nothing_follows_half_a_success_or_a_higher_vote() {
        for (response, told) in [
            (Response::PartialSuccess(Some(id(2))), Ok(2)),
            (Response::HigherVote(Vote::new(2, 2)), Err(StreamAppendError::HigherVote(Vote::new(2, 2)))),
        ] {
            let peer = Peer::new();
            peer.ask(append(1, 3));
            peer.ask(append(3, 4));
            assert_eq!(peer.told(), Poll::Pending);
            peer.answer(0, response);
            peer.answer(1, Response::Success);
            assert_eq!(peer.told(), Poll::Ready(Some(told)));
            assert_eq!(peer.told(), Poll::Ready(None));
        }
    }
}
