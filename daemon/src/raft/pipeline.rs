//! Appends to one peer, several in flight: the next write waits at the peer for its disk, not here for the answer to the
//! write before. Answers reach openraft in the order of the appends.
//!
//! Frames leave in order, and the peer's listener hands them over in order, but nothing here relies on that. An append that
//! arrives before its predecessor is refused for the gap, which says nothing about the peer's log. The stream then ends, and
//! openraft begins the next one behind the last acknowledged entry.
//!
//! **Invariant:** an answer is held back while a later request in flight confirms no more. openraft takes an answer for one to
//! every request that it confirms (`drain_acked` in its replication/inflight_append_queue.rs). A request without entries would
//! count as answered before it was. The leader would date its confirmation by a majority too late, and a linear read could miss
//! what another leader has acknowledged. The answer to the later request says as much.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::task::Poll;

use futures_util::stream::{self, FuturesOrdered, Stream, StreamExt};
use openraft::AsyncRuntime;
use openraft::base::BoxStream;
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};

use super::commit_notify::CommitGate;
use super::types::{RaftLogId, Types};

/// Requests in flight to one peer. Two batches of writes are in flight at a time (`super::batch`), and notices of commits
/// between them.
const IN_FLIGHT_MAX: usize = 8;
/// With this many bytes in flight nothing follows. One append may be larger (`APPEND_BYTES`): a peer that catches up gets one
/// at a time, and has the whole time limit for each.
const IN_FLIGHT_BYTES: usize = 256 * 1024;

type Asked<R> = AppendEntriesRequest<Types<R>>;
/// What the peer answered.
pub(super) type Told<R> = Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>>;
/// What openraft is told of it.
pub(super) type Answer<R> = Result<StreamAppendResult<Types<R>>, RPCError<Types<R>>>;

/// Sends what `input` yields, when `gate` allows to ask it. `send` returns a request's size in bytes and its call, whose first
/// poll sends the frame. Ends after the first answer that is not a full success.
pub(super) fn pipelined<'s, R, S, A>(
    input: S,
    gate: CommitGate<R>,
    send: impl Fn(Asked<R>) -> (usize, A) + Send + 's,
) -> BoxStream<'s, Answer<R>>
where
    R: AsyncRuntime,
    S: Stream<Item = Asked<R>> + Unpin + Send + 'static,
    A: Future<Output = Told<R>> + Send + 's,
{
    let (calls, in_flight) = (FuturesOrdered::new(), VecDeque::new());
    let pipeline = Pipeline {
        input: Some(input),
        gate,
        send,
        calls,
        in_flight,
        bytes: 0,
    };
    Box::pin(stream::unfold(Some(pipeline), |pipeline| async move {
        let mut pipeline = pipeline?;
        let (result, goes_on) = pipeline.next().await?;
        Some((result, goes_on.then_some(pipeline)))
    }))
}

/// The entry that the request builds on, and the last one that the peer has when it succeeds.
fn range<R: AsyncRuntime>(rpc: &Asked<R>) -> (Option<RaftLogId>, Option<RaftLogId>) {
    (
        rpc.prev_log_id,
        rpc.entries
            .last()
            .map_or(rpc.prev_log_id, |last| Some(last.log_id)),
    )
}

/// A request that is not answered yet.
struct InFlight {
    prev: Option<RaftLogId>,
    last: Option<RaftLogId>,
    bytes: usize,
    /// Nothing else was in flight when it was sent.
    alone: bool,
}

struct Pipeline<R: AsyncRuntime, S, B, A: Future> {
    /// `None`: at its end.
    input: Option<S>,
    gate: CommitGate<R>,
    send: B,
    calls: FuturesOrdered<A>,
    /// Of each call, in their order.
    in_flight: VecDeque<InFlight>,
    bytes: usize,
}

enum Event<R: AsyncRuntime> {
    Asked(Option<Asked<R>>),
    Told(Told<R>),
}

impl<R, S, B, A> Pipeline<R, S, B, A>
where
    R: AsyncRuntime,
    S: Stream<Item = Asked<R>> + Unpin,
    B: Fn(Asked<R>) -> (usize, A),
    A: Future<Output = Told<R>>,
{
    /// The next answer for openraft, and whether more may follow; meanwhile sends requests.
    async fn next(&mut self) -> Option<(Answer<R>, bool)> {
        loop {
            match self.event().await {
                Event::Told(told) => {
                    let answered = self.in_flight.pop_front()?;
                    self.bytes -= answered.bytes;
                    let result = match told {
                        Ok(AppendEntriesResponse::Conflict) if !answered.alone => {
                            tracing::debug!(
                                "an append came before its predecessor; sending it again"
                            );
                            return None;
                        }
                        Ok(response) => response.into_stream_result(answered.prev, answered.last),
                        Err(error) => return Some((Err(error), false)),
                    };
                    let whole = matches!(&result, Ok(matching) if *matching == answered.last);
                    let told_later = self
                        .in_flight
                        .front()
                        .is_some_and(|next| next.last == answered.last);
                    if !(whole && told_later) {
                        return Some((Ok(result), whole));
                    }
                }
                Event::Asked(Some(rpc)) => {
                    let alone = self.in_flight.is_empty();
                    let (prev, last) = range(&rpc);
                    if let Some(entry) = rpc.entries.last() {
                        self.gate.sends(entry.log_id.index);
                    }
                    let (bytes, call) = (self.send)(rpc);
                    self.bytes += bytes;
                    self.in_flight.push_back(InFlight {
                        prev,
                        last,
                        bytes,
                        alone,
                    });
                    self.calls.push_back(call);
                }
                Event::Asked(None) => {
                    self.input = None;
                    if self.in_flight.is_empty() {
                        return None;
                    }
                }
            }
        }
    }

    async fn event(&mut self) -> Event<R> {
        let room = self.in_flight.len() < IN_FLIGHT_MAX && self.bytes < IN_FLIGHT_BYTES;
        let Pipeline {
            input, gate, calls, ..
        } = self;
        poll_fn(|cx| {
            // The calls first: being polled puts them on their way.
            if let Poll::Ready(Some(told)) = calls.poll_next_unpin(cx) {
                return Poll::Ready(Event::Told(told));
            }
            match input {
                Some(input) if room && gate.poll_open(cx) => {
                    let asked = input.poll_next_unpin(cx);
                    gate.polled(&asked);
                    asked.map(Event::Asked)
                }
                Some(_) => Poll::Pending,
                None if calls.is_empty() => Poll::Ready(Event::Asked(None)),
                None => Poll::Pending,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Waker};

    use openraft::EntryPayload;
    use openraft::errors::NetworkError;
    use openraft::raft::StreamAppendError;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::entry::LogId;
    use crate::raft::types::{Entry, Vote, from_log_id};

    type Runtime = openraft_rt_tokio::TokioRuntime;
    type Response = AppendEntriesResponse<Types<Runtime>>;

    fn id(index: u64) -> RaftLogId {
        from_log_id(LogId {
            term: 1,
            leader: 1,
            index,
        })
    }

    /// Entries (prev, last]; none: only what is committed.
    fn append(prev: u64, last: u64) -> Asked<Runtime> {
        let entries = (prev + 1..=last)
            .map(|index| Entry {
                log_id: id(index),
                payload: EntryPayload::Blank,
            })
            .collect();
        AppendEntriesRequest {
            vote: Vote::new(1, 1),
            prev_log_id: Some(id(prev)),
            entries,
            leader_commit: None,
        }
    }

    /// (prev, last) of what was sent, and where its answer goes.
    type Sent = (u64, u64, Option<oneshot::Sender<Response>>);
    /// The index that is confirmed; else what ends the stream: `None` when the answer was lost.
    type Confirmed = Result<u64, Option<StreamAppendError<Types<Runtime>>>>;

    /// A stream whose input and answers the test gives.
    struct Peer {
        input: RefCell<Option<mpsc::Sender<Asked<Runtime>>>>,
        sent: Arc<Mutex<Vec<Sent>>>,
        answers: RefCell<BoxStream<'static, Answer<Runtime>>>,
    }

    impl Peer {
        /// Bytes of each request.
        fn new(bytes: usize) -> Peer {
            let (input, asked) = mpsc::channel(16);
            let sent = Arc::<Mutex<Vec<_>>>::default();
            let on_send = sent.clone();
            let send = move |rpc: Asked<Runtime>| {
                let (told, answer) = oneshot::channel();
                let (prev, last) = range(&rpc);
                let on_send = on_send.clone();
                let call = async move {
                    on_send.lock().unwrap().push((
                        prev.unwrap().index,
                        last.unwrap().index,
                        Some(told),
                    ));
                    answer
                        .await
                        .map_err(|lost| RPCError::Network(NetworkError::new(&lost)))
                };
                (bytes, call)
            };
            let gate = CommitGate::new(Arc::default(), || None);
            let asked = Box::pin(stream::unfold(asked, |mut asked| async {
                Some((asked.recv().await?, asked))
            }));
            Peer {
                input: RefCell::new(Some(input)),
                sent,
                answers: RefCell::new(pipelined(asked, gate, send)),
            }
        }

        fn ask(&self, rpc: Asked<Runtime>) {
            self.input.borrow().as_ref().unwrap().try_send(rpc).unwrap();
        }

        fn answer(&self, nth: usize, response: Response) {
            self.sent.lock().unwrap()[nth]
                .2
                .take()
                .unwrap()
                .send(response)
                .unwrap();
        }

        fn sent(&self) -> Vec<(u64, u64)> {
            self.sent
                .lock()
                .unwrap()
                .iter()
                .map(|(prev, last, _)| (*prev, *last))
                .collect()
        }

        fn lose(&self, nth: usize) {
            self.sent.lock().unwrap()[nth].2.take();
        }

        fn told(&self) -> Poll<Option<Confirmed>> {
            let mut answers = self.answers.borrow_mut();
            let told = Pin::new(&mut *answers).poll_next(&mut Context::from_waker(Waker::noop()));
            told.map(|told| {
                told.map(|told| {
                    told.map_err(|_| None)?
                        .map(|matching| matching.unwrap().index)
                        .map_err(Some)
                })
            })
        }
    }

    #[test]
    fn appends_do_not_wait_for_each_other_and_are_answered_in_order() {
        let peer = Peer::new(1);
        for n in 0..IN_FLIGHT_MAX as u64 + 2 {
            peer.ask(append(n, n + 1));
        }
        assert_eq!(peer.told(), Poll::Pending);
        assert_eq!(
            peer.sent(),
            (0..IN_FLIGHT_MAX as u64)
                .map(|n| (n, n + 1))
                .collect::<Vec<_>>()
        );
        peer.answer(1, Response::Success);
        assert_eq!(peer.told(), Poll::Pending);
        peer.answer(0, Response::Success);
        assert_eq!(peer.told(), Poll::Ready(Some(Ok(1))));
        assert_eq!(peer.told(), Poll::Ready(Some(Ok(2))));
        assert_eq!(peer.told(), Poll::Pending);
        assert_eq!(peer.sent().len(), IN_FLIGHT_MAX + 2);
    }

    #[test]
    fn large_appends_go_one_at_a_time() {
        let peer = Peer::new(IN_FLIGHT_BYTES);
        peer.ask(append(1, 2));
        peer.ask(append(2, 3));
        assert_eq!(peer.told(), Poll::Pending);
        assert_eq!(peer.sent(), [(1, 2)]);
        peer.answer(0, Response::Success);
        assert_eq!(peer.told(), Poll::Ready(Some(Ok(2))));
        assert_eq!(peer.told(), Poll::Pending);
        assert_eq!(peer.sent(), [(1, 2), (2, 3)]);
    }

    #[test]
    fn an_answer_is_not_told_while_a_later_request_that_confirms_the_same_has_none() {
        let peer = Peer::new(1);
        for (prev, last) in [(4, 5), (5, 5), (5, 5), (5, 6)] {
            peer.ask(append(prev, last));
        }
        peer.input.borrow_mut().take();
        assert_eq!(peer.told(), Poll::Pending);
        assert_eq!(peer.sent(), [(4, 5), (5, 5), (5, 5), (5, 6)]);
        for nth in 0..2 {
            peer.answer(nth, Response::Success);
            assert_eq!(peer.told(), Poll::Pending);
        }
        peer.answer(3, Response::Success);
        assert_eq!(peer.told(), Poll::Pending);
        peer.answer(2, Response::Success);
        assert_eq!(peer.told(), Poll::Ready(Some(Ok(5))));
        assert_eq!(peer.told(), Poll::Ready(Some(Ok(6))));
        assert_eq!(peer.told(), Poll::Ready(None));
    }

    #[test]
    fn a_conflict_counts_only_when_nothing_was_overtaken() {
        let peer = Peer::new(1);
        peer.ask(append(1, 2));
        peer.ask(append(2, 3));
        assert_eq!(peer.told(), Poll::Pending);
        peer.answer(1, Response::Conflict);
        peer.answer(0, Response::Success);
        assert_eq!(peer.told(), Poll::Ready(Some(Ok(2))));
        // Of the second nothing is known; openraft begins anew behind the first.
        assert_eq!(peer.told(), Poll::Ready(None));

        let peer = Peer::new(1);
        peer.ask(append(1, 2));
        assert_eq!(peer.told(), Poll::Pending);
        peer.answer(0, Response::Conflict);
        assert_eq!(
            peer.told(),
            Poll::Ready(Some(Err(Some(StreamAppendError::Conflict(id(1))))))
        );
        assert_eq!(peer.told(), Poll::Ready(None));
    }

    #[test]
    fn nothing_follows_half_a_success_or_a_higher_vote() {
        for (response, told) in [
            (Response::PartialSuccess(Some(id(2))), Ok(2)),
            (
                Response::HigherVote(Vote::new(2, 2)),
                Err(Some(StreamAppendError::HigherVote(Vote::new(2, 2)))),
            ),
        ] {
            let peer = Peer::new(1);
            peer.ask(append(1, 3));
            peer.ask(append(3, 4));
            assert_eq!(peer.told(), Poll::Pending);
            peer.answer(0, response);
            peer.answer(1, Response::Success);
            assert_eq!(peer.told(), Poll::Ready(Some(told)));
            assert_eq!(peer.told(), Poll::Ready(None));
        }
    }

    #[test]
    fn a_lost_answer_ends_the_stream_in_its_turn() {
        let peer = Peer::new(1);
        peer.ask(append(1, 2));
        peer.ask(append(2, 3));
        peer.ask(append(3, 4));
        assert_eq!(peer.told(), Poll::Pending);
        peer.lose(1);
        peer.answer(2, Response::Success);
        assert_eq!(peer.told(), Poll::Pending);
        peer.answer(0, Response::Success);
        assert_eq!(peer.told(), Poll::Ready(Some(Ok(2))));
        assert_eq!(peer.told(), Poll::Ready(Some(Err(None))));
        assert_eq!(peer.told(), Poll::Ready(None));
    }
}
