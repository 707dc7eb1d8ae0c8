//! One connection from its first byte to its end: cuts the stream into lines, watches the clock, hands requests to
//! the lane and to reading tasks, and closes in order: what was taken in is answered first.

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

use super::lane::{self, Item, ReplyTo, Work};
use super::{Patience, json, pipe, writer};
use crate::fanout::{Dialect, Outbox, closing_line};
use crate::service::{Connection, Post, Service};

/// Bytes read from the socket at a time.
const READ_BYTES: usize = 8 * 1024;
/// Reads that find requests pipelined behind one that ended the session.
const LAST_READS: usize = 16;
/// Bytes thrown away after the last line, so that the system does not reset the connection under it.
const LINGER_MAX_BYTES: usize = 1024 * 1024;
/// Reads of one connection at work at a time; the others of its pipeline wait. All connections share the readers.
const READS_AT_A_TIME: usize = 4;

/// What the tasks of a connection share.
pub(super) struct Shared {
    pub(super) service: Arc<Service>,
    pub(super) conn: Connection,
    /// How many requests that begin or end a session have been answered.
    moved: watch::Sender<u64>,
    /// Turns at reading.
    pub(super) reading: Semaphore,
    /// Ends the reading tasks with the connection: what they wait for may never come any more.
    gone: CancellationToken,
}

impl Shared {
    pub(super) fn session_moved(&self, by: u64) {
        self.moved.send_modify(|moved| *moved += by);
    }

    /// Waits until that many requests that begin or end a session have been answered.
    pub(super) async fn wait_for_session(&self, moves: u64) {
        // An error is impossible: the sender lives in `self`.
        let _ = self
            .moved
            .subscribe()
            .wait_for(|moved| *moved >= moves)
            .await;
    }
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The other side has said all it will say.
    Eof,
    /// The connection broke.
    Lost,
    /// The writer gave up: nothing can be said any more.
    Mute(writer::Ended),
    /// The node closes it.
    Close(ClosingReason),
    /// The last reply says why.
    Refused,
}

/// Serves one connection to its end.
pub(super) fn run<S>(
    service: &Arc<Service>,
    stream: S,
    address: Option<IpAddr>,
    patience: Patience,
    shutdown: CancellationToken,
) -> impl Future<Output = ()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    // Outside of the future, which would keep room for the whole stream as long as the connection lasts.
    let (socket, write_half) = tokio::io::split(stream);
    serve(service, socket, write_half, address, patience, shutdown)
}

async fn serve<S>(
    service: &Arc<Service>,
    mut socket: ReadHalf<S>,
    write_half: WriteHalf<S>,
    address: Option<IpAddr>,
    patience: Patience,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let outbox = Arc::new(Outbox::new());
    let mut buffer = LineBuffer::new();
    let read = tokio::select! {
        read = tokio::time::timeout(patience.login_wait, read_into(&mut socket, &mut buffer)) => read,
        () = shutdown.cancelled() => return,
    };
    let Ok(Ok(1..)) = read else { return };
    // Both tasks go with this one, however it ends.
    let writer = AbortOnDropHandle::new(tokio::spawn(writer::run(
        write_half,
        outbox.clone(),
        patience.stall,
    )));
    let dialect = match buffer.unfinished().first() {
        Some(b'{') => Dialect::Json,
        Some(b'1'..=b'5' | b'd' | b'h') => Dialect::Pipe,
        _ => {
            outbox.finish(Some(unknown_dialect().into()));
            return end_writer(writer, socket, patience, patience.grace, &shutdown).await;
        }
    };
    let (items, lane_items) = mpsc::channel(PIPELINE_MAX);
    let conn = Connection::new(address, dialect, outbox);
    let reading = Semaphore::new(READS_AT_A_TIME);
    let gone = CancellationToken::new();
    let _gone = gone.clone().drop_guard();
    let shared = Arc::new(Shared {
        service: service.clone(),
        conn,
        moved: watch::Sender::new(0),
        reading,
        gone: gone.clone(),
    });
    let lane = AbortOnDropHandle::new(tokio::spawn(lane::run(shared.clone(), lane_items)));
    let session = Session {
        shared,
        socket,
        buffer,
        items,
        permits: Arc::new(Semaphore::new(PIPELINE_MAX)),
        patience,
        shutdown,
        begun: Instant::now(),
        heard: Instant::now(),
        may_stay: false,
        first_line: true,
        moves: 0,
        acknowledged: 0,
    };
    session.serve(writer, lane).await;
}

/// Reads what has come, through the stack: a connection that waits holds no memory for what may come. 0: the other side
/// has closed. Loses nothing when it is dropped.
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

/// Waits for the last lines to be written, `within` at most, then a moment for the other side to close.
async fn end_writer<S>(
    mut writer: AbortOnDropHandle<writer::Ended>,
    mut socket: ReadHalf<S>,
    patience: Patience,
    within: Duration,
    shutdown: &CancellationToken,
) where
    S: AsyncRead + Send + 'static,
{
    let stopping = async {
        shutdown.cancelled().await;
        tokio::time::sleep(patience.grace).await;
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
    let _ = tokio::time::timeout(patience.grace, linger).await;
}

struct Session<S> {
    shared: Arc<Shared>,
    socket: ReadHalf<S>,
    buffer: LineBuffer,
    /// Boxed: a channel reserves places by the dozen.
    items: mpsc::Sender<Box<Item>>,
    permits: Arc<Semaphore>,
    patience: Patience,
    shutdown: CancellationToken,
    begun: Instant,
    /// When the last byte came.
    heard: Instant,
    /// Asked for `status`, `ping` or `campaign`: need not log in.
    may_stay: bool,
    first_line: bool,
    /// Requests so far that begin or end a session.
    moves: u64,
    /// Pipe: greatest message id that the lane was told to acknowledge.
    acknowledged: u64,
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Session<S> {
    async fn serve(
        mut self,
        mut writer: AbortOnDropHandle<writer::Ended>,
        lane: AbortOnDropHandle<()>,
    ) {
        let end = self.listen(&mut writer).await;
        let outbox = self.shared.conn.outbox.clone();
        let mut within = self.patience.grace;
        tracing::debug!(?end, "a client's connection ends");
        match end {
            End::Mute(ended) => {
                if ended == writer::Ended::Stalled {
                    dropped_slow_reader();
                }
                // The writer's handle has given its result; it must not be asked again.
                self.shared.conn.leave();
                return;
            }
            End::Lost => outbox.finish(None),
            End::Eof | End::Refused => {
                self.drain(self.patience.drain).await;
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
                        // Whoever reads on meanwhile gets the line in the making whole, and why it was the last.
                        within = self.patience.stall;
                    }
                    ClosingReason::Shutdown => self.drain(self.patience.shutdown_drain).await,
                    _ => self.drain(self.patience.drain).await,
                }
                outbox.finish(closing_line(self.shared.conn.dialect, reason));
            }
        }
        self.shared.conn.leave();
        end_writer(writer, self.socket, self.patience, within, &self.shutdown).await;
        drop(lane);
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
                ended = &mut *writer => return End::Mute(ended.unwrap_or(writer::Ended::Broken)),
                got = read_into(&mut self.socket, &mut self.buffer) => match got {
                    Ok(0) => return self.at_eof().await,
                    Ok(_) => self.took().await,
                    Err(_) => return End::Lost,
                },
                () = tokio::time::sleep_until(unfinished_ends.unwrap_or(silence_ends)), if unfinished_ends.is_some() => {
                    if let ControlFlow::Break(end) = self.take_unfinished().await {
                        return end;
                    }
                }
                () = tokio::time::sleep_until(silence_ends) => {
                    // A login may have come through while this sleep was under way.
                    if Instant::now() >= self.silence_ends() {
                        return End::Close(ClosingReason::Idle);
                    }
                }
            }
        }
    }

    /// When the connection has been silent, or not logged in, for too long.
    fn silence_ends(&self) -> Instant {
        if self.may_stay || self.shared.conn.is_logged_in() {
            self.heard + self.patience.idle
        } else {
            self.begun + self.patience.login_wait
        }
    }

    /// When an unfinished buffer of the pipe dialect counts as a line.
    fn unfinished_ends(&self) -> Option<Instant> {
        let rest = self.buffer.unfinished();
        let shaped = self.shared.conn.dialect == Dialect::Pipe && !rest.is_empty();
        (shaped && is_pipe_shaped(&String::from_utf8_lossy(&rest[..rest.len().min(2)])))
            .then(|| self.heard + self.patience.unfinished)
    }

    /// Bytes arrived: in the pipe dialect whatever was written before them has been read.
    async fn took(&mut self) {
        self.heard = Instant::now();
        self.acknowledge().await;
    }

    async fn acknowledge(&mut self) {
        let through = self.shared.conn.outbox.written_through();
        if self.shared.conn.dialect == Dialect::Pipe && through > self.acknowledged {
            self.acknowledged = through;
            self.queue(Work::Post(Post::Ack { through }), ReplyTo::Nobody)
                .await;
        }
    }

    /// The other side closed in order, so it has read what was written before.
    async fn at_eof(&mut self) -> End {
        self.acknowledge().await;
        match self.take_unfinished().await {
            ControlFlow::Continue(()) => End::Eof,
            ControlFlow::Break(end) => end,
        }
    }

    /// What was pipelined behind the request that ended the session gets its answers too.
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
            Dialect::Pipe => self.queue(pipe::work(&text), ReplyTo::Next).await,
        }
        ControlFlow::Continue(())
    }

    async fn json_line(&mut self, text: &str) {
        let (step, may_stay) = json::step(&self.shared, text);
        self.may_stay |= may_stay;
        match step {
            json::Step::Say(line) => self.shared.conn.outbox.reply(line).await,
            json::Step::Lane(id, work) => self.queue(work, ReplyTo::Id(id)).await,
            json::Step::Read(id, op) => {
                let permit = self.permit().await;
                let (shared, moves) = (self.shared.clone(), self.moves);
                tokio::spawn(async move {
                    shared
                        .gone
                        .run_until_cancelled(json::read(&shared, id, op, moves))
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
            Dialect::Pipe => self.queue(Work::Refuse(failure), ReplyTo::Next).await,
        }
    }

    async fn queue(&mut self, work: Work, reply_to: ReplyTo) {
        self.moves += u64::from(work.moves_session());
        let permit = self.permit().await;
        // The lane takes as many items as there are permits; it is gone only when this connection is.
        let item = Item {
            work,
            reply_to,
            permit,
            since: tokio::time::Instant::now(),
        };
        let _ = self.items.send(Box::new(item)).await;
    }

    /// A place among the unanswered requests; reading pauses while there is none.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // `None` is impossible: this semaphore is never closed.
        self.permits.clone().acquire_owned().await.ok()
    }

    /// Waits until everything taken in is answered.
    async fn drain(&self, at_most: Duration) {
        let all = u32::try_from(PIPELINE_MAX).unwrap_or(u32::MAX);
        let answered = self.permits.acquire_many(all);
        tokio::select! {
            _ = tokio::time::timeout(at_most, answered) => {}
            // A stopping node has less patience than a client that has all the time.
            () = async {
                self.shutdown.cancelled().await;
                tokio::time::sleep(self.patience.shutdown_drain).await;
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
