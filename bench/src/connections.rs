//! Sessions that say nothing: what each holds of a node's memory, and how soon a message reaches any of them. All are
//! TLS connections of the client library to one node, which is the leader; a few accounts share them, because a user
//! may be logged in many times and a session be taken up by many connections.

use std::time::{Duration, Instant};

use messagebase_client::random;
use messagebase_protocol::json::{Event, Op, Sent};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::load::buffered::buffered;
use crate::load::drive::Latencies;
use crate::load::load_users::{ClusterAccess, LoadUsers, User, ask};
use crate::load::messagebase::leader_at;
use crate::load::{LoadError, Say, Server};
use crate::measure::{memory, mib};

/// Connections opened at a time.
const CONNECTING_AT_A_TIME: usize = 32;
/// Memory is looked at so long after the last thing that used some.
const SETTLE: Duration = Duration::from_secs(2);
/// A message that takes longer did not arrive.
const DELIVERY_MAX: Duration = Duration::from_secs(10);
/// What listeners have heard and nobody has counted yet.
const HEARD_MAX: usize = 1_024;

/// What is opened.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Plan {
    /// Connections, each logged in.
    pub sessions: usize,
    /// Accounts that they are spread over. Each gets one message, which goes to all of its connections.
    pub accounts: usize,
}

/// What it came to.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// What was opened.
    #[serde(flatten)]
    pub plan: Plan,
    /// On which node.
    pub node: u16,
    /// Resident memory of the node before the first connection, MiB.
    pub before_mib: f64,
    /// With all of them, before the first message, MiB.
    pub open_mib: f64,
    /// After the last message, MiB.
    pub after_messages_mib: f64,
    /// After all were closed, MiB.
    pub closed_mib: f64,
    /// What one more session holds, KiB.
    pub per_session_kib: f64,
    /// What this program holds for its end of one, KiB.
    pub per_session_here_kib: f64,
    /// Connections opened and logged in a second.
    pub opened_per_second: f64,
    /// Messages heard, one a session. From before a send to when a session has its message:
    pub deliveries: u64,
    /// half of them took no longer, ms;
    pub p50_ms: f64,
    /// 99 of 100;
    pub p99_ms: f64,
    /// the longest.
    pub max_ms: f64,
}

/// What a connection's listener tells.
enum Heard {
    /// A message came.
    Message(Instant),
    /// The connection ended.
    Lost,
}

/// Opens, measures, sends, measures, closes.
///
/// # Errors
/// See [`LoadError`]; a connection that ends or a message that does not come is one.
pub async fn measure(
    access: &ClusterAccess,
    servers: &[Server],
    plan: Plan,
    say: Say<'_>,
) -> Result<Figures, LoadError> {
    let mut users = LoadUsers::gather(access.clone(), 0, say).await?;
    // One more, who sends.
    let people = users.at_least(plan.accounts + 1, say).await?;
    let Some((sender, people)) = people.split_last() else {
        return Err(LoadError::Refused("nobody was made".into()));
    };
    let leader = leader_at(access).await?;
    let node = access.endpoints[leader].node;
    let Some(server) = servers.iter().find(|server| server.node == node) else {
        return Err(LoadError::Refused(format!(
            "node {node} leads and is not among those that are measured"
        )));
    };
    let held = |pid: u32| match memory(pid)? {
        Some(memory) => Ok(mib(memory.now)),
        None => Err(LoadError::Refused(format!("process {pid} has ended"))),
    };
    tokio::time::sleep(SETTLE).await;
    let (before, before_here) = (held(server.pid)?, held(std::process::id())?);
    let (tell, mut heard) = mpsc::channel(HEARD_MAX);
    let begun = Instant::now();
    let mut listeners = open(access, leader, people, plan.sessions, &tell, say).await?;
    let opened_in = begun.elapsed();
    tokio::time::sleep(SETTLE).await;
    let (open, open_here) = (held(server.pid)?, held(std::process::id())?);
    let latencies = deliver(access, leader, sender, people, plan, &mut heard).await?;
    let after_messages = held(server.pid)?;
    listeners.shutdown().await;
    tokio::time::sleep(SETTLE).await;
    let closed = held(server.pid)?;
    #[allow(
        clippy::cast_precision_loss,
        reason = "a count of sessions is far below 2^52"
    )]
    let sessions = plan.sessions as f64;
    let each_kib = |before: f64, after: f64| (after - before) * 1_024.0 / sessions;
    Ok(Figures {
        plan,
        node,
        before_mib: before,
        open_mib: open,
        after_messages_mib: after_messages,
        closed_mib: closed,
        per_session_kib: each_kib(before, open),
        per_session_here_kib: each_kib(before_here, open_here),
        opened_per_second: sessions / opened_in.as_secs_f64(),
        deliveries: latencies.len(),
        p50_ms: latencies.ms_at(0.5),
        p99_ms: latencies.ms_at(0.99),
        max_ms: latencies.ms_at(1.0),
    })
}

/// Opens all connections, a few at a time; each is held by a task that listens.
async fn open(
    access: &ClusterAccess,
    node: usize,
    people: &[std::sync::Arc<User>],
    sessions: usize,
    tell: &mpsc::Sender<Heard>,
    say: Say<'_>,
) -> Result<JoinSet<()>, LoadError> {
    const TELL_EVERY: usize = 1_000;
    let deed = |_, at: usize| {
        let (access, user) = (access.clone(), people[at % people.len()].clone());
        async move { access.resume_listening(node, &user).await }
    };
    let told = |open: usize| {
        if open.is_multiple_of(TELL_EVERY) {
            say(&format!("sessions open: {open} of {sessions}"));
        }
    };
    let mut listeners = JoinSet::new();
    for (connection, mut events) in buffered(0..sessions, CONNECTING_AT_A_TIME, deed, told).await? {
        let tell = tell.clone();
        listeners.spawn(async move {
            // Held: dropping it would end the connection.
            let _connection = connection;
            while let Some(event) = events.recv().await {
                if matches!(event, Event::Message { .. })
                    && tell.send(Heard::Message(Instant::now())).await.is_err()
                {
                    return;
                }
            }
            let _ = tell.send(Heard::Lost).await;
        });
    }
    Ok(listeners)
}

/// One message to every account, one after the other; each must come to all of the account's connections.
async fn deliver(
    access: &ClusterAccess,
    node: usize,
    sender: &User,
    people: &[std::sync::Arc<User>],
    plan: Plan,
    heard: &mut mpsc::Receiver<Heard>,
) -> Result<Latencies, LoadError> {
    let connection = access.resume(node, sender).await?;
    let mut micros = Vec::with_capacity(plan.sessions);
    for (at, user) in people.iter().enumerate() {
        let awaited = plan.sessions / people.len() + usize::from(at < plan.sessions % people.len());
        let body = format!("to {}", user.name);
        let op = Op::Send {
            to: user.name.clone(),
            body,
            key: random::send_key(),
        };
        let begun = Instant::now();
        ask::<Sent>(&connection, op).await?;
        for _ in 0..awaited {
            match tokio::time::timeout(DELIVERY_MAX, heard.recv()).await {
                Ok(Some(Heard::Message(at))) => {
                    micros.push(u32::try_from((at - begun).as_micros()).unwrap_or(u32::MAX));
                }
                Ok(Some(Heard::Lost) | None) => {
                    return Err(LoadError::Refused("an idle session ended".into()));
                }
                Err(_) => {
                    return Err(LoadError::Refused(format!(
                        "a message to {} did not arrive",
                        user.name
                    )));
                }
            }
        }
    }
    Ok(Latencies::of(micros.into_iter()))
}
