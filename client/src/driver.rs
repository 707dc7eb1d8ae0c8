//! The task behind a [`crate::Client`]: it serves one connection until that is lost, then goes round by round until
//! another one serves, and says what happened. [`crate::election`] decides where to go, [`crate::failover`] goes there;
//! the task never talks to the user.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::connected::{Connected, End};
use crate::error::Unavailable;
use crate::failover::{Entered, Finder, Session, Target};
use crate::link::{Link, Order, Up};
use crate::notice::{ClientEvent, Notice};
use crate::random;
use crate::state::State;

/// Orders that wait for the task.
pub(crate) const ORDERS_MAX: usize = 256;
/// Events that wait for the program; beyond it messages stay in the node's inbox until there is room.
pub(crate) const EVENTS_MAX: usize = 1_024;
/// First pause between two rounds, before jitter.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Longest pause between two rounds, before jitter: a cluster that is back should be noticed within this.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Rounds in which a majority answers but has no leader are reported after this long.
const ELECTING_QUIET: Duration = Duration::from_secs(3);

/// How the task is set up.
pub(crate) struct Setup {
    pub finder: Finder,
    pub first: Option<u16>,
    pub health_every: Duration,
    pub receive: bool,
}

/// Why a connection ended, as far as the node is concerned.
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
    /// The node is well and the connection is back at once: nothing is reported.
    quiet: bool,
    /// The node itself is gone, rather than alive without a majority.
    dead: bool,
}

/// The task's own state; [`State`] is what it shares with the connection.
struct Driver {
    state: State,
    orders: mpsc::Receiver<Order>,
    finder: Finder,
    health_every: Duration,
    generation: u64,
    started: Instant,
    target: Target,
    loss: Option<Loss>,
    /// What the user was told of the cluster's absence.
    told: Option<Unavailable>,
}

/// The task's ends in the handle.
type Ends = (
    mpsc::Sender<Order>,
    mpsc::Receiver<ClientEvent>,
    watch::Receiver<Link>,
);

/// Starts the task; it ends when the order channel's senders are gone.
pub(crate) fn start(setup: Setup) -> Ends {
    let (order_sender, orders) = mpsc::channel(ORDERS_MAX);
    let (event_sender, events) = mpsc::channel(EVENTS_MAX);
    let (link, link_receiver) = watch::channel(Link {
        user: None,
        state: Err(Unavailable::Connecting),
    });
    let driver = Driver {
        state: State::new(link, event_sender, setup.receive),
        orders,
        finder: setup.finder,
        health_every: setup.health_every,
        generation: 0,
        started: Instant::now(),
        target: Target::Any { node: setup.first },
        loss: None,
        told: None,
    };
    tokio::spawn(driver.run());
    (order_sender, events, link_receiver)
}

impl Driver {
    async fn run(mut self) {
        while let Some(entered) = self.come_up().await {
            let node = entered.reached.status.node;
            let connected = self.settle(entered);
            match connected.serve(&mut self.state, &mut self.orders).await {
                End::HandleGone => return,
                End::Lost => self.lose(node, Fault::Dead),
                End::NotServing => self.lose(node, Fault::NotServing),
                End::Again => self.lose(node, Fault::None),
                End::SessionOver(why) => {
                    self.state.end_session(why);
                    self.lose(node, Fault::None);
                }
            }
        }
    }

    fn lose(&mut self, node: u16, fault: Fault) {
        let quiet = fault == Fault::None;
        self.target = if quiet {
            Target::Any { node: Some(node) }
        } else {
            Target::Leader
        };
        self.loss = Some(Loss {
            node,
            at: Instant::now(),
            quiet,
            dead: fault == Fault::Dead,
        });
        self.state.interrupt();
    }

    /// Rounds until a node serves. `None`: the handle is gone.
    async fn come_up(&mut self) -> Option<Entered> {
        let mut pause = BACKOFF_FIRST;
        let began = Instant::now();
        loop {
            match self.round().await? {
                Ok(entered) => return Some(entered),
                // The user changed: begin another round at once.
                Err(Unavailable::Connecting) => continue,
                Err(why) => {
                    // A node that can't be reached again quickly counts as lost.
                    self.target = Target::Leader;
                    if let Some(loss) = &mut self.loss {
                        loss.quiet = false;
                    }
                    self.state
                        .link
                        .send_modify(|link| link.state = Err(why.clone()));
                    if why != Unavailable::Electing || began.elapsed() >= ELECTING_QUIET {
                        self.tell_unavailable(why);
                    }
                }
            }
            self.idle_until(Instant::now() + random::up_to(pause))
                .await?;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    /// One round, beside which orders are taken.
    async fn round(&mut self) -> Option<Result<Entered, Unavailable>> {
        let previous = self.state.previous_session();
        let (mut finder, target) = (self.finder.clone(), self.target);
        let mut round = AbortOnDrop(tokio::spawn(async move {
            let result = finder.round(target, &previous).await;
            (finder, result)
        }));
        loop {
            tokio::select! {
                joined = &mut round.0 => {
                    // A panic in there is a defect; another round may go better, and the user keeps the outbox.
                    let Ok((finder, result)) = joined else { return Some(Err(Unavailable::Electing)) };
                    self.finder = finder;
                    return Some(result);
                }
                order = self.orders.recv() => {
                    if self.order_while_down(order?) {
                        // The user changed: this round would resume the wrong session.
                        return Some(Err(Unavailable::Connecting));
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
        let before = self.state.token();
        self.state.take_order(order);
        self.state.token() != before
    }

    /// A node serves: tells the user what happened and the handle where to ask.
    fn settle(&mut self, entered: Entered) -> Connected {
        let Entered { reached, session } = entered;
        let status = reached.status;
        let state = &mut self.state;
        match session {
            Session::None => {}
            Session::Resumed(resumed) => state.resumed(resumed),
            Session::Dead(code) => state.refused(code),
            Session::OtherCluster => state.new_cluster(),
        }
        state.answer_resume();
        state.cluster_id = status.cluster_id.clone().or(state.cluster_id.take());
        self.generation += 1;
        let up = Arc::new(Up {
            generation: self.generation,
            node: status.node,
            cluster: status.cluster.clone(),
            cluster_id: status.cluster_id.clone(),
            connection: Arc::new(reached.connection),
        });
        let user = state
            .identity
            .as_ref()
            .map(|identity| identity.user.clone());
        state.link.send_replace(Link {
            user,
            state: Ok(up.clone()),
        });
        // After the link, so that a program that shows the news finds the node that they name.
        self.tell_where(status.node, status.replica.leader, status.replica.term);
        let finder = self.finder.clone();
        Connected::new(up, reached.events, finder, self.health_every)
    }

    fn tell_where(&mut self, node: u16, leader: Option<u16>, term: u64) {
        let (loss, told) = (self.loss.take(), self.told.take());
        let took = loss
            .as_ref()
            .map_or_else(|| self.started.elapsed(), |loss| loss.at.elapsed());
        let notice = match loss {
            _ if told.is_some() => Notice::Back {
                node,
                term,
                took,
                waiting: self.waiting(),
            },
            Some(loss) if !loss.quiet => Notice::Failover {
                lost: loss.node,
                won: node,
                leader,
                term,
                took,
            },
            Some(_) | None => return,
        };
        self.state.mailbox.notice(notice);
    }

    /// Messages that go out now; those that are held for another cluster do not.
    fn waiting(&self) -> usize {
        if self.state.outbox.is_held() {
            0
        } else {
            self.state.outbox.len()
        }
    }

    fn tell_unavailable(&mut self, why: Unavailable) {
        if self.told.as_ref() == Some(&why) {
            return;
        }
        // The first news after a loss names the lost node, later ones only what changed.
        let news = self
            .loss
            .as_ref()
            .filter(|loss| loss.dead && self.told.is_none());
        let lost = news.map(|loss| loss.node);
        self.told = Some(why.clone());
        self.state.mailbox.notice(Notice::Unavailable {
            lost,
            why,
            waiting: self.state.outbox.len(),
        });
    }
}

/// A task that ends with its owner: a round that nobody waits for must not log in.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
