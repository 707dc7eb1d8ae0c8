//! The task behind a [`crate::Client`]: it owns the connection, the token, the outbox and the order of what arrives.
//! It serves one connection until that is lost, then goes round by round until another one serves. Deciding where to
//! go is [`crate::election`]'s, going there [`crate::failover`]'s; it never talks to the user.
//!
//! It never waits for a node inside a step: whatever asks a node runs as a job beside the loop, so that a hung node
//! delays neither events nor the user's orders.

use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::code::Code;
use messagebase_protocol::json::{ClosingReason, Event, Message};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::error::{ClientError, Trouble};
use crate::failover::{Aim, Entered, Finder, Former, Session};
use crate::feed::Feed;
use crate::notice::{ClientEvent, Ended, Notice};
use crate::outbox::{Entry, Outbox};
use crate::random;
use crate::serve::{End, Serving};

/// Orders that wait for the session task.
pub(crate) const ORDERS_MAX: usize = 256;
/// Events that wait for the program; beyond it messages stay in the node's inbox until there is room.
pub(crate) const EVENTS_MAX: usize = 1_024;
/// First pause between two rounds, before jitter.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Longest pause between two rounds, before jitter: a cluster that is back should be noticed within this.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Rounds in which a majority answers but has no leader are not worth a word before this long.
const ELECTING_QUIET: Duration = Duration::from_secs(3);

pub(crate) type SendWaiter = oneshot::Sender<Result<messagebase_protocol::json::Sent, ClientError>>;

/// What the handle wants of the task.
pub(crate) enum Order {
    Send(Entry<SendWaiter>),
    Withdraw(u64),
    /// A login succeeded on the connection of this generation.
    LoggedIn {
        generation: u64,
        user: String,
        token: String,
    },
    /// A token from an earlier run; the answer is whether it is good.
    Resume {
        user: String,
        token: String,
        cluster_id: Option<String>,
        good: oneshot::Sender<bool>,
    },
    /// The user is about to end the session: its `closing` is no news.
    Leaving,
    /// The end of the session was refused.
    Staying,
    /// The session is over by the user's will.
    Forget,
    /// The session goes on without this client.
    Detach,
    /// The node of this generation does not do its work.
    Suspect {
        generation: u64,
    },
    /// Messages up to this id were shown.
    Acknowledge(u64),
    /// Whether incoming messages are wanted.
    Receive(bool),
    /// The user agreed to send what was held back.
    ReleaseOutbox,
    /// The user wants nothing of it.
    DropOutbox,
}

/// A connection that serves.
#[derive(Debug)]
pub struct Up {
    /// Counts connections of this client.
    pub generation: u64,
    /// The node's number.
    pub node: u16,
    /// The cluster's name for people.
    pub cluster: String,
    /// The cluster's identity.
    pub cluster_id: Option<String>,
    /// To ask on.
    pub(crate) connection: Arc<Connection>,
}

/// What the handle can see of the task.
#[derive(Debug, Clone)]
pub struct Link {
    /// Who is logged in.
    pub user: Option<String>,
    /// The connection, or why there is none.
    pub state: Result<Arc<Up>, Trouble>,
}

/// How the task is set up.
pub(crate) struct Setup {
    pub finder: Finder,
    pub first: Option<u16>,
    pub health_every: Duration,
    pub receive: bool,
}

pub(crate) struct Identity {
    pub user: String,
    pub token: String,
}

/// Whose fault the end of a connection was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The session has to be taken up again, nothing more.
    None,
    /// The node lives but has no majority.
    NotServing,
    /// The node is gone.
    Dead,
}

struct Loss {
    node: u16,
    at: Instant,
    /// Not the node's fault and over in an instant: not worth a word.
    quiet: bool,
    /// The node itself is gone, rather than alive without a majority.
    dead: bool,
}

/// The task's state.
pub(crate) struct Driver {
    pub finder: Finder,
    pub health_every: Duration,
    pub orders: mpsc::Receiver<Order>,
    pub events: mpsc::Sender<ClientEvent>,
    pub link: watch::Sender<Link>,
    pub outbox: Outbox<SendWaiter>,
    /// Whose messages those are. It outlives the end of a session that the user did not want, `identity` does not.
    outbox_owner: Option<String>,
    pub feed: Feed,
    pub identity: Option<Identity>,
    pub receive: bool,
    /// Messages up to this id may be acknowledged.
    pub shown: u64,
    /// Messages up to this id are acknowledged.
    pub acknowledged: u64,
    /// The user is ending the session.
    pub leaving: bool,
    /// A message could not be handed to the program: it will come again from the inbox.
    pub stalled: bool,
    pub generation: u64,
    /// Who waits to hear whether the token of an earlier run is good.
    resuming: Option<oneshot::Sender<bool>>,
    cluster_id: Option<String>,
    started: Instant,
    aim: Aim,
    loss: Option<Loss>,
    told: Option<Trouble>,
}

/// The task's ends in the handle.
type Ends = (
    mpsc::Sender<Order>,
    mpsc::Receiver<ClientEvent>,
    watch::Receiver<Link>,
);

/// Starts the task; it ends when the order channel's senders are gone.
pub(crate) fn start(setup: Setup) -> Ends {
    let (driver, ends) = Driver::new(setup);
    tokio::spawn(driver.run());
    ends
}

impl Driver {
    fn new(setup: Setup) -> (Driver, Ends) {
        let (order_sender, orders) = mpsc::channel(ORDERS_MAX);
        let (event_sender, events) = mpsc::channel(EVENTS_MAX);
        let (link, link_receiver) = watch::channel(Link {
            user: None,
            state: Err(Trouble::Connecting),
        });
        let driver = Driver {
            finder: setup.finder,
            health_every: setup.health_every,
            orders,
            events: event_sender,
            link,
            outbox: Outbox::default(),
            outbox_owner: None,
            feed: Feed::default(),
            identity: None,
            receive: setup.receive,
            shown: 0,
            acknowledged: 0,
            leaving: false,
            stalled: false,
            generation: 0,
            resuming: None,
            cluster_id: None,
            started: Instant::now(),
            aim: Aim::Any { node: setup.first },
            loss: None,
            told: None,
        };
        (driver, (order_sender, events, link_receiver))
    }

    async fn run(mut self) {
        while let Some(entered) = self.come_up().await {
            let node = entered.reached.status.node;
            let serving = self.settle(entered);
            match self.serve(serving).await {
                End::HandleGone => return,
                End::Lost => self.lose(node, Fault::Dead),
                End::NotServing => self.lose(node, Fault::NotServing),
                End::Again => self.lose(node, Fault::None),
                End::SessionOver(why) => {
                    self.end_session(why);
                    self.lose(node, Fault::None);
                }
            }
        }
    }

    /// The node that serves.
    pub fn node(&self) -> Option<u16> {
        self.link.borrow().state.as_ref().ok().map(|up| up.node)
    }

    fn lose(&mut self, node: u16, fault: Fault) {
        self.outbox.lost();
        self.feed.interrupt();
        self.stalled = false;
        let quiet = fault == Fault::None;
        self.aim = if quiet {
            Aim::Any { node: Some(node) }
        } else {
            Aim::Leader
        };
        self.loss = Some(Loss {
            node,
            at: Instant::now(),
            quiet,
            dead: fault == Fault::Dead,
        });
        self.link
            .send_modify(|link| link.state = Err(Trouble::Connecting));
    }

    /// Rounds until a node serves. `None`: the handle is gone.
    async fn come_up(&mut self) -> Option<Entered> {
        let mut pause = BACKOFF_FIRST;
        let began = Instant::now();
        loop {
            match self.round().await? {
                Ok(entered) => return Some(entered),
                // The user changed who they are: at once again.
                Err(Trouble::Connecting) => continue,
                Err(trouble) => {
                    // A node that can't be had quickly is a loss like any other.
                    self.aim = Aim::Leader;
                    if let Some(loss) = &mut self.loss {
                        loss.quiet = false;
                    }
                    self.link
                        .send_modify(|link| link.state = Err(trouble.clone()));
                    if trouble != Trouble::Electing || began.elapsed() >= ELECTING_QUIET {
                        self.tell_trouble(trouble);
                    }
                }
            }
            self.idle_until(Instant::now() + random::up_to(pause))
                .await?;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    /// One round, beside which orders are taken.
    async fn round(&mut self) -> Option<Result<Entered, Trouble>> {
        let former = Former {
            cluster_id: self.cluster_id.clone(),
            token: self
                .identity
                .as_ref()
                .map(|identity| identity.token.clone()),
        };
        let (mut finder, aim) = (self.finder.clone(), self.aim);
        let mut round = AbortOnDrop(tokio::spawn(async move {
            let result = finder.round(aim, &former).await;
            (finder, result)
        }));
        loop {
            tokio::select! {
                joined = &mut round.0 => {
                    // A panic in there is a defect; another round may go better, and the user keeps the outbox.
                    let Ok((finder, result)) = joined else { return Some(Err(Trouble::Electing)) };
                    self.finder = finder;
                    return Some(result);
                }
                order = self.orders.recv() => {
                    if self.order_while_down(order?) {
                        // Who we are has changed: this round would resume the wrong session.
                        return Some(Err(Trouble::Connecting));
                    }
                }
            }
        }
    }

    async fn idle_until(&mut self, until: Instant) -> Option<()> {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Some(()),
                order = self.orders.recv() => {
                    if self.order_while_down(order?) {
                        return Some(());
                    }
                }
            }
        }
    }

    /// True: the identity changed.
    fn order_while_down(&mut self, order: Order) -> bool {
        let before = self
            .identity
            .as_ref()
            .map(|identity| identity.token.clone());
        self.take_order(order);
        self.identity
            .as_ref()
            .map(|identity| identity.token.clone())
            != before
    }

    /// Takes one order, as far as it needs no connection.
    pub fn take_order(&mut self, order: Order) {
        match order {
            Order::Send(entry) => {
                let limit = crate::outbox::OUTBOX_MAX;
                if self.outbox_owner.is_none() {
                    // It came behind a logout: the next user must not find it here.
                    let _ = entry.waiter.send(Err(ClientError::NotLoggedIn));
                } else if let Err((_, waiter)) = self.outbox.push(entry) {
                    let _ = waiter.send(Err(ClientError::OutboxFull { limit }));
                }
            }
            Order::Withdraw(ticket) => {
                if let Some(entry) = self.outbox.withdraw(ticket) {
                    let _ = entry.waiter.send(Err(ClientError::Withdrawn));
                }
            }
            Order::LoggedIn { user, token, .. } => self.identify(Some(Identity { user, token })),
            Order::Resume {
                user,
                token,
                cluster_id,
                good,
            } => {
                self.cluster_id = cluster_id.or(self.cluster_id.take());
                self.identify(Some(Identity { user, token }));
                self.resuming = Some(good);
            }
            Order::Leaving => self.leaving = true,
            Order::Staying => self.leaving = false,
            Order::Forget => {
                self.disown_outbox();
                self.identify(None);
            }
            Order::Detach => {
                // The connection carries the session that is left: before the handle sees that nobody is logged in,
                // it must not find that connection any more.
                self.link
                    .send_modify(|link| link.state = Err(Trouble::Connecting));
                self.disown_outbox();
                self.identify(None);
            }
            Order::Suspect { .. } => {}
            Order::Acknowledge(through) => {
                self.shown = self.shown.max(through.min(self.feed.last()))
            }
            Order::Receive(receive) => self.receive = receive,
            Order::ReleaseOutbox => self.outbox.release(),
            Order::DropOutbox => self.drop_outbox(),
        }
    }

    /// Another user (or none): what belonged to the former one goes. The outbox stays when a session just ended: the
    /// same person usually logs in again; who it is shows then.
    fn identify(&mut self, identity: Option<Identity>) {
        if let Some(new) = &identity {
            if self
                .outbox_owner
                .as_ref()
                .is_some_and(|owner| !owner.eq_ignore_ascii_case(&new.user))
            {
                self.disown_outbox();
            }
            self.outbox_owner = Some(new.user.clone());
        }
        self.feed.reset();
        (self.shown, self.acknowledged, self.leaving) = (0, 0, false);
        self.identity = identity;
        let user = self.identity.as_ref().map(|identity| identity.user.clone());
        self.link.send_modify(|link| link.user = user);
    }

    /// Nobody may send what its owner left behind; the user hears how much that was.
    fn disown_outbox(&mut self) {
        let count = self.outbox.len();
        let owner = self.outbox_owner.take();
        self.drop_outbox();
        if let (Some(owner), 1..) = (owner, count) {
            self.tell(Notice::OutboxDropped { owner, count });
        }
    }

    fn drop_outbox(&mut self) {
        for entry in self.outbox.drain() {
            let _ = entry.waiter.send(Err(ClientError::Withdrawn));
        }
    }

    /// A node serves: tells the user what happened and the handle where to ask.
    fn settle(&mut self, entered: Entered) -> Serving {
        let Entered { reached, session } = entered;
        let status = reached.status;
        match session {
            Session::None => {}
            Session::Resumed(resumed) => {
                if let Some(identity) = &mut self.identity {
                    identity.user = resumed.user;
                }
            }
            Session::Dead(Code::Locked) => self.end_session(Ended::Closed(ClosingReason::Locked)),
            Session::Dead(_) => self.end_session(Ended::TokenRefused),
            Session::OtherCluster => {
                self.end_session(Ended::NewCluster);
                if !self.outbox.is_empty() {
                    self.outbox.hold();
                    self.tell(Notice::NewCluster {
                        held: self.outbox.len(),
                    });
                }
            }
        }
        if let Some(resuming) = self.resuming.take() {
            let _ = resuming.send(self.identity.is_some());
        }
        self.cluster_id = status.cluster_id.clone().or(self.cluster_id.take());
        self.generation += 1;
        let up = Arc::new(Up {
            generation: self.generation,
            node: status.node,
            cluster: status.cluster.clone(),
            cluster_id: status.cluster_id.clone(),
            connection: Arc::new(reached.connection),
        });
        let user = self.identity.as_ref().map(|identity| identity.user.clone());
        let connection = up.connection.clone();
        self.link.send_replace(Link {
            user,
            state: Ok(up),
        });
        // After the link, so that whoever shows the news finds the node that they name.
        self.tell_where(status.node, status.replica.leader, status.replica.term);
        Serving::new(connection, reached.events)
    }

    fn tell_where(&mut self, node: u16, leader: Option<u16>, term: u64) {
        let loss = self.loss.take();
        let told = self.told.take();
        // What is held for another cluster does not go out now.
        let waiting = if self.outbox.is_held() {
            0
        } else {
            self.outbox.len()
        };
        let Some(Loss {
            node: lost,
            at,
            quiet,
            ..
        }) = loss
        else {
            if told.is_some() {
                let took = self.started.elapsed();
                self.tell(Notice::Back {
                    node,
                    term,
                    took,
                    waiting,
                });
            }
            return;
        };
        let took = at.elapsed();
        if told.is_some() {
            self.tell(Notice::Back {
                node,
                term,
                took,
                waiting,
            });
        } else if !quiet {
            self.tell(Notice::Failover {
                lost,
                won: node,
                leader,
                term,
                took,
            });
        }
    }

    fn tell_trouble(&mut self, trouble: Trouble) {
        if self.told.as_ref() == Some(&trouble) {
            return;
        }
        // The first verdict after a loss names the lost node, later ones only what changed.
        let news = self
            .loss
            .as_ref()
            .filter(|loss| loss.dead && self.told.is_none());
        let lost = news.map(|loss| loss.node);
        self.told = Some(trouble.clone());
        self.tell(Notice::Trouble {
            lost,
            trouble,
            waiting: self.outbox.len(),
        });
    }

    fn end_session(&mut self, why: Ended) {
        // Whoever is leaving, or waits for a verdict on a token, hears of it in the answer.
        let news = self.identity.is_some() && !self.leaving && self.resuming.is_none();
        self.identify(None);
        if news {
            self.tell(Notice::Ended { why });
        }
    }

    fn tell(&self, notice: Notice) {
        // With a full queue the program shows nothing anyhow; news grow old, messages come again.
        let _ = self.events.try_send(ClientEvent::Notice(notice));
    }

    /// Hands messages to the program. False: there is no room; they will come again from the inbox.
    pub fn hand_on(&mut self, messages: Vec<Message>) -> bool {
        for message in messages {
            let id = message.id;
            match self.events.try_send(ClientEvent::Message(message)) {
                Ok(()) => self.feed.went_out(id),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    // From here on the feed holds events back, else a later one could overtake this message.
                    self.feed.interrupt();
                    self.feed.begin();
                    self.stalled = true;
                    return false;
                }
                // Nobody wants messages; they stay unacknowledged and therefore in the inbox.
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
            }
        }
        true
    }

    /// An event of the node. `Some`: the connection is over.
    pub fn take_event(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Message { message } => {
                // Between a login's answer and its order nobody can say whose it is; the inbox brings it afterwards.
                let Identity { user: me, .. } = self.identity.as_ref().filter(|_| self.receive)?;
                if message.to.eq_ignore_ascii_case(me) {
                    let out = self.feed.event(message);
                    self.hand_on(out.into_iter().collect());
                } else {
                    let _ = self.events.try_send(ClientEvent::SentElsewhere(message));
                }
                None
            }
            Event::Delivered { through, by } => {
                let _ = self.events.try_send(ClientEvent::Delivered { through, by });
                None
            }
            Event::Closing { reason } => Some(match reason {
                ClosingReason::Shutdown => End::Lost,
                ClosingReason::Idle | ClosingReason::Slow | ClosingReason::Resync => End::Again,
                ClosingReason::Logout | ClosingReason::Locked | ClosingReason::Deleted => {
                    if self.leaving || self.identity.is_none() {
                        End::Again
                    } else {
                        End::SessionOver(Ended::Closed(reason))
                    }
                }
            }),
        }
    }
}

/// A task that ends with its owner: a round that nobody waits for must not log in.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::{Directory, Transport};

    fn driver() -> (Driver, mpsc::Receiver<ClientEvent>) {
        let finder = Finder {
            transport: Transport::Plain,
            directory: Directory::default(),
        };
        let setup = Setup {
            finder,
            first: None,
            health_every: Duration::from_secs(1),
            receive: true,
        };
        let (driver, (_, events, _)) = Driver::new(setup);
        (driver, events)
    }

    fn log_in(driver: &mut Driver, user: &str) {
        driver.take_order(Order::LoggedIn {
            generation: 0,
            user: user.into(),
            token: format!("token of {user}"),
        });
    }

    fn enqueue(
        driver: &mut Driver,
    ) -> oneshot::Receiver<Result<messagebase_protocol::json::Sent, ClientError>> {
        let (waiter, answer) = oneshot::channel();
        let (to, body, key) = ("carol".into(), "from alice".into(), "key".into());
        driver.take_order(Order::Send(Entry {
            ticket: 1,
            to,
            body,
            key,
            waiter,
        }));
        answer
    }

    fn dropped(events: &mut mpsc::Receiver<ClientEvent>) -> Option<usize> {
        std::iter::from_fn(|| events.try_recv().ok()).find_map(|event| match event {
            ClientEvent::Notice(Notice::OutboxDropped { count, .. }) => Some(count),
            _ => None,
        })
    }

    #[tokio::test]
    async fn what_one_user_wrote_is_never_sent_as_another() {
        let (mut driver, mut events) = driver();
        log_in(&mut driver, "alice");
        let mut answer = enqueue(&mut driver);
        driver.end_session(Ended::Closed(ClosingReason::Locked));
        log_in(&mut driver, "Alice");
        assert_eq!(
            (driver.outbox.len(), dropped(&mut events)),
            (1, None),
            "the same user's goes on"
        );
        driver.end_session(Ended::TokenRefused);
        log_in(&mut driver, "bob");
        assert_eq!((driver.outbox.len(), dropped(&mut events)), (0, Some(1)));
        assert!(matches!(answer.try_recv(), Ok(Err(ClientError::Withdrawn))));
    }

    #[tokio::test]
    async fn a_message_that_overtakes_the_login_is_left_to_the_inbox() {
        let (mut driver, mut events) = driver();
        let message = Message {
            id: 7,
            from: "bob".into(),
            to: "alice".into(),
            body: "hi".into(),
            sent_at: 0,
        };
        driver.take_event(Event::Message {
            message: message.clone(),
        });
        assert!(events.try_recv().is_err(), "whose it is is not known yet");
        log_in(&mut driver, "alice");
        driver.take_event(Event::Message { message });
        assert!(matches!(events.try_recv(), Ok(ClientEvent::Message(message)) if message.id == 7));
    }

    #[tokio::test]
    async fn a_logout_drops_the_outbox_and_what_comes_behind_it() {
        let (mut driver, mut events) = driver();
        log_in(&mut driver, "alice");
        let _answer = enqueue(&mut driver);
        driver.take_order(Order::Forget);
        assert_eq!((driver.outbox.len(), dropped(&mut events)), (0, Some(1)));
        let mut late = enqueue(&mut driver);
        assert!(matches!(late.try_recv(), Ok(Err(ClientError::NotLoggedIn))));
        log_in(&mut driver, "bob");
        assert!(driver.outbox.is_empty());
    }
}
