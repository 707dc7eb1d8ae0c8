//! Serving one connection: the outbox out, messages in, acknowledgements, and a watch over the node's health. The
//! other half of [`crate::session`]; it ends with the connection.

use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::code::{Certainty, Code, Failure};
use messagebase_protocol::json::{
    Ack, Consistency, Event, Inbox, Message, Op, Ping, Records, Sent,
};
use messagebase_protocol::limits::WRITE_DEADLINE;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connection::{CallError, Connection};
use crate::error::ClientError;
use crate::feed::Fetch;
use crate::notice::Ended;
use crate::random;
use crate::session::{Driver, Order};

/// A node answers within its own deadline; with this much more it is lost.
pub(crate) const ANSWER_TIMEOUT: Duration =
    WRITE_DEADLINE.saturating_add(Duration::from_millis(1_000));
/// An answer to `ping` needs neither disk nor peers.
const PING_TIMEOUT: Duration = Duration::from_millis(2_000);
/// A node that says `ready:false` is asked again after this long.
const UNREADY_EVERY: Duration = Duration::from_millis(200);
/// A node that says `ready:false` for this long is lost.
const UNREADY_MAX: Duration = Duration::from_secs(1);
/// An answer that is owed for so long, while the node says nothing at all, makes the client doubt that it lives. Doubled
/// each time the doubt was unfounded: a cluster under load is not helped by questions.
const DOUBT_AFTER: Duration = Duration::from_millis(250);
/// Longest such time.
const DOUBT_MOST: Duration = Duration::from_secs(2);
/// A doubted node answers a `ping` in this time, or all nodes are asked about it.
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

/// One connection being served.
pub(crate) struct Serving {
    connection: Arc<Connection>,
    events: mpsc::Receiver<Event>,
    jobs: JoinSet<Done>,
    next_page: Option<Fetch>,
    paging: bool,
    acknowledging: bool,
    pinging: bool,
    next_ping: Instant,
    unready_since: Option<Instant>,
    doubting: bool,
    /// When it was found unfounded last.
    doubted: Option<Instant>,
    doubt_after: Duration,
}

impl Serving {
    pub fn new(connection: Arc<Connection>, events: mpsc::Receiver<Event>) -> Serving {
        Serving {
            connection,
            events,
            jobs: JoinSet::new(),
            next_page: None,
            paging: false,
            acknowledging: false,
            pinging: false,
            next_ping: Instant::now(),
            unready_since: None,
            doubting: false,
            doubted: None,
            doubt_after: DOUBT_AFTER,
        }
    }
}

impl Driver {
    pub(crate) async fn serve(&mut self, mut serving: Serving) -> End {
        let end = self.serve_on(&mut serving).await;
        // Whoever still waits for an answer on it asks again elsewhere.
        serving.connection.close();
        end
    }

    async fn serve_on(&mut self, serving: &mut Serving) -> End {
        serving.next_ping = Instant::now() + self.health_every;
        self.begin_feed(serving);
        loop {
            self.start_jobs(serving);
            let stalled = self.stalled;
            let next_ping = serving.next_ping;
            let (pinging, doubting, doubt_after) =
                (serving.pinging, serving.doubting, serving.doubt_after);
            let doubted = serving.doubted;
            let woken = tokio::select! {
                event = serving.events.recv() => Woken::Event(event),
                Some(done) = serving.jobs.join_next() => Woken::Done(done.ok()),
                order = self.orders.recv() => Woken::Order(order),
                () = tokio::time::sleep_until(next_ping), if !pinging => Woken::PingDue,
                () = silent(&serving.connection, doubt_after, doubted), if !doubting => Woken::Silent,
                wanted = async { self.events.reserve().await.is_ok() }, if stalled => Woken::Room { wanted },
            };
            if let Some(end) = self.step(woken, serving) {
                return end;
            }
        }
    }

    fn step(&mut self, woken: Woken, serving: &mut Serving) -> Option<End> {
        match woken {
            Woken::Event(None) => Some(End::Lost),
            Woken::Event(Some(event)) => {
                let ended = self.take_event(event);
                if serving.connection.take_gap() {
                    self.begin_feed(serving);
                }
                ended
            }
            Woken::Done(Some(done)) => self.take_done(done, serving),
            // A job panicked: a defect; starting over on a new connection is the safe way on.
            Woken::Done(None) => Some(End::Lost),
            Woken::Order(None) => Some(End::HandleGone),
            Woken::Order(Some(order)) => self.take_order_up(order, serving),
            Woken::PingDue => {
                serving.ping();
                None
            }
            Woken::Silent => {
                self.doubt(serving);
                None
            }
            Woken::Room { wanted } => {
                self.stalled = false;
                if wanted {
                    self.begin_feed(serving);
                }
                None
            }
        }
    }

    /// Begins (again) to ask for what is waiting, if messages are wanted.
    fn begin_feed(&mut self, serving: &mut Serving) {
        if self.receive && self.identity.is_some() {
            // A page that is on its way answers an older question; it is harmless, the feed drops what went out.
            serving.next_page = Some(self.feed.begin());
        }
    }

    fn start_jobs(&mut self, serving: &mut Serving) {
        if self.identity.is_none() {
            return;
        }
        if let Some(entry) = self.outbox.next_to_send() {
            let ticket = entry.ticket;
            let op = Op::Send {
                to: entry.to.clone(),
                body: entry.body.clone(),
                key: entry.key.clone(),
            };
            let connection = serving.connection.clone();
            serving.jobs.spawn(async move {
                Done::Sent {
                    ticket,
                    answer: connection.call(op, ANSWER_TIMEOUT).await,
                }
            });
        }
        if !serving.paging
            && let Some(fetch) = serving.next_page.take()
        {
            serving.paging = true;
            let connection = serving.connection.clone();
            serving
                .jobs
                .spawn(async move { Done::Page(fetch_page(&connection, fetch).await) });
        }
        if !serving.acknowledging && self.shown > self.acknowledged {
            serving.acknowledging = true;
            let (through, connection) = (self.shown, serving.connection.clone());
            serving.jobs.spawn(async move {
                Done::Acknowledged {
                    through,
                    answer: connection.call(Op::Ack { through }, ANSWER_TIMEOUT).await,
                }
            });
        }
    }

    fn take_done(&mut self, done: Done, serving: &mut Serving) -> Option<End> {
        match done {
            Done::Sent { ticket, answer } => self.take_sent(ticket, answer, serving),
            Done::MayRetry { ticket } => {
                self.outbox.retry(ticket);
                None
            }
            Done::Page(answer) => {
                serving.paging = false;
                let page = match verdict(answer) {
                    Verdict::Done(page) => page,
                    Verdict::End(end) => return Some(end),
                    Verdict::Refused(_) | Verdict::Busy(_) => return Some(End::Again),
                };
                if serving.next_page.is_some() {
                    // A new round was begun meanwhile: this page belongs to the old one.
                    return None;
                }
                let mine = self.mine(page.messages);
                let (out, next) = self.feed.page(mine, page.reached, page.more);
                if self.hand_on(out) {
                    serving.next_page = next;
                }
                None
            }
            Done::Acknowledged { through, answer } => {
                serving.acknowledging = false;
                match verdict(answer) {
                    Verdict::Done(_) => self.acknowledged = self.acknowledged.max(through),
                    Verdict::End(end) => return Some(end),
                    // It comes again with the next one: an unacknowledged message is shown again, never lost.
                    Verdict::Refused(failure) => {
                        tracing::warn!(through, %failure, "an acknowledgement was refused");
                        self.acknowledged = self.acknowledged.max(through);
                    }
                    Verdict::Busy(_) => return Some(End::Again),
                }
                None
            }
            Done::Pinged(answer) => {
                serving.pinging = false;
                serving.judge(answer, self.health_every)
            }
            Done::Doubted {
                better_elsewhere: true,
            } => Some(End::Lost),
            Done::Doubted {
                better_elsewhere: false,
            } => {
                serving.doubting = false;
                serving.doubted = Some(Instant::now());
                serving.doubt_after = (serving.doubt_after * 2).min(DOUBT_MOST);
                None
            }
        }
    }

    /// The node has owed an answer for too long: asks it for a sign of life and, without one, the others about it.
    fn doubt(&mut self, serving: &mut Serving) {
        serving.doubting = true;
        let (connection, finder, node) =
            (serving.connection.clone(), self.finder.clone(), self.node());
        serving.jobs.spawn(async move {
            let fine = matches!(
                connection.call(Op::Ping {}, DOUBT_PING).await,
                Ok(Ping { ready: true, .. })
            );
            let better_elsewhere = match node {
                Some(node) if !fine => finder.is_better_elsewhere(node).await,
                Some(_) | None => false,
            };
            Done::Doubted { better_elsewhere }
        });
    }

    fn take_sent(
        &mut self,
        ticket: u64,
        answer: Result<Sent, CallError>,
        serving: &mut Serving,
    ) -> Option<End> {
        let result = match verdict(answer) {
            Verdict::Done(sent) => {
                // By half: one late answer after the other would have the whole cluster asked each time.
                serving.doubt_after = (serving.doubt_after / 2).max(DOUBT_AFTER);
                Ok(sent)
            }
            Verdict::End(end) => return Some(end),
            Verdict::Refused(failure) => Err(ClientError::Refused(failure)),
            Verdict::Busy(pause) => {
                serving.jobs.spawn(async move {
                    tokio::time::sleep(pause).await;
                    Done::MayRetry { ticket }
                });
                return None;
            }
        };
        if let Some(entry) = self.outbox.answered(ticket) {
            // A caller that does not wait any more has its message sent all the same.
            let _ = entry.waiter.send(result);
        }
        None
    }

    fn take_order_up(&mut self, order: Order, serving: &mut Serving) -> Option<End> {
        match order {
            Order::Suspect { generation } => {
                (generation == self.generation).then_some(End::NotServing)
            }
            Order::LoggedIn {
                generation,
                user,
                token,
            } => {
                let here = generation == self.generation;
                self.take_order(Order::LoggedIn {
                    generation,
                    user,
                    token,
                });
                self.begin_feed(serving);
                // Logged in on a connection that is gone: take the session up on a new one.
                (!here).then_some(End::Again)
            }
            Order::Resume { .. } | Order::Detach => {
                self.take_order(order);
                Some(End::Again)
            }
            Order::Receive(receive) => {
                let begins = receive && !self.receive;
                self.take_order(order);
                if begins {
                    self.begin_feed(serving);
                }
                None
            }
            other => {
                self.take_order(other);
                None
            }
        }
    }

    /// Those to this user; `sync` also brings what they sent.
    fn mine(&self, messages: Vec<Message>) -> Vec<Message> {
        let me = self
            .identity
            .as_ref()
            .map(|identity| identity.user.as_str())
            .unwrap_or_default();
        messages
            .into_iter()
            .filter(|message| message.to.eq_ignore_ascii_case(me))
            .collect()
    }
}

impl Serving {
    fn ping(&mut self) {
        self.pinging = true;
        let connection = self.connection.clone();
        self.jobs
            .spawn(async move { Done::Pinged(connection.call(Op::Ping {}, PING_TIMEOUT).await) });
    }

    fn judge(&mut self, answer: Result<Ping, CallError>, health_every: Duration) -> Option<End> {
        match answer {
            Ok(Ping { ready: true, .. }) => {
                self.unready_since = None;
                self.next_ping = Instant::now() + health_every;
                None
            }
            Ok(Ping { ready: false, .. }) => {
                let since = *self.unready_since.get_or_insert_with(Instant::now);
                self.next_ping = Instant::now() + UNREADY_EVERY;
                (since.elapsed() >= UNREADY_MAX).then_some(End::NotServing)
            }
            // It answers, if in words that can't be used.
            Err(CallError::Refused(_) | CallError::TooMany | CallError::Unreadable(_)) => {
                self.next_ping = Instant::now() + health_every;
                None
            }
            Err(CallError::Lost | CallError::TimedOut) => Some(End::Lost),
        }
    }
}

/// What an answer means for the session.
enum Verdict<T> {
    Done(T),
    /// Final.
    Refused(Failure),
    /// Ask again after this long.
    Busy(Duration),
    End(End),
}

/// Waits until the node has owed an answer for `within` and said nothing, and was not doubted for as long.
async fn silent(connection: &Connection, within: Duration, doubted: Option<Instant>) {
    connection.silent(within).await;
    if let Some(doubted) = doubted {
        tokio::time::sleep_until(doubted + within).await;
        // What came meanwhile counts.
        connection.silent(within).await;
    }
}

fn verdict<T>(answer: Result<T, CallError>) -> Verdict<T> {
    match answer {
        Ok(value) => Verdict::Done(value),
        Err(CallError::Refused(failure)) => match failure.code {
            Code::NoQuorum => Verdict::End(End::NotServing),
            Code::Closing => Verdict::End(End::Lost),
            Code::NotLoggedIn => Verdict::End(End::Again),
            Code::Busy => {
                let pause = failure
                    .retry_after_ms
                    .map_or(BUSY_PAUSE, Duration::from_millis);
                Verdict::Busy(pause + random::up_to(pause))
            }
            _ => Verdict::Refused(failure),
        },
        Err(CallError::Lost | CallError::TimedOut) => Verdict::End(End::Lost),
        Err(CallError::TooMany) => Verdict::Busy(BUSY_PAUSE),
        Err(CallError::Unreadable(message)) => {
            let failure = Failure {
                code: Code::Internal,
                message,
                certainty: Certainty::Unknown,
                retry_after_ms: None,
            };
            Verdict::Refused(failure)
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
