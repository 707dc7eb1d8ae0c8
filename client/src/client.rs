//! The handle that programs use: one method per operation, each going on through failovers under one key until it is
//! answered or its patience ends. What arrives unasked comes out of [`Events`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use messagebase_config::Config;
use messagebase_protocol::code::Code;
use messagebase_protocol::json::{
    Ack, Consistency, DirectoryEntry, Empty, Inbox, LoggedIn, Op, Ping, Records, Registered, Sent,
    Status, Users,
};
use messagebase_protocol::name::{check_body, check_key, check_name, check_password};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::dial::{Directory, Endpoint, Transport, Unreached};
use crate::driver::{self, Setup};
use crate::error::ClientError;
use crate::failover::Finder;
use crate::link::{Link, Order, Up};
use crate::notice::ClientEvent;
use crate::outbox::Entry;
use crate::random;
use crate::retry::Calls;

/// How long a call goes on by default when nodes answer but the cluster does not serve.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a call goes on by default when no node answers.
pub const NO_NODE_PATIENCE: Duration = Duration::from_secs(4);
/// Health is asked this often; a hung node is noticed within this and two seconds.
pub const HEALTH_EVERY: Duration = Duration::from_secs(2);
/// Pages of one directory listing; with the protocol's largest page that is a million users.
const USER_PAGES_MAX: usize = 1_000;

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node to begin with. Default: the first ready one in the configuration's order.
    pub node: Option<u16>,
    /// Whether incoming messages are wanted as events. They are never acknowledged without [`Client::acknowledge`].
    pub receive: bool,
    /// How long a call goes on when the cluster does not serve.
    pub patience: Duration,
    /// How long a call goes on when no node answers.
    pub no_node_patience: Duration,
    /// How often the node's health is asked.
    pub health_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            node: None,
            receive: false,
            patience: PATIENCE,
            no_node_patience: NO_NODE_PATIENCE,
            health_every: HEALTH_EVERY,
        }
    }
}

/// What arrives unasked. A program that does not read it loses news, never messages.
pub type Events = mpsc::Receiver<ClientEvent>;

/// One user's connection to a cluster, which goes from node to node. Share it behind an `Arc`; dropping it ends its
/// task.
pub struct Client {
    calls: Calls,
    finder: Finder,
    tickets: AtomicU64,
}

/// A message in the outbox. It is sent whether its answer is awaited or not.
pub struct Pending {
    /// For [`Client::withdraw`].
    pub ticket: u64,
    answer: oneshot::Receiver<Result<Sent, ClientError>>,
}

impl Pending {
    /// Waits for the answer, however long the cluster takes. Cancel-safe: may be called again after a timeout.
    ///
    /// # Errors
    /// The refusal, or `Closed` when the client is gone.
    pub async fn answer(&mut self) -> Result<Sent, ClientError> {
        (&mut self.answer).await.unwrap_or(Err(ClientError::Closed))
    }
}

impl Client {
    /// Starts a client and returns at once; the first call waits for a node.
    ///
    /// # Errors
    /// `ca.pem` can't be used.
    pub fn start(config: &Config, options: Options) -> Result<(Client, Events), ClientError> {
        let transport = Transport::from_config(config)?;
        Ok(Client::start_with(
            Finder {
                transport,
                directory: Directory::from_config(config),
            },
            options,
        ))
    }

    /// Starts a client on given addresses, over a transport of the caller's choice.
    pub fn start_with(finder: Finder, options: Options) -> (Client, Events) {
        let (orders, events, link) = driver::start(Setup {
            finder: finder.clone(),
            first: options.node,
            health_every: options.health_every,
            receive: options.receive,
        });
        (
            Client {
                calls: Calls {
                    orders,
                    link,
                    patience: options.patience,
                    no_node_patience: options.no_node_patience,
                },
                finder,
                tickets: AtomicU64::new(1),
            },
            events,
        )
    }

    /// Starts a client and waits until a node serves it.
    ///
    /// # Errors
    /// `Config`, or `Unreachable` when patience ends.
    pub async fn connect(
        config: &Config,
        options: Options,
    ) -> Result<(Client, Events), ClientError> {
        let (client, events) = Client::start(config, options)?;
        client.connected().await?;
        Ok((client, events))
    }

    /// Waits until a node serves; which one.
    ///
    /// # Errors
    /// `Unreachable` when patience ends.
    pub async fn connected(&self) -> Result<Arc<Up>, ClientError> {
        self.calls.up(Instant::now(), None, false).await
    }

    /// Where the client is now.
    pub fn link(&self) -> Link {
        self.calls.link.borrow().clone()
    }

    /// Wakes when [`Client::link`] has changed.
    pub fn watch(&self) -> watch::Receiver<Link> {
        self.calls.link.clone()
    }

    /// Who is logged in.
    pub fn user(&self) -> Option<String> {
        self.calls.link.borrow().user.clone()
    }

    /// Makes an account; does not log in.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn register(&self, user: &str, password: &str) -> Result<Registered, ClientError> {
        check_name(user)
            .and_then(|()| check_password(password))
            .map_err(ClientError::Refused)?;
        self.calls
            .call(Op::Register {
                user: user.into(),
                password: password.into(),
                key: random::key(),
            })
            .await
    }

    /// Begins a session. The token in the answer resumes it in another run: keep it secret.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn login(&self, user: &str, password: &str) -> Result<LoggedIn, ClientError> {
        let op = Op::Login {
            user: user.into(),
            password: password.into(),
        };
        let (answer, generation): (LoggedIn, u64) = self.calls.call_where(op).await?;
        let order = Order::LoggedIn {
            generation,
            user: answer.user.clone(),
            token: answer.token.clone(),
        };
        self.calls.order(order).await?;
        self.calls.user_is(|user| user.is_some()).await?;
        Ok(answer)
    }

    /// Takes up a session of an earlier run. `cluster_id` is the cluster it was with; another one never sees the token.
    ///
    /// # Errors
    /// `NotLoggedIn` when the token is not valid any more; others: see [`ClientError`].
    pub async fn resume(
        &self,
        user: &str,
        token: &str,
        cluster_id: Option<&str>,
    ) -> Result<(), ClientError> {
        let (good, mut verdict) = oneshot::channel();
        let (user, token, cluster_id) = (
            user.to_owned(),
            token.to_owned(),
            cluster_id.map(str::to_owned),
        );
        self.calls
            .order(Order::Resume {
                user,
                token,
                cluster_id,
                good,
            })
            .await?;
        match self.calls.patiently(&mut verdict).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(ClientError::NotLoggedIn),
            Ok(Err(_)) => Err(ClientError::Closed),
            Err(why) => Err(ClientError::Unreachable {
                why,
                unknown: false,
            }),
        }
    }

    /// Ends the session on every node.
    ///
    /// # Errors
    /// See [`ClientError`]; a session that is already over is a success.
    pub async fn logout(&self) -> Result<(), ClientError> {
        self.calls.order(Order::Leaving).await?;
        match self.calls.call::<Empty>(Op::Logout {}).await {
            Ok(_) | Err(ClientError::NotLoggedIn) => self.forget().await,
            Err(ClientError::Refused(f)) if f.code == Code::NotLoggedIn => self.forget().await,
            Err(error) => {
                self.calls.order(Order::Staying).await?;
                Err(error)
            }
        }
    }

    /// Leaves the session without ending it: other clients go on with it, and its token resumes it. What is in the
    /// outbox is dropped ([`crate::Notice::OutboxDropped`]).
    ///
    /// # Errors
    /// `Closed`.
    pub async fn detach(&self) -> Result<(), ClientError> {
        self.calls.order(Order::Detach).await?;
        self.calls.user_is(|user| user.is_none()).await
    }

    /// Deletes the account that is logged in.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, password: &str) -> Result<(), ClientError> {
        let user = self.user().ok_or(ClientError::NotLoggedIn)?;
        self.calls.order(Order::Leaving).await?;
        let op = Op::Delete {
            password: password.into(),
            key: random::key(),
            user: Some(user),
        };
        match self.calls.call::<Empty>(op).await {
            Ok(_) => self.forget().await,
            Err(error) => {
                self.calls.order(Order::Staying).await?;
                Err(error)
            }
        }
    }

    /// Changes the password; the user's other sessions end.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn password(&self, old: &str, new: &str) -> Result<(), ClientError> {
        check_password(new).map_err(ClientError::Refused)?;
        self.session()?;
        let op = Op::Password {
            old: old.into(),
            new: new.into(),
            key: random::key(),
        };
        self.calls.call::<Empty>(op).await.map(|_| ())
    }

    /// Sends a message and waits until it is on disk on a majority, at most as long as patience. When patience ends
    /// the message is taken back, though it may have been sent (`unknown`).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send(&self, to: &str, body: &str) -> Result<Sent, ClientError> {
        self.send_keyed(to, body, &random::send_key()).await
    }

    /// As [`Client::send`], under a key of the caller's: 1 to 64 printable ASCII characters, one for each message of
    /// this user. A program that does not know whether it sent a message before it was killed sends it again under
    /// the same key; it is delivered once, and [`Sent::duplicate`] says that it was sent before.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send_keyed(&self, to: &str, body: &str, key: &str) -> Result<Sent, ClientError> {
        let mut pending = self.enqueue_keyed(to, body, key).await?;
        let why = match self.calls.patiently(pending.answer()).await {
            Ok(answer) => return answer,
            Err(why) => why,
        };
        self.withdraw(pending.ticket).await?;
        match pending.answer().await {
            Err(ClientError::Withdrawn) => Err(ClientError::Unreachable { why, unknown: true }),
            answered => answered,
        }
    }

    /// Puts a message into the outbox: it goes out in order, once, however long the cluster is away.
    ///
    /// # Errors
    /// `Refused` if no node could accept it, `NotLoggedIn`. A full outbox shows in the answer.
    pub async fn enqueue(&self, to: &str, body: &str) -> Result<Pending, ClientError> {
        self.enqueue_keyed(to, body, &random::send_key()).await
    }

    /// As [`Client::enqueue`], under a key of the caller's; see [`Client::send_keyed`].
    ///
    /// # Errors
    /// As [`Client::enqueue`].
    pub async fn enqueue_keyed(
        &self,
        to: &str,
        body: &str,
        key: &str,
    ) -> Result<Pending, ClientError> {
        check_name(to)
            .and_then(|()| check_body(body))
            .and_then(|()| check_key(key))
            .map_err(ClientError::Refused)?;
        self.session()?;
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let (waiter, answer) = oneshot::channel();
        let entry = Entry {
            ticket,
            to: to.into(),
            body: body.into(),
            key: key.into(),
            waiter,
        };
        self.calls.order(Order::Send(entry)).await?;
        Ok(Pending { ticket, answer })
    }

    /// Takes a message out of the outbox; it may have been sent.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn withdraw(&self, ticket: u64) -> Result<(), ClientError> {
        self.calls.order(Order::Withdraw(ticket)).await
    }

    /// After [`crate::Notice::NewCluster`]: sends what was held back, or forgets it.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn settle_outbox(&self, send: bool) -> Result<(), ClientError> {
        self.calls
            .order(if send {
                Order::ReleaseOutbox
            } else {
                Order::DropOutbox
            })
            .await
    }

    /// Begins or stops to report incoming messages as events.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn receive(&self, receive: bool) -> Result<(), ClientError> {
        self.calls.order(Order::Receive(receive)).await
    }

    /// Messages that came as events were shown up to this id. Goes out in the background, repeated until answered.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn acknowledge(&self, through: u64) -> Result<(), ClientError> {
        self.calls.order(Order::Acknowledge(through)).await
    }

    /// Acknowledges what was read from [`Client::inbox`] and waits for the answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ack(&self, through: u64) -> Result<(), ClientError> {
        self.session()?;
        self.calls
            .call::<Ack>(Op::Ack { through })
            .await
            .map(|_| ())
    }

    /// One page of the undelivered messages.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn inbox(&self, after: u64, limit: u32) -> Result<Inbox, ClientError> {
        self.session()?;
        self.calls
            .call(Op::Inbox {
                after: Some(after),
                limit: Some(limit),
                consistency: Consistency::Linear,
            })
            .await
    }

    /// One page of everything to or from this user behind an id.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn sync(&self, after: u64, limit: u32) -> Result<Records, ClientError> {
        self.session()?;
        self.calls
            .call(Op::Sync {
                after,
                limit: Some(limit),
                consistency: Consistency::Linear,
            })
            .await
    }

    /// One page of a conversation, ending before `before` or with the newest message.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn history(
        &self,
        with: &str,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Records, ClientError> {
        self.session()?;
        let consistency = Consistency::Linear;
        self.calls
            .call(Op::History {
                with: with.into(),
                before,
                limit: Some(limit),
                consistency,
            })
            .await
    }

    /// One page of the users whose names match a glob, in the order of their names behind `after`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn users_page(
        &self,
        pattern: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Users, ClientError> {
        self.session()?;
        self.calls
            .call(Op::Users {
                pattern: pattern.map(str::to_owned),
                after: after.map(str::to_owned),
                limit: Some(limit),
                consistency: Consistency::Linear,
            })
            .await
    }

    /// All users whose names match a glob, at most a million.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn users(&self, pattern: Option<&str>) -> Result<Vec<DirectoryEntry>, ClientError> {
        let mut all: Vec<DirectoryEntry> = Vec::new();
        for _ in 0..USER_PAGES_MAX {
            let after = all.last().map(|entry| entry.name.as_str());
            let limit = messagebase_protocol::limits::PAGE_MAX;
            let page = self.users_page(pattern, after, limit).await?;
            let done = !page.more || page.users.is_empty();
            all.extend(page.users);
            if done {
                break;
            }
        }
        Ok(all)
    }

    /// What the client's node knows of itself and the cluster.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.calls.call(Op::Status {}).await
    }

    /// Whether the client's node is ready.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ping(&self) -> Result<Ping, ClientError> {
        self.calls.call(Op::Ping {}).await
    }

    /// Asks all known addresses for their status, whether the cluster serves or not. Returns what each answered, or why
    /// it could not be reached.
    pub async fn survey(&self) -> Vec<(Endpoint, Result<Status, Unreached>)> {
        self.finder.survey().await
    }

    fn session(&self) -> Result<(), ClientError> {
        if self.calls.link.borrow().user.is_some() {
            Ok(())
        } else {
            Err(ClientError::NotLoggedIn)
        }
    }

    async fn forget(&self) -> Result<(), ClientError> {
        self.calls.order(Order::Forget).await?;
        self.calls.user_is(|user| user.is_none()).await
    }
}
