//! The people behind the load: accounts with a session each, made once and used by every round, because a login costs
//! a password hash and a resumption none. Recipients never log in, so that a send is measured and no delivery.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use messagebase_client::connection::{CallError, Connection};
use messagebase_client::dial::{Directory, Endpoint, Transport};
use messagebase_client::random;
use messagebase_config::Config;
use messagebase_protocol::code::Code;
use messagebase_protocol::json::{Consistency, Event, LoggedIn, Op, Registered, Resumed};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::buffered::buffered;
use super::drive::Receipt;
use super::{LoadError, Say};

/// Accounts that receive. Each may have `queued_messages_per_user` messages waiting; with the default of 10,000 that
/// is room for 2.5 million sends.
pub const RECIPIENTS: usize = 256;
/// Random characters in all names of a users.
const MARK_CHARACTERS: usize = 6;
/// Accounts made, or connections opened, at a time: password hashes are the nodes' work, and they refuse too many.
const AT_A_TIME: usize = 8;
/// One call of the preparation.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before a node that is busy is asked again, when it doesn't say.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Times that a node is dialled: the client library gives a machine that stands still little time.
const CONNECT_TRIES: usize = 10;
/// Times that a node is asked that finds no majority; it says so after three seconds.
const QUORUM_TRIES: usize = 20;
/// Times that a busy node is asked.
const BUSY_TRIES: usize = 100;

/// Where and how the nodes are reached.
#[derive(Clone)]
pub struct ClusterAccess {
    /// TLS, as the client library speaks it.
    pub transport: Transport,
    /// The nodes.
    pub endpoints: Vec<Endpoint>,
}

/// One sender.
pub struct User {
    /// Account name.
    pub name: String,
    /// Takes the session up on any connection.
    pub token: String,
    /// The number of the next send; they are never used twice.
    pub next: AtomicU64,
    /// What was acknowledged.
    pub receipts: std::sync::Mutex<Vec<Receipt>>,
}

impl User {
    /// A number that was not used before.
    pub fn next_serial(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// All accounts.
pub struct LoadUsers {
    access: ClusterAccess,
    password: String,
    /// In all names: a cluster may have seen a users before.
    mark: String,
    recipients: Arc<[String]>,
    people: Vec<Arc<User>>,
}

impl LoadUsers {
    /// Makes the recipients: [`RECIPIENTS`] of them for load.
    ///
    /// # Errors
    /// No node takes them.
    pub async fn gather(
        access: ClusterAccess,
        recipients: usize,
        say: Say<'_>,
    ) -> Result<LoadUsers, LoadError> {
        let password = random::key();
        let mark: String = random::key().chars().take(MARK_CHARACTERS).collect();
        let recipients: Vec<String> = (0..recipients)
            .map(|n| format!("inbox-{mark}-{n:05}"))
            .collect();
        let users = LoadUsers {
            access,
            password,
            mark,
            recipients: recipients.clone().into(),
            people: Vec::new(),
        };
        users
            .each(recipients, "recipients made", say, register)
            .await?;
        Ok(users)
    }

    /// At least `count` senders, each logged in once.
    ///
    /// # Errors
    /// No node takes them.
    pub async fn at_least(
        &mut self,
        count: usize,
        say: Say<'_>,
    ) -> Result<&[Arc<User>], LoadError> {
        let names: Vec<String> = (self.people.len()..count)
            .map(|n| format!("sender-{}-{n:05}", self.mark))
            .collect();
        if !names.is_empty() {
            let made = self
                .each(
                    names,
                    "senders registered and logged in",
                    say,
                    register_and_log_in,
                )
                .await?;
            self.people.extend(made.into_iter().map(Arc::new));
        }
        Ok(&self.people[..count])
    }

    /// All senders up to now.
    pub fn people(&self) -> &[Arc<User>] {
        &self.people
    }

    /// What all accounts log in with.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Those who receive.
    pub fn recipients(&self) -> Arc<[String]> {
        self.recipients.clone()
    }

    /// Where the nodes are.
    pub fn access(&self) -> &ClusterAccess {
        &self.access
    }

    /// Does the same for all names, a few at a time, in turn on all nodes.
    async fn each<T, F>(
        &self,
        names: Vec<String>,
        what: &str,
        say: Say<'_>,
        deed: fn(ClusterAccess, usize, String, String) -> F,
    ) -> Result<Vec<T>, LoadError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, LoadError>> + Send + 'static,
    {
        const TELL_EVERY: usize = 64;
        let total = names.len();
        let (access, password) = (self.access.clone(), self.password.clone());
        let deed = |at, name| deed(access.clone(), at, name, password.clone());
        let tell = |done: usize| {
            if done.is_multiple_of(TELL_EVERY) || done == total {
                say(&format!("{what}: {done} of {total}"));
            }
        };
        buffered(names, AT_A_TIME, deed, tell).await
    }
}

async fn register(
    access: ClusterAccess,
    at: usize,
    user: String,
    password: String,
) -> Result<(), LoadError> {
    let connection = access.connect(at).await?;
    let op = Op::Register {
        user,
        password,
        key: random::key(),
    };
    ask::<Registered>(&connection, op).await.map(drop)
}

async fn register_and_log_in(
    access: ClusterAccess,
    at: usize,
    user: String,
    password: String,
) -> Result<User, LoadError> {
    let connection = access.connect(at).await?;
    let op = Op::Register {
        user: user.clone(),
        password: password.clone(),
        key: random::key(),
    };
    ask::<Registered>(&connection, op).await?;
    let session: LoggedIn = ask(&connection, Op::Login { user, password }).await?;
    let (name, token) = (session.user, session.token);
    Ok(User {
        name,
        token,
        next: AtomicU64::new(0),
        receipts: std::sync::Mutex::default(),
    })
}

impl ClusterAccess {
    /// As the configuration says.
    ///
    /// # Errors
    /// `ca.pem` can't be used.
    pub fn from_config(config: &Config) -> Result<ClusterAccess, LoadError> {
        let transport =
            Transport::from_config(config).map_err(|e| LoadError::Refused(e.to_string()))?;
        Ok(ClusterAccess {
            transport,
            endpoints: Directory::from_config(config).endpoints().to_vec(),
        })
    }

    /// A connection to the node in that place, counted round.
    ///
    /// # Errors
    /// It can't be reached.
    pub async fn connect(&self, at: usize) -> Result<Connection, LoadError> {
        self.listen(at)
            .await
            .map(|(connection, _events)| connection)
    }

    /// As [`ClusterAccess::connect`], and what is told on the connection unasked.
    ///
    /// # Errors
    /// It can't be reached.
    pub async fn listen(
        &self,
        at: usize,
    ) -> Result<(Connection, mpsc::Receiver<Event>), LoadError> {
        let access = &self.endpoints[at % self.endpoints.len()];
        let mut tries = 1;
        loop {
            match self.transport.connect(&access.address).await {
                Ok(connected) => return Ok(connected),
                Err(_) if tries < CONNECT_TRIES => tries += 1,
                Err(error) => {
                    let who = format!("node {} at {}", access.node, access.address);
                    return Err(LoadError::Unreachable {
                        who,
                        why: error.to_string(),
                    });
                }
            }
            tokio::time::sleep(BUSY_PAUSE).await;
        }
    }

    /// A connection in that user's session.
    ///
    /// # Errors
    /// It can't be reached, or the session is not taken up.
    pub async fn resume(&self, at: usize, user: &User) -> Result<Connection, LoadError> {
        self.resume_listening(at, user)
            .await
            .map(|(connection, _events)| connection)
    }

    /// As [`ClusterAccess::resume`], and what is told on the connection unasked.
    ///
    /// # Errors
    /// As [`ClusterAccess::resume`].
    pub async fn resume_listening(
        &self,
        at: usize,
        user: &User,
    ) -> Result<(Connection, mpsc::Receiver<Event>), LoadError> {
        let (connection, events) = self.listen(at).await?;
        let op = Op::Resume {
            token: user.token.clone(),
            consistency: Consistency::Linear,
        };
        ask::<Resumed>(&connection, op).await?;
        Ok((connection, events))
    }
}

/// Asks, again while the node is busy or no majority answers in time: what names its key may be asked again, and a
/// session too many harms nobody here.
///
/// # Errors
/// Refused, or the connection is lost.
pub async fn ask<T: DeserializeOwned>(connection: &Connection, op: Op) -> Result<T, LoadError> {
    let mut tries = 0;
    loop {
        match connection.call::<T>(op.clone(), CALL_TIMEOUT).await {
            Ok(answer) => return Ok(answer),
            Err(CallError::Refused(failure))
                if failure.code == Code::NoQuorum && tries < QUORUM_TRIES =>
            {
                tries += 1
            }
            Err(CallError::Refused(failure))
                if failure.code == Code::Busy && tries < BUSY_TRIES =>
            {
                tries += 1;
                let pause = failure
                    .retry_after_ms
                    .map_or(BUSY_PAUSE, Duration::from_millis);
                tokio::time::sleep(pause + random::up_to(pause)).await;
            }
            Err(error) => {
                return Err(LoadError::Refused(format!(
                    "`{}` failed: {}",
                    op.name(),
                    words(&error)
                )));
            }
        }
    }
}

/// What went wrong, for people.
pub fn words(error: &CallError) -> String {
    match error {
        CallError::Refused(failure) => format!("{:?}: {}", failure.code, failure.message),
        CallError::Lost => "the connection was lost".into(),
        CallError::TimedOut => "no answer in time".into(),
        CallError::TooMany => "too many requests outstanding".into(),
        CallError::Unreadable(what) => format!("the answer can't be read: {what}"),
    }
}
