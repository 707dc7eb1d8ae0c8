//! One connection to one node: pipelined requests, replies by id, events on a bounded queue. Generic over the stream,
//! so that tests need neither TLS nor a port. It does not reconnect and knows nothing of sessions or elections.
//!
//! Two tasks per connection, a reader and a writer; both end when the connection is lost or its handle is dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use messagebase_protocol::code::Failure;
use messagebase_protocol::json::{Event, Incoming, Op, ReplyLine, Request, parse_incoming};
use messagebase_protocol::limits::{LINE_MAX_BYTES, PING_AFTER, PIPELINE_MAX};
use messagebase_protocol::line::{Line, LineBuffer};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Requests that wait for the writer; a caller waits beyond it.
const OUTGOING_MAX: usize = 64;
/// Events that wait for the owner; beyond it they are dropped and [`Connection::take_gap`] says so.
pub const EVENTS_MAX: usize = 1_024;
/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 16 * 1024;
/// Lines are put together into one write until it is this long.
const WRITE_COALESCE_BYTES: usize = 64 * 1024;
/// A write that the node's side does not take within this long means that the connection is dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call on a connection failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The node answered no.
    Refused(Failure),
    /// The connection ended before the answer: the outcome is unknown.
    Lost,
    /// No answer in time: the outcome is unknown, the connection is suspect.
    TimedOut,
    /// As many requests are unanswered as one connection may have; nothing was sent.
    TooMany,
    /// The node's answer can't be read: a defect, or a newer protocol.
    Unreadable(String),
}

type Waiter = oneshot::Sender<Result<String, Failure>>;

/// What the handle and both tasks share.
struct Shared {
    /// Unanswered requests by id. Locked for single map operations, never across an await.
    waiters: Mutex<HashMap<u64, Waiter>>,
    /// Ids are never reused on a connection.
    next_id: AtomicU64,
    /// An event was dropped because the owner did not keep up.
    gap: AtomicBool,
    /// Since when the node owes an answer and has said nothing at all. Locked after `waiters`, where both are.
    owed_since: Mutex<Option<Instant>>,
    /// Wakes when the node owes its first answer after a time without one.
    asked: Notify,
}

impl Shared {
    fn owes(&self) {
        let mut since = self.owed_since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            self.asked.notify_one();
        }
    }

    /// A line came, or a caller gave up.
    fn settle(&self) {
        // Held throughout: a request that is made meanwhile is counted here, or finds the new time.
        let waiters = self.waiters.lock();
        let owed = (!waiters.is_empty()).then(Instant::now);
        let before = std::mem::replace(&mut *self.owed_since.lock(), owed);
        if before.is_none() && owed.is_some() {
            self.asked.notify_one();
        }
    }
}

/// The handle. Dropping it ends the connection.
pub struct Connection {
    outgoing: mpsc::Sender<String>,
    shared: Arc<Shared>,
    closed: watch::Receiver<bool>,
    closing: Arc<watch::Sender<bool>>,
    tasks: [JoinHandle<()>; 2],
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Takes a waiter out of the map when its caller gives up or is dropped: abandoned calls must not fill it.
struct Registration<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let mut waiters = self.shared.waiters.lock();
        let gave_up = waiters.remove(&self.id).is_some();
        if gave_up && waiters.is_empty() {
            *self.shared.owed_since.lock() = None;
        }
    }
}

impl Connection {
    /// Takes over a stream. The receiver ends when the connection is lost.
    pub fn start<S>(stream: S) -> (Connection, mpsc::Receiver<Event>)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        Connection::start_pinging(stream, PING_AFTER)
    }

    fn start_pinging<S>(stream: S, ping_after: Duration) -> (Connection, mpsc::Receiver<Event>)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read_half, write_half) = tokio::io::split(stream);
        let (outgoing, lines) = mpsc::channel(OUTGOING_MAX);
        let (events_in, events) = mpsc::channel(EVENTS_MAX);
        let (closing, closed) = watch::channel(false);
        let shared = Arc::new(Shared {
            waiters: Mutex::new(HashMap::new()),
            next_id: AtomicU64::new(1),
            gap: AtomicBool::new(false),
            owed_since: Mutex::default(),
            asked: Notify::new(),
        });
        let closing = Arc::new(closing);
        let reader = tokio::spawn({
            let (shared, closing) = (shared.clone(), closing.clone());
            let mut closed = closed.clone();
            async move {
                tokio::select! {
                    () = read_lines(read_half, &shared, &events_in) => {}
                    // The writer failed: nothing can be asked any more, so the rest is not waited for.
                    _ = closed.wait_for(|closed| *closed) => {}
                }
                closing.send_replace(true);
                shared.waiters.lock().clear();
            }
        });
        let writer = tokio::spawn({
            let (shared, closing) = (shared.clone(), closing.clone());
            async move {
                write_lines(write_half, lines, &shared, ping_after).await;
                closing.send_replace(true);
            }
        });
        (
            Connection {
                outgoing,
                shared,
                closed,
                closing,
                tasks: [reader, writer],
            },
            events,
        )
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// See [`CallError`]. After `Lost` and `TimedOut` the request may have taken effect.
    pub async fn call<T: DeserializeOwned>(
        &self,
        op: Op,
        within: Duration,
    ) -> Result<T, CallError> {
        let name = op.name();
        let raw = self.call_raw(op, within).await?;
        serde_json::from_str(&raw)
            .map_err(|e| CallError::Unreadable(format!("the answer to `{name}`: {e}")))
    }

    /// Asks and returns the `ok` value as its JSON text.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn call_raw(&self, op: Op, within: Duration) -> Result<String, CallError> {
        let (waiter, answer) = oneshot::channel();
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        {
            let mut waiters = self.shared.waiters.lock();
            if waiters.len() >= PIPELINE_MAX {
                return Err(CallError::TooMany);
            }
            waiters.insert(id, waiter);
        }
        let _registration = Registration {
            shared: &self.shared,
            id,
        };
        // Checked after registering: the reader sets the flag before it clears the map, so one of the two is seen.
        if self.is_closed() {
            return Err(CallError::Lost);
        }
        self.shared.owes();
        let line = Request { id, op }.encode();
        let asked = async {
            self.outgoing
                .send(line)
                .await
                .map_err(|_| CallError::Lost)?;
            answer
                .await
                .map_err(|_| CallError::Lost)?
                .map_err(CallError::Refused)
        };
        tokio::time::timeout(within, asked)
            .await
            .unwrap_or(Err(CallError::TimedOut))
    }

    /// Whether the connection is over.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Ends the connection without waiting for the node. Every caller gets [`CallError::Lost`].
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Waits until the node has owed an answer for `within` and said nothing at all in that time.
    pub async fn silent(&self, within: Duration) {
        loop {
            let since = *self.shared.owed_since.lock();
            match since.map(|since| since + within) {
                Some(due) if due <= Instant::now() => return,
                Some(due) => tokio::time::sleep_until(due).await,
                None => self.shared.asked.notified().await,
            }
        }
    }

    /// Waits until the connection is over.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        // An error means that both tasks are gone, which is the same.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// Whether events were dropped since the last call: the owner was too slow and must ask the inbox again.
    pub fn take_gap(&self) -> bool {
        self.shared.gap.swap(false, Ordering::Relaxed)
    }
}

async fn read_lines<R: AsyncRead>(read_half: R, shared: &Shared, events: &mpsc::Sender<Event>) {
    tokio::pin!(read_half);
    let mut buffer = LineBuffer::new();
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let read = match read_half.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        buffer.extend(&chunk[..read]);
        while let Some(line) = buffer.next() {
            let line = match line {
                Line::Whole(line) => line,
                // No reply of this protocol is longer than a page of the longest messages, which the node cuts to fit.
                Line::TooLong | Line::Abandon => {
                    tracing::warn!(
                        limit = LINE_MAX_BYTES,
                        "a node sent a line over the limit; closing"
                    );
                    return;
                }
            };
            if !take_line(&line, shared, events) {
                return;
            }
            shared.settle();
        }
    }
}

/// Hands one line to the caller or the event queue it is for. False: the connection is over.
fn take_line(line: &[u8], shared: &Shared, events: &mpsc::Sender<Event>) -> bool {
    let Some(incoming) = std::str::from_utf8(line).ok().map(parse_incoming) else {
        tracing::warn!("a node sent a line that is not UTF-8; closing");
        return false;
    };
    match incoming {
        Ok(Incoming::Reply(reply)) => {
            take_reply(reply, shared);
            true
        }
        Ok(Incoming::Event(event)) => {
            let closing = matches!(event, Event::Closing { .. });
            if let Err(mpsc::error::TrySendError::Full(_)) = events.try_send(event) {
                shared.gap.store(true, Ordering::Relaxed);
            }
            !closing
        }
        // An event of a kind that this version does not know, or a reply with unknown codes.
        Err(e) => {
            tracing::warn!("skipped a line of a node that could not be read: {e}");
            true
        }
    }
}

fn take_reply(reply: ReplyLine, shared: &Shared) {
    let Some(waiter) = reply.id.and_then(|id| shared.waiters.lock().remove(&id)) else {
        // The answer to a keep-alive ping, or to a caller that gave up.
        return;
    };
    let answer = match (reply.ok, reply.error) {
        (_, Some(failure)) => Err(failure),
        // Moved, not copied.
        (Some(ok), None) => Ok(Box::<str>::from(ok).into()),
        (None, None) => Ok("null".to_owned()),
    };
    // A caller that gave up in this instant does not want it any more.
    let _ = waiter.send(answer);
}

async fn write_lines<W: AsyncWrite>(
    write_half: W,
    mut lines: mpsc::Receiver<String>,
    shared: &Shared,
    ping_after: Duration,
) {
    tokio::pin!(write_half);
    // The timer is reset when it fires, not with every line: most lines come long before that.
    let ping = tokio::time::sleep(ping_after);
    tokio::pin!(ping);
    let mut said = Instant::now();
    loop {
        let mut batch = tokio::select! {
            biased;
            line = lines.recv() => match line {
                Some(line) => line,
                None => return,
            },
            () = &mut ping => {
                let due = said + ping_after;
                if due > Instant::now() {
                    ping.as_mut().reset(due);
                    continue;
                }
                ping.as_mut().reset(Instant::now() + ping_after);
                // Said nothing for a while: a silent session would be closed.
                Request { id: shared.next_id.fetch_add(1, Ordering::Relaxed), op: Op::Ping {} }.encode()
            }
        };
        // Lines that wait already go out with it, as one write.
        while batch.len() < WRITE_COALESCE_BYTES
            && let Ok(more) = lines.try_recv()
        {
            batch.push_str(&more);
        }
        let written = async {
            write_half.write_all(batch.as_bytes()).await?;
            write_half.flush().await
        };
        match tokio::time::timeout(WRITE_TIMEOUT, written).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
        said = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use messagebase_protocol::code::Code;
    use messagebase_protocol::json::{
        ClosingReason, Empty, Ping, encode_event, encode_failure, encode_ok,
    };
    use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream};

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn pair() -> (Connection, mpsc::Receiver<Event>, BufReader<DuplexStream>) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (connection, events) = Connection::start(ours);
        (connection, events, BufReader::new(theirs))
    }

    async fn request(node: &mut BufReader<DuplexStream>) -> Request {
        let mut line = String::new();
        node.read_line(&mut line).await.unwrap();
        Request::parse(line.trim_end()).unwrap()
    }

    #[tokio::test]
    async fn replies_find_their_requests_in_any_order() {
        let (connection, _events, mut node) = pair();
        let server = tokio::spawn(async move {
            let (first, second) = (request(&mut node).await, request(&mut node).await);
            let refusal = Failure::not_done(Code::NoSuchUser, "who?");
            node.write_all(encode_failure(Some(second.id), &refusal).as_bytes())
                .await
                .unwrap();
            let pong = Ping {
                ready: true,
                applied: Some(9),
            };
            node.write_all(encode_ok(first.id, &pong).as_bytes())
                .await
                .unwrap();
            node
        });
        let (ping, ack) = tokio::join!(
            connection.call::<Ping>(Op::Ping {}, SOON),
            connection.call::<Empty>(Op::Ack { through: 1 }, SOON)
        );
        assert_eq!(
            ping.unwrap(),
            Ping {
                ready: true,
                applied: Some(9)
            }
        );
        assert!(matches!(ack, Err(CallError::Refused(f)) if f.code == Code::NoSuchUser));
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_lost_connection_answers_every_caller_and_later_ones() {
        let (connection, mut events, mut node) = pair();
        let server = tokio::spawn(async move {
            request(&mut node).await;
        });
        assert_eq!(
            connection.call::<Ping>(Op::Ping {}, SOON).await,
            Err(CallError::Lost)
        );
        server.await.unwrap();
        assert_eq!(events.recv().await, None);
        connection.closed().await;
        assert_eq!(
            connection.call::<Ping>(Op::Ping {}, SOON).await,
            Err(CallError::Lost)
        );
    }

    #[tokio::test]
    async fn silence_is_a_timeout_and_forgets_the_request() {
        let (connection, _events, _node) = pair();
        assert_eq!(
            connection
                .call::<Ping>(Op::Ping {}, Duration::from_millis(20))
                .await,
            Err(CallError::TimedOut)
        );
        assert!(connection.shared.waiters.lock().is_empty());
    }

    #[tokio::test]
    async fn a_node_is_silent_when_it_owes_an_answer_and_says_nothing() {
        const WITHIN: Duration = Duration::from_millis(200);
        let (connection, mut events, mut node) = pair();
        let connection = Arc::new(connection);
        let silent =
            |longer: Duration| tokio::time::timeout(WITHIN + longer, connection.silent(WITHIN));
        assert!(silent(WITHIN).await.is_err(), "nothing is owed");
        let asking = connection.clone();
        let call = tokio::spawn(async move { asking.call::<Ping>(Op::Ping {}, SOON).await });
        let asked = request(&mut node).await;
        assert!(silent(SOON).await.is_ok());
        // An event is a sign of life, though the answer is still owed: the time begins anew.
        let owed_since = *connection.shared.owed_since.lock();
        node.write_all(
            encode_event(&Event::Delivered {
                through: 7,
                by: "bob".into(),
            })
            .as_bytes(),
        )
        .await
        .unwrap();
        events.recv().await.unwrap();
        assert!(*connection.shared.owed_since.lock() > owed_since);
        assert!(silent(SOON).await.is_ok(), "and then silence again");
        node.write_all(
            encode_ok(
                asked.id,
                &Ping {
                    ready: true,
                    applied: None,
                },
            )
            .as_bytes(),
        )
        .await
        .unwrap();
        call.await.unwrap().unwrap();
        assert!(silent(WITHIN).await.is_err(), "nothing is owed any more");
    }

    #[tokio::test]
    async fn closing_answers_every_caller() {
        let (connection, _events, mut node) = pair();
        let connection = Arc::new(connection);
        let asking = connection.clone();
        let call = tokio::spawn(async move { asking.call::<Ping>(Op::Ping {}, SOON).await });
        request(&mut node).await;
        connection.close();
        assert_eq!(call.await.unwrap(), Err(CallError::Lost));
    }

    #[tokio::test]
    async fn a_quiet_connection_is_kept_alive() {
        let (ours, theirs) = tokio::io::duplex(1024);
        let (_connection, _events) = Connection::start_pinging(ours, Duration::from_millis(20));
        let asked = tokio::time::timeout(SOON, request(&mut BufReader::new(theirs))).await;
        assert_eq!(asked.unwrap().op, Op::Ping {});
    }

    #[tokio::test]
    async fn closing_is_the_last_event() {
        let (connection, mut events, mut node) = pair();
        let closing = Event::Closing {
            reason: ClosingReason::Shutdown,
        };
        node.write_all(encode_event(&closing).as_bytes())
            .await
            .unwrap();
        node.write_all(b"{\"event\":\"delivered\",\"through\":1,\"by\":\"x\"}\n")
            .await
            .unwrap();
        assert_eq!(events.recv().await, Some(closing));
        assert_eq!(events.recv().await, None);
        connection.closed().await;
    }

    #[tokio::test]
    async fn unknown_events_are_skipped_and_garbage_does_not_panic() {
        let (_connection, mut events, mut node) = pair();
        node.write_all(b"{\"event\":\"dance\"}\nnot json\n{}\n")
            .await
            .unwrap();
        node.write_all(b"{\"event\":\"delivered\",\"through\":7,\"by\":\"bob\"}\n")
            .await
            .unwrap();
        assert_eq!(
            events.recv().await,
            Some(Event::Delivered {
                through: 7,
                by: "bob".into()
            })
        );
        node.write_all(b"\xff\xfe\n").await.unwrap();
        assert_eq!(events.recv().await, None);
    }

    #[tokio::test]
    async fn an_owner_that_does_not_keep_up_is_told_of_the_gap() {
        let (connection, mut events, mut node) = pair();
        let line = encode_event(&Event::Delivered {
            through: 7,
            by: "bob".into(),
        });
        for _ in 0..EVENTS_MAX + 1 {
            node.write_all(line.as_bytes()).await.unwrap();
        }
        // The reader is past the last event once it has answered a request that came after it.
        let server = tokio::spawn(async move {
            let asked = request(&mut node).await;
            node.write_all(encode_ok(asked.id, &Empty {}).as_bytes())
                .await
                .unwrap();
            node
        });
        connection.call::<Empty>(Op::Logout {}, SOON).await.unwrap();
        assert!(connection.take_gap());
        assert!(!connection.take_gap(), "taken once");
        assert!(events.recv().await.is_some());
        server.await.unwrap();
    }
}
