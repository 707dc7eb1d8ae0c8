//! One connection that serves: the outbox out, messages in, acknowledgements, and a watch over the node's health.
//!
//! It never waits for a node inside a step: each request runs as a job beside the loop, so that a hung node delays
//! neither events nor the user's orders.

use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::code::{Certainty, Code, Failure};
use messagebase_protocol::json::{
    Ack, ClosingReason, Consistency, Event, Inbox, Message, Op, Ping, Records, Sent,
};
use messagebase_protocol::limits::WRITE_DEADLINE;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connection::{CallError, Connection};
use crate::error::ClientError;
use crate::failover::Finder;
use crate::feed::Fetch;
use crate::link::{Order, Up};
use crate::notice::{ClientEvent, Ended};
use crate::random;
use crate::state::State;

/// A node answers within its own deadline; with this much more it is lost.
pub(crate) const ANSWER_TIMEOUT: Duration =
    WRITE_DEADLINE.saturating_add(Duration::from_millis(1_000));
/// An answer to `ping` needs neither disk nor peers.
const PING_TIMEOUT: Duration = Duration::from_millis(2_000);
/// A node that says `ready:false` is asked again after this long.
const UNREADY_EVERY: Duration = Duration::from_millis(200);
/// A node that says `ready:false` for this long is lost.
const UNREADY_MAX: Duration = Duration::from_secs(1);
/// A node that owes an answer and has said nothing at all for this long is doubted. Doubled each time the doubt was
/// unfounded: questions do not help a cluster under load.
const DOUBT_AFTER: Duration = Duration::from_millis(250);
/// Limit of that doubling.
const DOUBT_MOST: Duration = Duration::from_secs(2);
/// Time for a doubted node to answer a `ping` before all nodes are asked about it.
const DOUBT_PING: Duration = Duration::from_millis(100);
/// Pause before a busy node is asked again, before jitter, when it does not say.
const BUSY_PAUSE: Duration = Duration::from_millis(200);
/// Messages a page; a page of the longest ones is cut by the node.
const PAGE: u32 = 200;

/// Why serving a connection ended.
pub(crate) enum End {
    /// The node is lost: elect.
    Lost,
    /// The node lives but can't do its work: elect.
    NotServing,
    /// Take the session up again, best on the same node.
    Again,
    /// The session is over.
    SessionOver(Ended),
    /// The program dropped its handle.
    HandleGone,
}

/// A job's result.
enum Done {
    Sent {
        ticket: u64,
        answer: Result<Sent, CallError>,
    },
    MayRetry {
        ticket: u64,
    },
    Page(Result<Page, CallError>),
    Acknowledged {
        through: u64,
        answer: Result<Ack, CallError>,
    },
    Pinged(Result<Ping, CallError>),
    Doubted {
        better_elsewhere: bool,
    },
}

/// What the loop woke up for.
enum Woken {
    Event(Option<Event>),
    /// `None`: the job panicked.
    Done(Option<Done>),
    Order(Option<Order>),
    PingDue,
    /// The node owes an answer and says nothing.
    Silent,
    /// There is room again for messages, if the program still wants any.
    Room {
        wanted: bool,
    },
}

struct Page {
    messages: Vec<Message>,
    reached: Option<u64>,
    more: bool,
}

/// When the node's health is asked, and what it said.
struct Health {
    every: Duration,
    asking: bool,
    next: Instant,
    unready_since: Option<Instant>,
}

/// When a silent node is doubted.
struct Doubt {
    asking: bool,
    /// When the last doubt was found unfounded.
    unfounded: Option<Instant>,
    after: Duration,
}

/// One connection being served.
pub(crate) struct Connected {
    up: Arc<Up>,
    events: mpsc::Receiver<Event>,
    /// Asks the other nodes about a silent one.
    finder: Finder,
    jobs: JoinSet<Done>,
    next_page: Option<Fetch>,
    paging: bool,
    acknowledging: bool,
    health: Health,
    doubt: Doubt,
}

impl Connected {
    pub fn new(
        up: Arc<Up>,
        events: mpsc::Receiver<Event>,
        finder: Finder,
        health_every: Duration,
    ) -> Connected {
        Connected {
            up,
            events,
            finder,
            jobs: JoinSet::new(),
            next_page: None,
            paging: false,
            acknowledging: false,
            health: Health {
                every: health_every,
                asking: false,
                next: Instant::now() + health_every,
                unready_since: None,
            },
            doubt: Doubt {
                asking: false,
                unfounded: None,
                after: DOUBT_AFTER,
            },
        }
    }

    /// Serves until the connection is over.
    pub async fn serve(mut self, state: &mut State, orders: &mut mpsc::Receiver<Order>) -> End {
        self.begin_feed(state);
        let end = loop {
            self.start_jobs(state);
            let connection = &self.up.connection;
            let woken = tokio::select! {
                event = self.events.recv() => Woken::Event(event),
                Some(done) = self.jobs.join_next() => Woken::Done(done.ok()),
                order = orders.recv() => Woken::Order(order),
                () = tokio::time::sleep_until(self.health.next), if !self.health.asking => Woken::PingDue,
                () = silent(connection, &self.doubt), if !self.doubt.asking => Woken::Silent,
                wanted = state.mailbox.room(), if state.mailbox.stalled => Woken::Room { wanted },
            };
            if let Some(end) = self.step(woken, state) {
                break end;
            }
        };
        // Callers that still wait for an answer on it ask again elsewhere.
        self.up.connection.close();
        end
    }

    fn step(&mut self, woken: Woken, state: &mut State) -> Option<End> {
        match woken {
            Woken::Event(None) => Some(End::Lost),
            Woken::Event(Some(event)) => {
                let ended = take_event(event, state);
                if self.up.connection.take_gap() {
                    self.begin_feed(state);
                }
                ended
            }
            Woken::Done(Some(done)) => self.take_done(done, state),
            // A job panicked: a defect; starting over on a new connection is the safe way on.
            Woken::Done(None) => Some(End::Lost),
            Woken::Order(None) => Some(End::HandleGone),
            Woken::Order(Some(order)) => self.take_order(order, state),
            Woken::PingDue => {
                self.ping();
                None
            }
            Woken::Silent => {
                self.ask_about_silence();
                None
            }
            Woken::Room { wanted } => {
                state.mailbox.stalled = false;
                if wanted {
                    self.begin_feed(state);
                }
                None
            }
        }
    }

    /// Begins (again) to ask for what is waiting, if messages are wanted.
    fn begin_feed(&mut self, state: &mut State) {
        if state.mailbox.receive && state.identity.is_some() {
            // A page that is on its way answers an older question; it is harmless, the feed drops what went out.
            self.next_page = Some(state.mailbox.feed.begin());
        }
    }

    fn start_jobs(&mut self, state: &mut State) {
        if state.identity.is_none() {
            return;
        }
        if let Some(entry) = state.outbox.next_to_send() {
            let ticket = entry.ticket;
            let op = Op::Send {
                to: entry.to.clone(),
                body: entry.body.clone(),
                key: entry.key.clone(),
            };
            let up = self.up.clone();
            self.jobs.spawn(async move {
                let answer = up.connection.call(op, ANSWER_TIMEOUT).await;
                Done::Sent { ticket, answer }
            });
        }
        if !self.paging
            && let Some(fetch) = self.next_page.take()
        {
            self.paging = true;
            let up = self.up.clone();
            self.jobs
                .spawn(async move { Done::Page(fetch_page(&up.connection, fetch).await) });
        }
        if !self.acknowledging
            && let Some(through) = state.mailbox.to_acknowledge()
        {
            self.acknowledging = true;
            let up = self.up.clone();
            self.jobs.spawn(async move {
                let op = Op::Ack { through };
                let answer = up.connection.call(op, ANSWER_TIMEOUT).await;
                Done::Acknowledged { through, answer }
            });
        }
    }

    fn take_done(&mut self, done: Done, state: &mut State) -> Option<End> {
        match done {
            Done::Sent { ticket, answer } => self.take_sent(ticket, answer, state),
            Done::MayRetry { ticket } => {
                state.outbox.retry(ticket);
                None
            }
            Done::Page(answer) => {
                self.paging = false;
                match meaning(answer) {
                    Meaning::Done(page) => self.take_page(page, state),
                    Meaning::End(end) => return Some(end),
                    Meaning::Refused(_) | Meaning::Busy(_) => return Some(End::Again),
                }
                None
            }
            Done::Acknowledged { through, answer } => {
                self.acknowledging = false;
                match meaning(answer) {
                    Meaning::Done(_) => state.mailbox.acknowledged(through),
                    Meaning::End(end) => return Some(end),
                    // It comes again with the next one: an unacknowledged message is shown again, never lost.
                    Meaning::Refused(failure) => {
                        tracing::warn!(through, %failure, "an acknowledgement was refused");
                        state.mailbox.acknowledged(through);
                    }
                    Meaning::Busy(_) => return Some(End::Again),
                }
                None
            }
            Done::Pinged(answer) => self.take_ping(answer),
            Done::Doubted {
                better_elsewhere: true,
            } => Some(End::Lost),
            Done::Doubted {
                better_elsewhere: false,
            } => {
                self.doubt.asking = false;
                self.doubt.unfounded = Some(Instant::now());
                self.doubt.after = (self.doubt.after * 2).min(DOUBT_MOST);
                None
            }
        }
    }

    fn take_page(&mut self, page: Page, state: &mut State) {
        if self.next_page.is_some() {
            // A new round was begun meanwhile: this page belongs to the old one.
            return;
        }
        let Some(identity) = &state.identity else {
            return;
        };
        // `sync` also brings what the user sent.
        let mut messages = page.messages;
        messages.retain(|message| message.to.eq_ignore_ascii_case(&identity.user));
        self.next_page = state.mailbox.page(messages, page.reached, page.more);
    }

    fn take_sent(
        &mut self,
        ticket: u64,
        answer: Result<Sent, CallError>,
        state: &mut State,
    ) -> Option<End> {
        let result = match meaning(answer) {
            Meaning::Done(sent) => {
                // Halved, not reset: with one late answer after another the whole cluster would be asked each time.
                self.doubt.after = (self.doubt.after / 2).max(DOUBT_AFTER);
                Ok(sent)
            }
            Meaning::End(end) => return Some(end),
            Meaning::Refused(failure) => Err(ClientError::Refused(failure)),
            Meaning::Busy(pause) => {
                self.jobs.spawn(async move {
                    tokio::time::sleep(pause).await;
                    Done::MayRetry { ticket }
                });
                return None;
            }
        };
        if let Some(entry) = state.outbox.answered(ticket) {
            // A caller that does not wait any more has its message sent all the same.
            let _ = entry.waiter.send(result);
        }
        None
    }

    fn take_order(&mut self, order: Order, state: &mut State) -> Option<End> {
        match order {
            Order::Suspect { generation } => {
                (generation == self.up.generation).then_some(End::NotServing)
            }
            Order::LoggedIn { generation, .. } => {
                state.take_order(order);
                self.begin_feed(state);
                // Logged in on a connection that is gone: take the session up on a new one.
                (generation != self.up.generation).then_some(End::Again)
            }
            Order::Resume { .. } | Order::Detach => {
                state.take_order(order);
                Some(End::Again)
            }
            Order::Receive(receive) => {
                let begins = receive && !state.mailbox.receive;
                state.take_order(order);
                if begins {
                    self.begin_feed(state);
                }
                None
            }
            other => {
                state.take_order(other);
                None
            }
        }
    }

    fn ping(&mut self) {
        self.health.asking = true;
        let up = self.up.clone();
        self.jobs.spawn(async move {
            Done::Pinged(up.connection.call(Op::Ping {}, PING_TIMEOUT).await)
        });
    }

    fn take_ping(&mut self, answer: Result<Ping, CallError>) -> Option<End> {
        self.health.asking = false;
        match answer {
            Ok(Ping { ready: true, .. }) => {
                self.health.unready_since = None;
                self.health.next = Instant::now() + self.health.every;
                None
            }
            Ok(Ping { ready: false, .. }) => {
                let since = *self.health.unready_since.get_or_insert_with(Instant::now);
                self.health.next = Instant::now() + UNREADY_EVERY;
                (since.elapsed() >= UNREADY_MAX).then_some(End::NotServing)
            }
            // Any answer shows that the node is alive.
            Err(CallError::Refused(_) | CallError::TooMany | CallError::Unreadable(_)) => {
                self.health.next = Instant::now() + self.health.every;
                None
            }
            Err(CallError::Lost | CallError::TimedOut) => Some(End::Lost),
        }
    }

    /// The node has owed an answer for too long: asks it for a sign of life and, without one, the others about it.
    fn ask_about_silence(&mut self) {
        self.doubt.asking = true;
        let (up, finder) = (self.up.clone(), self.finder.clone());
        self.jobs.spawn(async move {
            let fine = matches!(
                up.connection.call(Op::Ping {}, DOUBT_PING).await,
                Ok(Ping { ready: true, .. })
            );
            let better_elsewhere = !fine && finder.is_better_elsewhere(up.node).await;
            Done::Doubted { better_elsewhere }
        });
    }
}

/// An event of the node. `Some`: the connection is over.
fn take_event(event: Event, state: &mut State) -> Option<End> {
    match event {
        Event::Message { message } => {
            state.take_message(message);
            None
        }
        Event::Delivered { through, by } => {
            state.mailbox.tell(ClientEvent::Delivered { through, by });
            None
        }
        Event::Closing { reason } => Some(match reason {
            ClosingReason::Shutdown => End::Lost,
            ClosingReason::Idle | ClosingReason::Slow | ClosingReason::Resync => End::Again,
            ClosingReason::Logout | ClosingReason::Locked | ClosingReason::Deleted => {
                if state.leaving || state.identity.is_none() {
                    End::Again
                } else {
                    End::SessionOver(Ended::Closed(reason))
                }
            }
        }),
    }
}

/// What an answer means for the session.
enum Meaning<T> {
    Done(T),
    /// Final.
    Refused(Failure),
    /// Ask again after this long.
    Busy(Duration),
    End(End),
}

/// Waits until the node has owed an answer for long enough and said nothing, and was not doubted for as long.
async fn silent(connection: &Connection, doubt: &Doubt) {
    connection.silent(doubt.after).await;
    if let Some(unfounded) = doubt.unfounded {
        tokio::time::sleep_until(unfounded + doubt.after).await;
        // An answer that came meanwhile ends the silence.
        connection.silent(doubt.after).await;
    }
}

fn meaning<T>(answer: Result<T, CallError>) -> Meaning<T> {
    match answer {
        Ok(value) => Meaning::Done(value),
        Err(CallError::Refused(failure)) => match failure.code {
            Code::NoQuorum => Meaning::End(End::NotServing),
            Code::Closing => Meaning::End(End::Lost),
            Code::NotLoggedIn => Meaning::End(End::Again),
            Code::Busy => {
                let pause = failure
                    .retry_after_ms
                    .map_or(BUSY_PAUSE, Duration::from_millis);
                Meaning::Busy(pause + random::up_to(pause))
            }
            _ => Meaning::Refused(failure),
        },
        Err(CallError::Lost | CallError::TimedOut) => Meaning::End(End::Lost),
        Err(CallError::TooMany) => Meaning::Busy(BUSY_PAUSE),
        Err(CallError::Unreadable(message)) => {
            let failure = Failure {
                code: Code::Internal,
                message,
                certainty: Certainty::Unknown,
                retry_after_ms: None,
            };
            Meaning::Refused(failure)
        }
    }
}

async fn fetch_page(connection: &Connection, fetch: Fetch) -> Result<Page, CallError> {
    let (limit, consistency) = (Some(PAGE), Consistency::Linear);
    match fetch {
        Fetch::Inbox { after } => {
            let op = Op::Inbox {
                after: Some(after),
                limit,
                consistency,
            };
            let inbox: Inbox = connection.call(op, ANSWER_TIMEOUT).await?;
            let reached = inbox.messages.last().map(|message| message.id);
            Ok(Page {
                messages: inbox.messages,
                reached,
                more: inbox.more,
            })
        }
        Fetch::Sync { after } => {
            let records: Records = connection
                .call(
                    Op::Sync {
                        after,
                        limit,
                        consistency,
                    },
                    ANSWER_TIMEOUT,
                )
                .await?;
            let reached = records.messages.last().map(|record| record.id);
            let messages = records
                .messages
                .into_iter()
                .map(|r| Message {
                    id: r.id,
                    from: r.from,
                    to: r.to,
                    body: r.body,
                    sent_at: r.sent_at,
                })
                .collect();
            Ok(Page {
                messages,
                reached,
                more: records.more,
            })
        }
    }
}
