//! The write lane: a connection's writes in the order they came, one batch in flight. Everything that waits and needs
//! nothing but the session goes into one proposal; a request that hashes a password takes its turn alone, so nothing
//! overtakes it. The pipe dialect has no ids to sort replies by: all of its commands pass through here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::json::Consistency;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::answer::Answer;
use super::session::Shared;
use super::{json, pipe};
use crate::fanout::Dialect;
use crate::service::{Budget, DeleteRequest, Post, Posted, no_quorum};

/// Changes in one proposal of a connection.
pub(super) const LANE_BATCH_MAX: usize = 256;
/// Bytes of bodies in one proposal of a connection.
const LANE_BATCH_MAX_BYTES: usize = 1024 * 1024;
/// Replies that took this long waited for a reader; the requests behind them are not to pay for it.
const REPLY_SLOW: Duration = Duration::from_millis(100);

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
        matches!(
            self,
            Work::Login { .. } | Work::Resume { .. } | Work::Delete(_) | Work::Post(Post::Logout)
        )
    }

    /// Whether it proposes a change by itself; all of these hash a password first.
    fn writes(&self) -> bool {
        matches!(
            self,
            Work::Register { .. } | Work::Login { .. } | Work::Password { .. } | Work::Delete(_)
        )
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
    /// When it arrived: its deadline counts from here, and it is given up with what was lost after this.
    pub(super) since: Instant,
}

/// Until when the connection's writes are given up, and from when they are timed.
///
/// A change that ends in `no_quorum` may still take effect, or will be repeated. A write behind it must not take
/// effect first, so it ends with it, unproposed: everything that had arrived by then.
#[derive(Default)]
struct Order {
    /// Writes that arrived up to this moment are answered `no_quorum`.
    fence: Option<Instant>,
    /// When the lane last ended what is no waiting for a quorum: hashing, or replies that found no room. The requests
    /// behind it are timed from here.
    floor: Option<Instant>,
}

impl Order {
    fn is_given_up(&self, since: Instant) -> bool {
        self.fence.is_some_and(|fence| since <= fence)
    }

    fn budget(&self, since: Instant) -> Budget {
        Budget::since(self.floor.map_or(since, |floor| floor.max(since)))
    }

    /// To be called before the answer is queued: what the client asks once it has read it is not given up.
    fn answered<T>(&mut self, answer: &Result<T, Failure>) -> bool {
        let lost = answer
            .as_ref()
            .is_err_and(|failure| failure.code == Code::NoQuorum);
        if lost {
            self.fence = Some(Instant::now());
        }
        lost
    }

    fn replied(&mut self, begun: Instant) {
        if begun.elapsed() >= REPLY_SLOW {
            self.floor = Some(Instant::now());
        }
    }
}

/// Runs until the connection's session drops the sender and everything is answered.
pub(super) async fn run(shared: Arc<Shared>, mut items: mpsc::Receiver<Box<Item>>) {
    let mut order = Order::default();
    let mut next = items.recv().await;
    while let Some(item) = next.take() {
        let item = *item;
        match item.work {
            Work::Post(post) => {
                let mut batch = Batch::default();
                batch.push(Waiting {
                    post,
                    reply_to: item.reply_to,
                    permit: item.permit,
                    since: item.since,
                });
                while next.is_none() && !batch.is_full() {
                    match items.try_recv() {
                        Ok(item) => match *item {
                            Item {
                                work: Work::Post(post),
                                reply_to,
                                permit,
                                since,
                            } => {
                                batch.push(Waiting {
                                    post,
                                    reply_to,
                                    permit,
                                    since,
                                });
                            }
                            other => next = Some(Box::new(other)),
                        },
                        Err(_) => break,
                    }
                }
                batch.carry_out(&shared, &mut order).await;
            }
            work => {
                let moves_session = work.moves_session();
                carry_out(&shared, work, item.reply_to, item.since, &mut order).await;
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

    /// Gives up what was lost with an earlier write; proposes the rest once, in the time that its oldest has left.
    async fn carry_out(mut self, shared: &Shared, order: &mut Order) {
        while let Some(lost) = self
            .waiting
            .pop_front_if(|waiting| order.is_given_up(waiting.since))
        {
            lost.answer(shared, Err(no_quorum())).await;
        }
        let Some(oldest) = self.waiting.front().map(|waiting| waiting.since) else {
            return;
        };
        let posts = self
            .waiting
            .iter()
            .map(|waiting| waiting.post.clone())
            .collect();
        // Awaited to its end: a proposal that is dropped could still reach a leader, after the writes that follow.
        let answers = shared
            .service
            .post(&shared.conn, posts, order.budget(oldest))
            .await;
        for answer in &answers {
            order.answered(answer);
        }
        let begun = Instant::now();
        for (waiting, answer) in self.waiting.into_iter().zip(answers) {
            waiting.answer(shared, answer).await;
        }
        order.replied(begun);
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

/// Carries out a request that takes its turn alone.
async fn carry_out(
    shared: &Shared,
    work: Work,
    reply_to: ReplyTo,
    since: Instant,
    order: &mut Order,
) {
    let (service, conn) = (&shared.service, &shared.conn);
    let writes = work.writes();
    let begins = matches!(work, Work::Login { .. } | Work::Resume { .. });
    let budget = order.budget(since);
    let answer = match work {
        _ if writes && order.is_given_up(since) => Err(no_quorum()),
        Work::Register {
            user,
            password,
            key,
        } => service
            .register(user, password, key, budget)
            .await
            .map(Answer::Registered),
        Work::Password { old, new, key } => service
            .password(conn, old, new, key, budget)
            .await
            .map(|()| Answer::Done),
        Work::Delete(request) => service
            .delete(conn, request, budget)
            .await
            .map(|()| Answer::Deleted),
        Work::Login { user, password } => service
            .login(conn, user, password, budget)
            .await
            .map(Answer::LoggedIn),
        Work::Resume { token, consistency } => service
            .resume(conn, token, consistency, budget)
            .await
            .map(Answer::Resumed),
        Work::Show(show) => return pipe::show(shared, show).await,
        Work::Refuse(failure) => Err(failure),
        // Taken by the batch; kept total so that a mistake there is an answer, not a panic.
        Work::Post(post) => match service.post(conn, vec![post], budget).await.pop() {
            Some(Ok(Posted::Sent(sent))) => Ok(Answer::Sent(sent)),
            Some(Ok(Posted::Done)) | None => Ok(Answer::Done),
            Some(Err(failure)) => Err(failure),
        },
    };
    if writes && !order.answered(&answer) {
        order.floor = Some(Instant::now());
    }
    let begun = Instant::now();
    if begins {
        begin(shared, reply_to, answer).await;
    } else {
        reply(shared, reply_to, answer).await;
    }
    order.replied(begun);
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
