//! When a peer is told of a commit by a request of its own. The next entries carry the commit too. A notice of its own costs
//! both ends a request, and the peer a transaction that applies only that commit. So under a steady stream of writes the
//! notice waits a moment for the next ones. It does not wait while the peer has a request in flight that it can't answer before
//! it has applied what is committed.
//!
//! **Invariant:** the gate delays the question whether there is something to send, never a request. openraft counts a request
//! as sent from the moment that it makes it (`super::pipeline`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::async_runtime::Instant;

use super::pending_requests::PeerRequests;

/// How long a notice waits. The last of many writes is delivered this much later on the other nodes.
const HOLD: Duration = Duration::from_millis(5);
/// Notices wait only after this many appends in a row, each less than [`HOLD`] after the one before. A client that writes,
/// waits for delivery and writes again would otherwise pay the delay twice.
const STEADY: u32 = 16;

/// Whether a stream of appends may ask openraft for its next request.
pub(super) struct CommitGate<R: AsyncRuntime> {
    peer: Arc<PeerRequests>,
    /// Index of this log's last entry.
    last: Box<dyn Fn() -> Option<u64> + Send>,
    /// The last entry that was sent, and when.
    sent: Option<(u64, R::Instant)>,
    /// Appends in a row.
    streak: u32,
    /// Whether openraft was asked, gave nothing, and will wake this task when it can. It had nothing, or it reads its log for
    /// entries that were not sent.
    parked: bool,
    held: Option<Pin<Box<R::Sleep>>>,
}

impl<R: AsyncRuntime> CommitGate<R> {
    /// `last`: index of this log's last entry.
    pub(super) fn new(
        peer: Arc<PeerRequests>,
        last: impl Fn() -> Option<u64> + Send + 'static,
    ) -> Self {
        CommitGate {
            peer,
            last: Box::new(last),
            sent: None,
            streak: 0,
            parked: false,
            held: None,
        }
    }

    /// Whether to ask now. Wakes the task when that changes, given that openraft wakes it for entries.
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> bool {
        if self.streak < STEADY || !self.parked || (self.last)() > self.sent.map(|(index, _)| index)
        {
            return true;
        }
        // Only for a stream that delays a notice: the heartbeats' own stream would take the wake-up for its own.
        if self.peer.waits(cx) {
            return true;
        }
        let held = self.held.get_or_insert_with(|| Box::pin(R::sleep(HOLD)));
        let over = held.as_mut().poll(cx).is_ready();
        if over {
            self.streak = 0;
        }
        over
    }

    /// openraft was asked, and gave this.
    pub(super) fn polled<T>(&mut self, answer: &Poll<T>) {
        self.parked = answer.is_pending();
        self.held = None;
    }

    /// Entries through this index are in flight.
    pub(super) fn sends(&mut self, last: u64) {
        let now = R::Instant::now();
        let is_steady = self
            .sent
            .is_some_and(|(_, sent)| now.saturating_duration_since(sent) < HOLD);
        self.streak = if is_steady {
            self.streak.saturating_add(1)
        } else {
            0
        };
        self.sent = Some((last, now));
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Waker;

    use super::*;

    type Runtime = openraft_rt_tokio::TokioRuntime;

    const BEAT: Duration = Duration::from_millis(1);

    struct Stream {
        gate: CommitGate<Runtime>,
        peer: Arc<PeerRequests>,
        last: Arc<AtomicU64>,
    }

    impl Stream {
        /// After `appends` appends, a beat between them, and nothing more to send.
        async fn after(appends: u64) -> Stream {
            let (peer, last) = (Arc::<PeerRequests>::default(), Arc::<AtomicU64>::default());
            let newest = last.clone();
            let gate = CommitGate::new(peer.clone(), move || Some(newest.load(Ordering::Relaxed)));
            let mut stream = Stream { gate, peer, last };
            for _ in 0..appends {
                stream.append().await;
            }
            stream
        }

        async fn append(&mut self) {
            tokio::time::sleep(BEAT).await;
            let index = self.last.fetch_add(1, Ordering::Relaxed) + 1;
            assert!(self.is_open(), "entries don't wait");
            self.gate.polled(&Poll::Ready(()));
            self.gate.sends(index);
            assert!(
                self.is_open(),
                "openraft has to be asked until it has nothing"
            );
            self.gate.polled(&Poll::<()>::Pending);
        }

        fn is_open(&mut self) -> bool {
            self.gate.poll_open(&mut Context::from_waker(Waker::noop()))
        }

        async fn opened(&mut self) {
            poll_fn(|cx| {
                if self.gate.poll_open(cx) {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_notice_waits_a_moment_while_writes_are_steady() {
        let mut stream = Stream::after(u64::from(STEADY)).await;
        assert!(stream.is_open(), "not steady yet");
        stream.append().await;
        assert!(!stream.is_open());
        let begun = tokio::time::Instant::now();
        stream.opened().await;
        assert!(
            (HOLD..2 * HOLD).contains(&begun.elapsed()),
            "{:?}",
            begun.elapsed()
        );
        stream.gate.polled(&Poll::<()>::Pending);
        assert!(stream.is_open(), "a stream that paused is not steady");
        stream.append().await;
        assert!(stream.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn slow_writes_are_not_steady() {
        let mut stream = Stream::after(u64::from(STEADY) + 1).await;
        tokio::time::sleep(HOLD).await;
        stream.append().await;
        assert!(stream.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_with_a_request_in_flight_does_not_wait() {
        let mut stream = Stream::after(u64::from(STEADY) + 1).await;
        let peer = stream.peer.clone();
        let asking = peer.begin();
        assert!(stream.is_open());
        stream.gate.polled(&Poll::<()>::Pending);
        assert!(stream.is_open(), "as long as the request is in flight");
        stream.gate.polled(&Poll::<()>::Pending);
        drop(asking);
        assert!(
            stream.is_open(),
            "what it was answered is committed, and perhaps not told"
        );
        stream.gate.polled(&Poll::<()>::Pending);
        assert!(!stream.is_open());
        // Heartbeats to the same peer, a stream of their own, take nothing from it.
        let mut heartbeats = CommitGate::<Runtime>::new(peer.clone(), || None);
        drop(peer.begin());
        assert!(heartbeats.poll_open(&mut Context::from_waker(Waker::noop())));
        assert!(stream.is_open());
        stream.gate.polled(&Poll::<()>::Pending);
        // The end of a request wakes the task.
        let begun = tokio::time::Instant::now();
        let asks = async { drop(peer.begin()) };
        tokio::join!(stream.opened(), asks);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
