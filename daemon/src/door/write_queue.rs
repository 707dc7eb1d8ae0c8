//! A connection's writes, in the order they came, with one batch in flight. Neighbours that need nothing but the session
//! become one proposal. A request that hashes a password takes its turn alone, so nothing overtakes it. The pipe
//! dialect has no ids to match replies with, so all its commands pass through here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::code::{Code, Failure};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connection_shared::ConnShared;
use super::work::{Caller, Item, ReplyTo, Request, Success, Work};
use super::{json, pipe};
use crate::fanout::Dialect;
use crate::service::{Deadline, Post, no_quorum};

/// Changes in one proposal of a connection.
const BATCH_MAX: usize = 256;
/// Bytes of bodies in one proposal of a connection.
const BATCH_MAX_BYTES: usize = 1024 * 1024;
/// Replies that took this long waited for a slow reader. The requests behind them must not pay for it.
const REPLY_SLOW: Duration = Duration::from_millis(100);

/// Which writes are given up, and from when the others are timed.
///
/// A change that ends in `no_quorum` may still take effect, or the client will repeat it. A write behind it must not take
/// effect first: everything that had arrived by then ends with it, unproposed.
#[derive(Default)]
struct WriteOrder {
    /// Writes that arrived up to this moment are answered `no_quorum`.
    fence: Option<Instant>,
    /// When the queue last finished something other than waiting for a quorum: hashing, or replies that found no room.
    /// The deadlines of the requests behind it count from here.
    timed_from: Option<Instant>,
}

impl WriteOrder {
    fn is_given_up(&self, arrived: Instant) -> bool {
        self.fence.is_some_and(|fence| arrived <= fence)
    }

    fn deadline(&self, arrived: Instant) -> Deadline {
        Deadline::from_arrival(self.timed_from.map_or(arrived, |from| from.max(arrived)))
    }

    /// Raises the fence after a `no_quorum`; says whether it did. Must be called before the answer is queued: what the
    /// client asks after reading the answer is not given up.
    fn note_answer<T>(&mut self, answer: &Result<T, Failure>) -> bool {
        let lost = answer
            .as_ref()
            .is_err_and(|failure| failure.code == Code::NoQuorum);
        if lost {
            self.fence = Some(Instant::now());
        }
        lost
    }

    fn note_replied(&mut self, begun: Instant) {
        if begun.elapsed() >= REPLY_SLOW {
            self.timed_from = Some(Instant::now());
        }
    }
}

/// Runs until the connection drops the sender and everything is answered.
pub(super) async fn run(shared: Arc<ConnShared>, mut items: mpsc::Receiver<Box<Item>>) {
    let mut order = WriteOrder::default();
    let mut next = items.recv().await;
    while let Some(item) = next.take() {
        let Item { work, caller } = *item;
        match work {
            Work::Post(post) => {
                let mut batch = Batch::default();
                batch.push(post, caller);
                while next.is_none() && !batch.is_full() {
                    let Ok(item) = items.try_recv() else { break };
                    match *item {
                        Item {
                            work: Work::Post(post),
                            caller,
                        } => batch.push(post, caller),
                        other => next = Some(Box::new(other)),
                    }
                }
                batch.carry_out(&shared, &mut order).await;
            }
            Work::Request(request) => {
                let changes_session = request.changes_session();
                carry_out(
                    &shared,
                    request,
                    caller.reply_to,
                    caller.arrived,
                    &mut order,
                )
                .await;
                if changes_session {
                    shared.session_changed();
                }
                drop(caller.permit);
            }
        }
        if next.is_none() {
            next = items.recv().await;
        }
    }
}

/// Consecutive changes that need nothing but the session, oldest first.
#[derive(Default)]
struct Batch {
    waiting: VecDeque<(Post, Caller)>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, post: Post, caller: Caller) {
        self.bytes += post.weight();
        self.waiting.push_back((post, caller));
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= BATCH_MAX || self.bytes >= BATCH_MAX_BYTES
    }

    /// Gives up what an earlier lost write takes with it. Proposes the rest once, in the time that its oldest has left.
    async fn carry_out(mut self, shared: &ConnShared, order: &mut WriteOrder) {
        while let Some((post, caller)) = self
            .waiting
            .pop_front_if(|(_, caller)| order.is_given_up(caller.arrived))
        {
            answer_post(shared, caller, post == Post::Logout, Err(no_quorum())).await;
        }
        let Some(oldest) = self.waiting.front().map(|(_, caller)| caller.arrived) else {
            return;
        };
        let (posts, callers): (Vec<_>, Vec<_>) = self
            .waiting
            .into_iter()
            .map(|(post, caller)| {
                let is_logout = post == Post::Logout;
                (post, (caller, is_logout))
            })
            .unzip();
        // Awaited to its end: a dropped proposal could still reach a leader, after the writes that follow.
        let answers = shared
            .service
            .post(&shared.conn, posts, order.deadline(oldest))
            .await;
        for answer in &answers {
            order.note_answer(answer);
        }
        let begun = Instant::now();
        for ((caller, is_logout), answer) in callers.into_iter().zip(answers) {
            answer_post(shared, caller, is_logout, answer.map(Success::from)).await;
        }
        order.note_replied(begun);
    }
}

async fn answer_post(
    shared: &ConnShared,
    caller: Caller,
    is_logout: bool,
    answer: Result<Success, Failure>,
) {
    reply(shared, caller.reply_to, answer).await;
    if is_logout {
        shared.session_changed();
    }
    drop(caller.permit);
}

/// Carries out a request that takes its turn alone, and answers it.
async fn carry_out(
    shared: &ConnShared,
    request: Request,
    reply_to: ReplyTo,
    arrived: Instant,
    order: &mut WriteOrder,
) {
    let (service, conn) = (&shared.service, &shared.conn);
    let (writes, begins_session) = (request.writes(), request.begins_session());
    let deadline = order.deadline(arrived);
    let answer = match request {
        _ if writes && order.is_given_up(arrived) => Err(no_quorum()),
        Request::Register {
            user,
            password,
            key,
        } => service
            .register(user, password, key, deadline)
            .await
            .map(Success::Registered),
        Request::Password { old, new, key } => service
            .password(conn, old, new, key, deadline)
            .await
            .map(|()| Success::Done),
        Request::Delete(request) => service
            .delete(conn, request, deadline)
            .await
            .map(|()| Success::Deleted),
        Request::Login { user, password } => service
            .login(conn, user, password, deadline)
            .await
            .map(Success::LoggedIn),
        Request::Resume { token, consistency } => service
            .resume(conn, token, consistency, deadline)
            .await
            .map(Success::Resumed),
        Request::PipeRead(read) => return pipe::read(shared, read).await,
        Request::Refuse(failure) => Err(failure),
    };
    if writes && !order.note_answer(&answer) {
        order.timed_from = Some(Instant::now());
    }
    let begun = Instant::now();
    if begins_session {
        begin_session(shared, reply_to, answer).await;
    } else {
        reply(shared, reply_to, answer).await;
    }
    order.note_replied(begun);
}

/// Answers a login or resume: the reply first, then the events that came since the session was attached.
async fn begin_session(shared: &ConnShared, reply_to: ReplyTo, answer: Result<Success, Failure>) {
    let begun = answer.is_ok();
    reply(shared, reply_to, answer).await;
    let seen_through = match shared.conn.dialect {
        Dialect::Pipe if begun => pipe::write_inbox(shared).await,
        _ => 0,
    };
    shared.conn.outbox.release_events(seen_through);
}

async fn reply(shared: &ConnShared, reply_to: ReplyTo, answer: Result<Success, Failure>) {
    let line = match reply_to {
        ReplyTo::Id(id) => json::encode(id, &answer),
        ReplyTo::Next => pipe::encode(shared, &answer),
        ReplyTo::Nobody => return,
    };
    shared.conn.outbox.reply(line).await;
}
