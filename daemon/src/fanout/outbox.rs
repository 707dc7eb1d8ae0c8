//! The bounded queue of lines on their way to one connection. Replies wait for room. Events never wait: an event that
//! finds no room means that the reader is too slow, so the queue is dropped and the connection closes. No message is
//! lost by that: the client finds the dropped ones in `inbox` and `sync`.
//!
//! Has no socket: `door::writer` takes the lines out and writes them.

use std::collections::VecDeque;
use std::sync::Arc;

use messagebase_protocol::json::ClosingReason;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// Lines that may wait for one connection. One applied batch (2,000 messages) fits several times.
pub const OUTBOX_MAX_LINES: usize = 8_192;
/// Bytes that may wait for one connection.
pub const OUTBOX_MAX_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that the writer takes at a time: one write, one flush.
pub const WRITE_COALESCE_BYTES: usize = 64 * 1024;

/// One line, its newline included. Shared: an event's line is rendered once for all its readers.
#[derive(Debug, Clone)]
struct QueuedLine {
    line: Arc<str>,
    /// The id of the message that the line carries to this user. The pipe dialect acknowledges written messages.
    message: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<QueuedLine>,
    /// Events that arrived while `holding`.
    held: VecDeque<QueuedLine>,
    /// Events are held back until the reply that must precede them is queued.
    holding: bool,
    /// Events with a message id up to this one were part of a reply.
    seen_through: u64,
    /// Bytes in `queue`.
    bytes: usize,
    /// Bytes in `held`.
    held_bytes: usize,
    /// New lines are dropped.
    drops_lines: bool,
    /// New events are dropped: they follow a gap, and messages behind a gap must not be acknowledged.
    drops_events: bool,
    /// The last line is queued; the writer stops when the queue is empty.
    finished: bool,
    /// Greatest message id that was written to the socket.
    written_through: u64,
}

impl State {
    /// Whether an event finds no room.
    fn is_full_for_events(&self) -> bool {
        self.queue.len() + self.held.len() >= OUTBOX_MAX_LINES
            || self.bytes + self.held_bytes >= OUTBOX_MAX_BYTES
    }

    /// Whether a reply finds no room. Held events do not count: they go out after the reply, so a reply that waited for
    /// them would wait for itself.
    fn is_full_for_replies(&self) -> bool {
        self.queue.len() >= OUTBOX_MAX_LINES || self.bytes >= OUTBOX_MAX_BYTES
    }

    fn clear(&mut self) {
        self.clear_held();
        self.queue.clear();
        self.bytes = 0;
    }

    fn clear_held(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }
}

/// Lines that the writer took out.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Whole lines.
    pub bytes: Vec<u8>,
    /// Greatest message id among them; 0 if none.
    pub message: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    /// Locked for queue operations only, never across an await.
    state: Mutex<State>,
    /// Wakes the writer: one waiter.
    filled: Notify,
    /// Wakes replies that wait for room: several waiters.
    drained: Notify,
    /// Why the connection must close; the first reason stays.
    close: watch::Sender<Option<ClosingReason>>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbox {
    /// Empty and open.
    pub fn new() -> Self {
        Outbox {
            state: Mutex::default(),
            filled: Notify::new(),
            drained: Notify::new(),
            close: watch::Sender::new(None),
        }
    }

    /// Queues a reply; waits for room. After [`Outbox::finish`] the line is dropped.
    pub async fn reply(&self, line: impl Into<Arc<str>>) {
        self.reply_with(line.into(), None).await;
    }

    /// Queues a line that carries a message to this user, as part of a reply.
    pub async fn reply_message(&self, line: impl Into<Arc<str>>, message: u64) {
        self.reply_with(line.into(), Some(message)).await;
    }

    async fn reply_with(&self, line: Arc<str>, message: Option<u64>) {
        loop {
            let room = self.drained.notified();
            tokio::pin!(room);
            // Registered before the check, so that room made in between is not missed.
            room.as_mut().enable();
            {
                let mut state = self.state.lock();
                if state.drops_lines {
                    return;
                }
                if !state.is_full_for_replies() {
                    state.bytes += line.len();
                    state.queue.push_back(QueuedLine { line, message });
                    break;
                }
            }
            room.await;
        }
        self.filled.notify_one();
    }

    /// Queues an event. Without room the reader is too slow, and the connection is asked to close. Never waits.
    pub fn event(&self, line: Arc<str>, message: Option<u64>) {
        {
            let mut state = self.state.lock();
            if state.drops_lines
                || state.drops_events
                || message.is_some_and(|id| id <= state.seen_through)
            {
                return;
            }
            if state.is_full_for_events() {
                state.clear();
                // Later lines would leave a gap that the client can't see.
                state.drops_lines = true;
                drop(state);
                self.drained.notify_waiters();
                self.close(ClosingReason::Slow);
                return;
            }
            let bytes = line.len();
            let item = QueuedLine { line, message };
            if state.holding {
                state.held_bytes += bytes;
                state.held.push_back(item);
            } else {
                state.bytes += bytes;
                state.queue.push_back(item);
            }
        }
        self.filled.notify_one();
    }

    /// Holds events back until [`Outbox::release_events`].
    pub fn hold_events(&self) {
        self.state.lock().holding = true;
    }

    /// Lets events through, held ones first. Drops those whose message id is at most `seen_through`: they were part of a
    /// reply (0: none was).
    pub fn release_events(&self, seen_through: u64) {
        {
            let mut state = self.state.lock();
            state.holding = false;
            state.seen_through = state.seen_through.max(seen_through);
            while let Some(item) = state.held.pop_front() {
                if item.message.is_none_or(|id| id > seen_through) {
                    state.bytes += item.line.len();
                    state.queue.push_back(item);
                }
            }
            state.held_bytes = 0;
        }
        self.filled.notify_one();
    }

    /// Asks the connection to close, once it has answered the requests that it has taken in. The first reason stays.
    /// After a resync no event is queued: acknowledging one behind the gap would acknowledge the gap too.
    pub fn close(&self, reason: ClosingReason) {
        if reason == ClosingReason::Resync {
            let mut state = self.state.lock();
            state.drops_events = true;
            state.clear_held();
        }
        self.close.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
    }

    /// Yields the reason once the connection must close.
    pub fn closing(&self) -> watch::Receiver<Option<ClosingReason>> {
        self.close.subscribe()
    }

    /// Why the connection must close, if it must.
    pub fn closing_reason(&self) -> Option<ClosingReason> {
        *self.close.borrow()
    }

    /// Drops all later lines. Queued lines go out, then `last`; then the writer stops.
    pub fn finish(&self, last: Option<Arc<str>>) {
        {
            let mut state = self.state.lock();
            state.drops_lines = true;
            state.finished = true;
            state.clear_held();
            if let Some(line) = last {
                state.bytes += line.len();
                state.queue.push_back(QueuedLine {
                    line,
                    message: None,
                });
            }
        }
        self.drained.notify_waiters();
        self.filled.notify_one();
    }

    /// The next lines, at most [`WRITE_COALESCE_BYTES`] but at least one; `None` once finished and empty.
    pub async fn take(&self) -> Option<Chunk> {
        loop {
            {
                let mut state = self.state.lock();
                if !state.queue.is_empty() {
                    let mut batch = Chunk::default();
                    while let Some(item) = state.queue.front() {
                        if !batch.bytes.is_empty()
                            && batch.bytes.len() + item.line.len() > WRITE_COALESCE_BYTES
                        {
                            break;
                        }
                        batch.bytes.extend_from_slice(item.line.as_bytes());
                        batch.message = batch.message.max(item.message.unwrap_or(0));
                        state.bytes = state.bytes.saturating_sub(item.line.len());
                        state.queue.pop_front();
                    }
                    drop(state);
                    self.drained.notify_waiters();
                    return Some(batch);
                }
                if state.finished {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// The writer has flushed messages up to this id. Ignored after a resync.
    pub fn written(&self, message: u64) {
        let mut state = self.state.lock();
        if !state.drops_events {
            state.written_through = state.written_through.max(message);
        }
    }

    /// Greatest message id that was flushed to the socket; 0 if none.
    pub fn written_through(&self) -> u64 {
        self.state.lock().written_through
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(batch: &Chunk) -> &str {
        std::str::from_utf8(&batch.bytes).expect("lines are text")
    }

    #[tokio::test]
    async fn lines_are_coalesced_and_the_last_one_ends_the_writer() {
        let outbox = Outbox::new();
        outbox.reply("a\n").await;
        outbox.event("b\n".into(), Some(3));
        outbox.finish(Some("c\n".into()));
        outbox.reply("late\n").await;
        let batch = outbox.take().await.expect("a batch");
        assert_eq!((text(&batch), batch.message), ("a\nb\nc\n", 3));
        assert!(outbox.take().await.is_none());
    }

    #[tokio::test]
    async fn events_wait_behind_the_gate_and_are_not_said_twice() {
        let outbox = Outbox::new();
        outbox.hold_events();
        outbox.event("m4\n".into(), Some(4));
        outbox.event("m5\n".into(), Some(5));
        outbox.reply("reply with m4\n").await;
        outbox.release_events(4);
        outbox.event("m4 again\n".into(), Some(4));
        assert_eq!(
            text(&outbox.take().await.expect("a batch")),
            "reply with m4\nm5\n"
        );
        assert_eq!(outbox.state.lock().bytes, 0);
    }

    #[tokio::test]
    async fn nothing_behind_a_resyncs_gap_is_said_or_acknowledged() {
        let outbox = Outbox::new();
        outbox.event("m1\n".into(), Some(1));
        outbox.hold_events();
        outbox.event("m2\n".into(), Some(2));
        outbox.close(ClosingReason::Resync);
        outbox.event("m9\n".into(), Some(9));
        outbox.release_events(0);
        outbox.event("m10\n".into(), Some(10));
        outbox.finish(Some("closing\n".into()));
        let batch = outbox.take().await.expect("a batch");
        assert_eq!(text(&batch), "m1\nclosing\n");
        outbox.written(batch.message);
        assert_eq!(outbox.written_through(), 0);
    }

    #[tokio::test]
    async fn a_full_outbox_drops_the_slow_reader() {
        let outbox = Outbox::new();
        for _ in 0..=OUTBOX_MAX_LINES {
            outbox.event("x\n".into(), None);
        }
        assert_eq!(outbox.closing_reason(), Some(ClosingReason::Slow));
        outbox.event("after the gap\n".into(), None);
        outbox.finish(Some("bye\n".into()));
        assert_eq!(text(&outbox.take().await.expect("a batch")), "bye\n");
    }

    #[tokio::test]
    async fn a_reply_does_not_wait_for_what_only_the_gate_lets_out() {
        let outbox = Outbox::new();
        outbox.hold_events();
        outbox.event("y".repeat(OUTBOX_MAX_BYTES).into(), None);
        let replied =
            tokio::time::timeout(std::time::Duration::from_secs(5), outbox.reply("z\n")).await;
        replied.expect("the reply found room");
        assert_eq!(text(&outbox.take().await.expect("a batch")), "z\n");
        outbox.release_events(0);
        assert_eq!(
            outbox.take().await.expect("a batch").bytes.len(),
            OUTBOX_MAX_BYTES
        );
        let state = outbox.state.lock();
        assert_eq!((state.bytes, state.held_bytes), (0, 0));
    }

    #[tokio::test]
    async fn a_reply_waits_for_room() {
        let outbox = Arc::new(Outbox::new());
        let big: Arc<str> = "y".repeat(OUTBOX_MAX_BYTES).into();
        outbox.reply(big).await;
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.reply("z\n").await }
        });
        assert_eq!(
            outbox.take().await.expect("a batch").bytes.len(),
            OUTBOX_MAX_BYTES
        );
        waiting.await.expect("the reply found room");
        assert_eq!(text(&outbox.take().await.expect("a batch")), "z\n");
    }
}
