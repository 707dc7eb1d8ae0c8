//! When a peer is told of a commit by a request of its own. Entries that follow carry the commit with them; a notice of
//! its own costs both ends a request, and the peer a transaction that applies only what it tells. So while writes come in
//! rhythm, the notice waits a moment for the next ones. It does not wait while the peer asks for something that it can't
//! answer before it has applied what is committed.
//!
//! **Invariant:** what is held back is the question whether there is something to send, never a request: openraft counts
//! one as sent from the moment that it makes it (`super::pipeline`).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use openraft::AsyncRuntime;
use openraft::async_runtime::Instant;

/// A notice waits so long. What the last of many writes brings is delivered so much later on the other nodes.
const HOLD: Duration = Duration::from_millis(5);
/// Appends in a row, each less than [`HOLD`] after the one before, from which on notices wait: who writes, waits for the
/// delivery and writes again would else wait twice.
const RHYTHM: u32 = 16;

/// Which peers wait for what is committed, by Raft id.
#[derive(Default)]
pub(super) struct Askers(Mutex<BTreeMap<u64, Arc<Asker>>>);

impl Askers {
    /// Made when it is first asked for.
    pub(super) fn of(&self, peer: u64) -> Arc<Asker> {
        // One insertion at a time: nothing is left half done.
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(peer)
            .or_default()
            .clone()
    }
}

/// One peer, as far as it waits.
#[derive(Default)]
pub(super) struct Asker {
    /// Its questions under way.
    questions: AtomicU32,
    /// One has been answered since the gate was looked at.
    answered: AtomicBool,
    /// The task that holds back what is committed.
    holder: AtomicWaker,
}

impl Asker {
    /// A question of the peer, until what this returns is dropped.
    pub(super) fn asks(self: &Arc<Self>) -> Asking {
        self.questions.fetch_add(1, Ordering::AcqRel);
        Asking(self.clone())
    }

    /// Whether the peer waits, or has just been answered out of what is committed by now. Wakes the task with the next
    /// answer; a question that begins brings entries, or is soon answered.
    fn waits(&self, cx: &Context<'_>) -> bool {
        self.holder.register(cx.waker());
        self.answered.swap(false, Ordering::AcqRel) || self.questions.load(Ordering::Acquire) > 0
    }
}

/// A question under way.
pub(super) struct Asking(Arc<Asker>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.answered.store(true, Ordering::Release);
        self.0.questions.fetch_sub(1, Ordering::AcqRel);
        self.0.holder.wake();
    }
}

/// Whether a stream of appends may ask openraft for its next request.
pub(super) struct Gate<R: AsyncRuntime> {
    peer: Arc<Asker>,
    /// Index of this log's last entry.
    last: Box<dyn Fn() -> Option<u64> + Send>,
    /// The last entry that was sent, and when.
    sent: Option<(u64, R::Instant)>,
    /// Appends in a row.
    streak: u32,
    /// Whether openraft was asked, gave nothing, and will wake this task when it can: it had nothing, or reads its log,
    /// which it does only for entries that were not sent.
    parked: bool,
    held: Option<Pin<Box<R::Sleep>>>,
}

impl<R: AsyncRuntime> Gate<R> {
    /// `last`: index of this log's last entry.
    pub(super) fn new(peer: Arc<Asker>, last: impl Fn() -> Option<u64> + Send + 'static) -> Self {
        Gate {
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
        if self.streak < RHYTHM || !self.parked || (self.last)() > self.sent.map(|(index, _)| index)
        {
            return true;
        }
        // Only by a stream that holds something back: heartbeats have their own, which would take the waking for theirs.
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

    /// Entries through this index are on their way.
    pub(super) fn sends(&mut self, last: u64) {
        let now = R::Instant::now();
        let in_rhythm = self
            .sent
            .is_some_and(|(_, sent)| now.saturating_duration_since(sent) < HOLD);
        self.streak = if in_rhythm {
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
    use std::sync::atomic::AtomicU64;
    use std::task::Waker;

    use super::*;

    type Runtime = openraft_rt_tokio::TokioRuntime;

    const BEAT: Duration = Duration::from_millis(1);

    struct Stream {
        gate: Gate<Runtime>,
        peer: Arc<Asker>,
        last: Arc<AtomicU64>,
    }

    impl Stream {
        /// After so many appends, a beat between them, and nothing more to send.
        async fn after(appends: u64) -> Stream {
            let (peer, last) = (Arc::<Asker>::default(), Arc::<AtomicU64>::default());
            let newest = last.clone();
            let gate = Gate::new(peer.clone(), move || Some(newest.load(Ordering::Relaxed)));
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
    async fn a_notice_waits_a_moment_while_writes_come_in_rhythm() {
        let mut stream = Stream::after(u64::from(RHYTHM)).await;
        assert!(stream.is_open(), "no rhythm yet");
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
        assert!(stream.is_open(), "a rhythm that ended counts no more");
        stream.append().await;
        assert!(stream.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn writes_that_come_slowly_have_no_rhythm() {
        let mut stream = Stream::after(u64::from(RHYTHM) + 1).await;
        tokio::time::sleep(HOLD).await;
        stream.append().await;
        assert!(stream.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_asks_does_not_wait() {
        let mut stream = Stream::after(u64::from(RHYTHM) + 1).await;
        let peer = stream.peer.clone();
        let asking = peer.asks();
        assert!(stream.is_open());
        stream.gate.polled(&Poll::<()>::Pending);
        assert!(stream.is_open(), "as long as it asks");
        stream.gate.polled(&Poll::<()>::Pending);
        drop(asking);
        assert!(
            stream.is_open(),
            "what it was answered is committed, and perhaps not told"
        );
        stream.gate.polled(&Poll::<()>::Pending);
        assert!(!stream.is_open());
        // Heartbeats to the same peer, a stream of their own, take nothing from it.
        let mut heartbeats = Gate::<Runtime>::new(peer.clone(), || None);
        drop(peer.asks());
        assert!(heartbeats.poll_open(&mut Context::from_waker(Waker::noop())));
        assert!(stream.is_open());
        stream.gate.polled(&Poll::<()>::Pending);
        // And the end of a question wakes the task.
        let begun = tokio::time::Instant::now();
        let asks = async { drop(peer.asks()) };
        tokio::join!(stream.opened(), asks);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
