//! One connection from its first byte to its end: cuts the stream into lines, keeps the timeouts, hands requests to the
//! write queue and to reading tasks, and closes in order: requests that were taken in are answered first.

use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::json::{ClosingReason, encode_failure};
use messagebase_protocol::limits::PIPELINE_MAX;
use messagebase_protocol::line::{Line, LineBuffer};
use messagebase_protocol::pipe::is_pipe_shaped;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::connection_shared::ConnShared;
use super::timeouts::Timeouts;
use super::work::{Caller, Item, ReplyTo, Request, Work};
use super::{Door, json, pipe, write_queue, writer};
use crate::fanout::{Dialect, Outbox, closing_line};
use crate::service::{Connection, Post};

/// Bytes read from the socket at a time.
const READ_BYTES: usize = 8 * 1024;
/// Reads that look for requests pipelined behind one that ended the session.
const LAST_READS: usize = 16;
/// Bytes discarded after the last line. Closing a socket with unread bytes would reset the connection.
const LINGER_MAX_BYTES: usize = 1024 * 1024;

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client closed its side.
    Eof,
    /// The connection broke.
    Lost,
    /// The writer ended: nothing more reaches the client.
    WriterEnded(writer::Ended),
    /// The node closes it.
    Close(ClosingReason),
    /// The last reply says why.
    Refused,
}

/// Serves one connection to its end.
pub(super) fn run<S>(
    door: &Door,
    stream: S,
    address: Option<IpAddr>,
    shutdown: CancellationToken,
) -> impl Future<Output = ()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    // Split outside the future, which would otherwise reserve room for the whole stream while the connection lasts.
    let (socket, write_half) = tokio::io::split(stream);
    serve(door, socket, write_half, address, shutdown)
}

async fn serve<S>(
    door: &Door,
    mut socket: ReadHalf<S>,
    write_half: WriteHalf<S>,
    address: Option<IpAddr>,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let timeouts = door.timeouts;
    let outbox = Arc::new(Outbox::new());
    let mut buffer = LineBuffer::new();
    let read = tokio::select! {
        read = tokio::time::timeout(timeouts.login, read_into(&mut socket, &mut buffer)) => read,
        () = shutdown.cancelled() => return,
    };
    let Ok(Ok(1..)) = read else { return };
    // Aborts the task when this one ends, however it ends.
    let writer = AbortOnDropHandle::new(tokio::spawn(writer::run(
        write_half,
        outbox.clone(),
        timeouts.write,
    )));
    let dialect = match buffer.unfinished().first() {
        Some(b'{') => Dialect::Json,
        Some(b'1'..=b'5' | b'd' | b'h') => Dialect::Pipe,
        _ => {
            outbox.finish(Some(unknown_dialect().into()));
            return end_writer(writer, socket, timeouts, timeouts.grace, &shutdown).await;
        }
    };
    let (items, queued_items) = mpsc::channel(PIPELINE_MAX);
    let conn = Connection::new(address, dialect, outbox);
    let shared = Arc::new(ConnShared::new(door.service.clone(), conn, door.rewrite));
    let _close = shared.closed.clone().drop_guard();
    let write_queue =
        AbortOnDropHandle::new(tokio::spawn(write_queue::run(shared.clone(), queued_items)));
    let task = ConnectionTask {
        shared,
        socket,
        buffer,
        intake: Intake {
            items,
            permits: Arc::new(Semaphore::new(PIPELINE_MAX)),
            session_changes: 0,
            acknowledged: 0,
        },
        timeouts,
        shutdown,
        opened: Instant::now(),
        last_byte: Instant::now(),
        may_stay: false,
        first_line: true,
    };
    task.serve(writer, write_queue).await;
}

/// Reads the bytes that have arrived, into the stack first: an idle connection holds no read buffer. Returns 0 when the
/// other side has closed. Cancel safe.
async fn read_into<S: AsyncRead>(
    socket: &mut ReadHalf<S>,
    buffer: &mut LineBuffer,
) -> std::io::Result<usize> {
    std::future::poll_fn(|cx| {
        let mut bytes = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut read = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut *socket).poll_read(cx, &mut read))?;
        buffer.extend(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
    .await
}

fn unknown_dialect() -> String {
    let hint = "begin with a JSON object or a pipe command such as 2|USER|PASSWORD (h: help); TLS goes to `client`";
    messagebase_protocol::pipe::encode_failure(&Failure::not_done(Code::BadRequest, hint))
}

/// Waits until the last lines are written, at most `within`; then, for the grace time, for the other side to close.
async fn end_writer<S>(
    mut writer: AbortOnDropHandle<writer::Ended>,
    mut socket: ReadHalf<S>,
    timeouts: Timeouts,
    within: Duration,
    shutdown: &CancellationToken,
) where
    S: AsyncRead + Send + 'static,
{
    let stopping = async {
        shutdown.cancelled().await;
        tokio::time::sleep(timeouts.grace).await;
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout(within, &mut writer) => ended,
        () = stopping => return,
    };
    if !matches!(ended, Ok(Ok(writer::Ended::Done))) {
        return;
    }
    let linger = async {
        // Closing with unread bytes would reset the connection, and the last line could be lost with it.
        let mut left = vec![0; READ_BYTES];
        let mut total = 0;
        while total < LINGER_MAX_BYTES {
            match socket.read(&mut left).await {
                Ok(read @ 1..) => total += read,
                Ok(0) | Err(_) => break,
            }
        }
    };
    let _ = tokio::time::timeout(timeouts.grace, linger).await;
}

/// Where requests are taken in, and how many were.
struct Intake {
    /// Boxed: a channel reserves its places in blocks of 32.
    items: mpsc::Sender<Box<Item>>,
    /// One permit for each unanswered request.
    permits: Arc<Semaphore>,
    /// Requests so far that begin or end a session.
    session_changes: u64,
    /// Pipe dialect: greatest message id that the write queue was told to acknowledge.
    acknowledged: u64,
}

impl Intake {
    async fn queue(&mut self, work: Work, reply_to: ReplyTo) {
        self.session_changes += u64::from(work.changes_session());
        let caller = Caller {
            reply_to,
            permit: self.permit().await,
            arrived: Instant::now(),
        };
        let item = Item { work, caller };
        // The queue has room for as many items as there are permits; it ends only with this connection.
        let _ = self.items.send(Box::new(item)).await;
    }

    /// A place among the unanswered requests; reading pauses while there is none.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // `None` is impossible: this semaphore is never closed.
        self.permits.clone().acquire_owned().await.ok()
    }

    /// Returns when everything taken in is answered.
    async fn drained(&self) {
        let all = u32::try_from(PIPELINE_MAX).unwrap_or(u32::MAX);
        let _ = self.permits.acquire_many(all).await;
    }
}

struct ConnectionTask<S> {
    shared: Arc<ConnShared>,
    socket: ReadHalf<S>,
    buffer: LineBuffer,
    intake: Intake,
    timeouts: Timeouts,
    shutdown: CancellationToken,
    opened: Instant,
    last_byte: Instant,
    /// Asked for `status`, `ping` or `campaign`: need not log in.
    may_stay: bool,
    first_line: bool,
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> ConnectionTask<S> {
    async fn serve(
        mut self,
        mut writer: AbortOnDropHandle<writer::Ended>,
        write_queue: AbortOnDropHandle<()>,
    ) {
        let end = self.listen(&mut writer).await;
        let outbox = self.shared.conn.outbox.clone();
        let mut within = self.timeouts.grace;
        tracing::debug!(?end, "a client's connection ends");
        match end {
            End::WriterEnded(ended) => {
                if ended == writer::Ended::Stalled {
                    dropped_slow_reader();
                }
                // The writer's handle has given its result; it must not be asked again.
                self.shared.conn.leave();
                return;
            }
            End::Lost => outbox.finish(None),
            End::Eof | End::Refused => {
                self.drain(self.timeouts.drain).await;
                let shutdown = self
                    .shutdown
                    .is_cancelled()
                    .then_some(ClosingReason::Shutdown);
                let reason = outbox.closing_reason().or(shutdown);
                outbox.finish(
                    reason.and_then(|reason| closing_line(self.shared.conn.dialect, reason)),
                );
            }
            End::Close(reason) => {
                match reason {
                    ClosingReason::Slow => {
                        dropped_slow_reader();
                        // A client that reads on gets the half-written line whole, and the reason of the end.
                        within = self.timeouts.write;
                    }
                    ClosingReason::Shutdown => self.drain(self.timeouts.shutdown_drain).await,
                    _ => self.drain(self.timeouts.drain).await,
                }
                outbox.finish(closing_line(self.shared.conn.dialect, reason));
            }
        }
        self.shared.conn.leave();
        end_writer(writer, self.socket, self.timeouts, within, &self.shutdown).await;
        drop(write_queue);
    }

    /// Reads and hands out requests until there is a reason to end.
    async fn listen(&mut self, writer: &mut AbortOnDropHandle<writer::Ended>) -> End {
        let mut closing = self.shared.conn.outbox.closing();
        loop {
            if let ControlFlow::Break(end) = self.take_lines().await {
                return end;
            }
            let (silence_ends, unfinished_ends) = (self.silence_ends(), self.unfinished_ends());
            tokio::select! {
                biased;
                reason = closing_reason(&mut closing) => {
                    return self.last_lines(reason).await;
                }
                () = self.shutdown.cancelled() => return End::Close(ClosingReason::Shutdown),
                ended = &mut *writer => return End::WriterEnded(ended.unwrap_or(writer::Ended::Broken)),
                got = read_into(&mut self.socket, &mut self.buffer) => match got {
                    Ok(0) => return self.at_eof().await,
                    Ok(_) => self.note_bytes().await,
                    Err(_) => return End::Lost,
                },
                () = tokio::time::sleep_until(unfinished_ends.unwrap_or(silence_ends)), if unfinished_ends.is_some() => {
                    if let ControlFlow::Break(end) = self.take_unfinished().await {
                        return end;
                    }
                }
                () = tokio::time::sleep_until(silence_ends) => {
                    // A login may have succeeded during this sleep.
                    if Instant::now() >= self.silence_ends() {
                        return End::Close(ClosingReason::Idle);
                    }
                }
            }
        }
    }

    /// When the connection will have been silent, or not logged in, for too long.
    fn silence_ends(&self) -> Instant {
        if self.may_stay || self.shared.conn.is_logged_in() {
            self.last_byte + self.timeouts.idle
        } else {
            self.opened + self.timeouts.login
        }
    }

    /// When an unfinished buffer of the pipe dialect counts as a line.
    fn unfinished_ends(&self) -> Option<Instant> {
        let rest = self.buffer.unfinished();
        let shaped = self.shared.conn.dialect == Dialect::Pipe && !rest.is_empty();
        (shaped && is_pipe_shaped(&String::from_utf8_lossy(&rest[..rest.len().min(2)])))
            .then(|| self.last_byte + self.timeouts.unfinished_line)
    }

    /// Bytes arrived. A client of the pipe dialect has then read what was written before them.
    async fn note_bytes(&mut self) {
        self.last_byte = Instant::now();
        self.acknowledge().await;
    }

    async fn acknowledge(&mut self) {
        let through = self.shared.conn.outbox.written_through();
        if self.shared.conn.dialect == Dialect::Pipe && through > self.intake.acknowledged {
            self.intake.acknowledged = through;
            self.intake
                .queue(Work::Post(Post::Ack { through }), ReplyTo::Nobody)
                .await;
        }
    }

    /// The other side closed in order, so it has read everything written before.
    async fn at_eof(&mut self) -> End {
        self.acknowledge().await;
        match self.take_unfinished().await {
            ControlFlow::Continue(()) => End::Eof,
            ControlFlow::Break(end) => end,
        }
    }

    /// Requests pipelined behind the one that ended the session are answered too.
    async fn last_lines(&mut self, reason: ClosingReason) -> End {
        if matches!(
            reason,
            ClosingReason::Logout | ClosingReason::Deleted | ClosingReason::Locked
        ) {
            for _ in 0..LAST_READS {
                let read = read_into(&mut self.socket, &mut self.buffer);
                let Ok(Ok(1..)) = tokio::time::timeout(Duration::ZERO, read).await else {
                    break;
                };
                if let ControlFlow::Break(end) = self.take_lines().await {
                    return end;
                }
            }
        }
        End::Close(reason)
    }

    async fn take_lines(&mut self) -> ControlFlow<End> {
        while let Some(line) = self.buffer.next() {
            match line {
                Line::Whole(line) => self.line(line).await?,
                Line::TooLong => {
                    let failure =
                        Failure::not_done(Code::TooLarge, "a line is at most 131072 bytes long");
                    self.refuse_line(failure).await;
                    self.first_line = false;
                }
                Line::Abandon => return ControlFlow::Break(End::Refused),
            }
        }
        ControlFlow::Continue(())
    }

    /// The pipe dialect's first clients send no newline.
    async fn take_unfinished(&mut self) -> ControlFlow<End> {
        if self.unfinished_ends().is_some() {
            let line = self.buffer.take_unfinished();
            self.line(line).await?;
        }
        ControlFlow::Continue(())
    }

    async fn line(&mut self, line: Vec<u8>) -> ControlFlow<End> {
        let first = std::mem::take(&mut self.first_line);
        let text = match String::from_utf8(line) {
            Ok(text) => text,
            Err(_) => {
                self.refuse_line(Failure::not_done(
                    Code::BadRequest,
                    "the line is not valid UTF-8",
                ))
                .await;
                return ControlFlow::Continue(());
            }
        };
        match self.shared.conn.dialect {
            Dialect::Json => self.json_line(&text).await,
            Dialect::Pipe if first && !is_pipe_shaped(&text) => {
                self.shared.conn.outbox.reply(unknown_dialect()).await;
                return ControlFlow::Break(End::Refused);
            }
            Dialect::Pipe => self.intake.queue(pipe::work(&text), ReplyTo::Next).await,
        }
        ControlFlow::Continue(())
    }

    async fn json_line(&mut self, text: &str) {
        let (step, may_stay) = json::step(&self.shared, text);
        self.may_stay |= may_stay;
        match step {
            json::Step::Reply(line) => self.shared.conn.outbox.reply(line).await,
            json::Step::Queue(id, work) => self.intake.queue(work, ReplyTo::Id(id)).await,
            json::Step::Read(id, op) => {
                let permit = self.intake.permit().await;
                let (shared, session_changes) = (self.shared.clone(), self.intake.session_changes);
                tokio::spawn(async move {
                    shared
                        .closed
                        .run_until_cancelled(json::read(&shared, id, op, session_changes))
                        .await;
                    drop(permit);
                });
            }
        }
    }

    async fn refuse_line(&mut self, failure: Failure) {
        match self.shared.conn.dialect {
            Dialect::Json => {
                self.shared
                    .conn
                    .outbox
                    .reply(encode_failure(None, &failure))
                    .await
            }
            Dialect::Pipe => {
                self.intake
                    .queue(Work::Request(Request::Refuse(failure)), ReplyTo::Next)
                    .await
            }
        }
    }

    /// Waits until everything taken in is answered, at most that long.
    async fn drain(&self, at_most: Duration) {
        tokio::select! {
            _ = tokio::time::timeout(at_most, self.intake.drained()) => {}
            // A node that stops meanwhile waits less long.
            () = async {
                self.shutdown.cancelled().await;
                tokio::time::sleep(self.timeouts.shutdown_drain).await;
            } => {}
        }
    }
}

async fn closing_reason(closing: &mut watch::Receiver<Option<ClosingReason>>) -> ClosingReason {
    // Copied at once: the guard must not live across an await.
    let reason = closing
        .wait_for(Option::is_some)
        .await
        .map(|reason| *reason);
    match reason {
        Ok(reason) => reason.unwrap_or(ClosingReason::Shutdown),
        // The sender lives in the outbox, which this connection holds.
        Err(_) => std::future::pending().await,
    }
}

fn dropped_slow_reader() {
    metrics::counter!("messagebase_dropped_slow_readers_total").increment(1);
}
