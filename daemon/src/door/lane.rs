//! The write lane: a connection's writes in the order they came, one batch in flight. Everything that waits and needs
//! nothing but the session goes into one proposal; a request that hashes a password takes its turn alone, so nothing
//! overtakes it. The pipe dialect has no ids to sort replies by: all of its commands pass through here.

use std::collections::VecDeque;
use std::sync::Arc;

use messagebase_protocol::code::Failure;
use messagebase_protocol::json::Consistency;
use messagebase_protocol::limits::WRITE_DEADLINE;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout_at};

use super::answer::Answer;
use super::session::Shared;
use super::{json, pipe};
use crate::fanout::Dialect;
use crate::service::{DeleteRequest, Post, Posted, no_quorum};

/// Changes in one proposal of a connection.
pub(super) const LANE_BATCH_MAX: usize = 256;
/// Bytes of bodies in one proposal of a connection.
const LANE_BATCH_MAX_BYTES: usize = 1024 * 1024;

/// One request of the lane.
pub(super) enum Work {
    Register {
        user: String,
        password: String,
        key: String,
    },
    Login {
        user: String,
        password: String,
    },
    Resume {
        token: String,
        consistency: Consistency,
    },
    Password {
        old: String,
        new: String,
        key: String,
    },
    Delete(DeleteRequest),
    Post(Post),
    /// A command of the pipe dialect that only reads.
    Show(pipe::Show),
    /// A refusal that must not overtake the replies before it.
    Refuse(Failure),
}

impl Work {
    /// Whether it begins or ends a session: reads that come after it wait for it.
    pub(super) fn moves_session(&self) -> bool {
        matches!(self, Work::Login { .. } | Work::Resume { .. } | Work::Delete(_) | Work::Post(Post::Logout))
    }
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyTo {
    /// The JSON request of this id.
    Id(u64),
    /// The pipe dialect's next reply.
    Next,
    /// Nobody: the node acknowledges for a pipe client.
    Nobody,
}

/// A request in the lane.
pub(super) struct Item {
    pub(super) work: Work,
    pub(super) reply_to: ReplyTo,
    /// Held until the answer is queued: bounds what a connection may have unanswered.
    pub(super) permit: Option<OwnedSemaphorePermit>,
    /// When it arrived: what waits behind a batch without a quorum must not wait for a deadline of its own.
    pub(super) since: Instant,
}

/// Runs until the connection's session drops the sender and everything is answered.
pub(super) async fn run(shared: Arc<Shared>, mut items: mpsc::Receiver<Item>) {
    let mut next = items.recv().await;
    while let Some(item) = next.take() {
        match item.work {
            Work::Post(post) => {
                let mut batch = Batch::default();
                batch.push(Waiting { post, reply_to: item.reply_to, permit: item.permit, since: item.since });
                while next.is_none() && !batch.is_full() {
                    match items.try_recv() {
                        Ok(Item { work: Work::Post(post), reply_to, permit, since }) => {
                            batch.push(Waiting { post, reply_to, permit, since });
                        }
                        Ok(other) => next = Some(other),
                        Err(_) => break,
                    }
                }
                batch.carry_out(&shared).await;
            }
            work => {
                let moves_session = work.moves_session();
                carry_out(&shared, work, item.reply_to).await;
                if moves_session {
                    shared.session_moved(1);
                }
                drop(item.permit);
            }
        }
        if next.is_none() {
            next = items.recv().await;
        }
    }
}

/// A change that needs nothing but the session, and who waits for it.
struct Waiting {
    post: Post,
    reply_to: ReplyTo,
    permit: Option<OwnedSemaphorePermit>,
    since: Instant,
}

/// Consecutive changes that need nothing but the session, oldest first.
#[derive(Default)]
struct Batch {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.post.weight();
        self.waiting.push_back(waiting);
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= LANE_BATCH_MAX || self.bytes >= LANE_BATCH_MAX_BYTES
    }

    /// Proposes until everything is answered. Nothing waits longer than [`WRITE_DEADLINE`] from its arrival; what is
    /// younger than the oldest is proposed again with what is left, under the same keys.
    async fn carry_out(mut self, shared: &Shared) {
        while let Some(oldest) = self.waiting.front().map(|waiting| waiting.since) {
            let posts = self.waiting.iter().map(|waiting| waiting.post.clone()).collect();
            let deadline = oldest + WRITE_DEADLINE;
            if let Ok(answers) = timeout_at(deadline, shared.service.post(&shared.conn, posts)).await {
                for (waiting, answer) in self.waiting.into_iter().zip(answers) {
                    waiting.answer(shared, answer).await;
                }
                return;
            }
            let now = Instant::now();
            while let Some(late) = self.waiting.pop_front_if(|waiting| waiting.since + WRITE_DEADLINE <= now) {
                late.answer(shared, Err(no_quorum())).await;
            }
        }
    }
}

impl Waiting {
    async fn answer(self, shared: &Shared, answer: Result<Posted, Failure>) {
        let answer = answer.map(|posted| match posted {
            Posted::Sent(sent) => Answer::Sent(sent),
            Posted::Done => Answer::Done,
        });
        reply(shared, self.reply_to, answer).await;
        if self.post == Post::Logout {
            shared.session_moved(1);
        }
        drop(self.permit);
    }
}

async fn carry_out(shared: &Shared, work: Work, reply_to: ReplyTo) {
    let (service, conn) = (&shared.service, &shared.conn);
    let answer = match work {
        Work::Register { user, password, key } => service.register(user, password, key).await.map(Answer::Registered),
        Work::Password { old, new, key } => service.password(conn, old, new, key).await.map(|()| Answer::Done),
        Work::Delete(request) => service.delete(conn, request).await.map(|()| Answer::Deleted),
        Work::Login { user, password } => {
            let answer = service.login(conn, user, password).await.map(Answer::LoggedIn);
            return begin(shared, reply_to, answer).await;
        }
        Work::Resume { token, consistency } => {
            let answer = service.resume(conn, token, consistency).await.map(Answer::Resumed);
            return begin(shared, reply_to, answer).await;
        }
        Work::Show(show) => return pipe::show(shared, show).await,
        Work::Refuse(failure) => Err(failure),
        // Taken by the batch; kept total so that a mistake there is an answer, not a panic.
        Work::Post(post) => match service.post(conn, vec![post]).await.pop() {
            Some(Ok(Posted::Sent(sent))) => Ok(Answer::Sent(sent)),
            Some(Ok(Posted::Done)) | None => Ok(Answer::Done),
            Some(Err(failure)) => Err(failure),
        },
    };
    reply(shared, reply_to, answer).await;
}

/// Answers a login or resume: the reply first, then the events that came since the session was attached.
async fn begin(shared: &Shared, reply_to: ReplyTo, answer: Result<Answer, Failure>) {
    let begun = answer.is_ok();
    reply(shared, reply_to, answer).await;
    let seen_through = match shared.conn.dialect {
        Dialect::Pipe if begun => pipe::show_inbox(shared).await,
        _ => 0,
    };
    shared.conn.outbox.open_gate(seen_through);
}

async fn reply(shared: &Shared, reply_to: ReplyTo, answer: Result<Answer, Failure>) {
    let line = match reply_to {
        ReplyTo::Id(id) => json::encode(id, &answer),
        ReplyTo::Next => pipe::encode(shared, &answer),
        ReplyTo::Nobody => return,
    };
    shared.conn.outbox.reply(line).await;
}
