//! The defects: each breaks one promise through a hook of the daemon's library.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use messagebase_daemon::change::Change;
use messagebase_daemon::hooks::Hooks;
use messagebase_daemon::raft::api::{CampaignError, Draft, NoQuorum, Verdict, View};
use messagebase_daemon::service::{BoxFuture, Connection, Replication};
use messagebase_daemon::store::Job;
use messagebase_protocol::json::Op;

/// A promise to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// A repeated key is taken for a new request.
    KeyUniqueness,
    /// The log is called durable before it is on disk.
    SyncBeforeAck,
    /// The writes of one connection overtake each other.
    Order,
    /// A session resumed by its token misses what arrived in between.
    TokenResume,
    /// A linear read does not wait for what was acknowledged before it.
    StaleRead,
}

impl Defect {
    pub const ALL: [Defect; 5] = [
        Defect::KeyUniqueness,
        Defect::SyncBeforeAck,
        Defect::Order,
        Defect::TokenResume,
        Defect::StaleRead,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Defect::KeyUniqueness => "key-uniqueness",
            Defect::SyncBeforeAck => "sync-before-ack",
            Defect::Order => "order",
            Defect::TokenResume => "token-resume",
            Defect::StaleRead => "stale-read",
        }
    }

    pub fn named(name: &str) -> Option<Defect> {
        Defect::ALL.into_iter().find(|defect| defect.name() == name)
    }

    /// What plants it in a node.
    pub fn hooks(self) -> Hooks {
        let mut hooks = Hooks::default();
        match self {
            Defect::KeyUniqueness => hooks.replication = Some(|inner| Arc::new(NewKeys(inner))),
            Defect::Order => hooks.replication = Some(|inner| Arc::new(Reversed(inner))),
            Defect::StaleRead => hooks.replication = Some(|inner| Arc::new(NoBarrier(inner))),
            Defect::TokenResume => hooks.request = Some(skip_stored_messages),
            Defect::SyncBeforeAck => hooks.job = Some(acknowledge_early),
        }
        hooks
    }
}

/// Passes on what a defective replication leaves alone.
macro_rules! delegate {
    ($($method:ident() -> $result:ty),*) => {
        $(fn $method(&self) -> $result {
            self.0.$method()
        })*
    };
}

struct NewKeys(Arc<dyn Replication>);

impl Replication for NewKeys {
    fn propose(&self, mut drafts: Vec<Draft>, within: Duration) -> BoxFuture<'_, Vec<Verdict>> {
        static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
        for draft in &mut drafts {
            if let Change::Send { key, .. } = &mut draft.body {
                let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
                *key = format!("{key} {} {attempt}", std::process::id());
            }
        }
        self.0.propose(drafts, within)
    }

    delegate!(
        linear() -> BoxFuture<'_, Result<(), NoQuorum>>,
        campaign() -> BoxFuture<'_, Result<u16, CampaignError>>,
        view() -> View,
        cluster_id() -> Option<String>
    );
}

struct Reversed(Arc<dyn Replication>);

impl Replication for Reversed {
    fn propose(&self, mut drafts: Vec<Draft>, within: Duration) -> BoxFuture<'_, Vec<Verdict>> {
        drafts.reverse();
        Box::pin(async move {
            let mut verdicts = self.0.propose(drafts, within).await;
            verdicts.reverse();
            verdicts
        })
    }

    delegate!(
        linear() -> BoxFuture<'_, Result<(), NoQuorum>>,
        campaign() -> BoxFuture<'_, Result<u16, CampaignError>>,
        view() -> View,
        cluster_id() -> Option<String>
    );
}

struct NoBarrier(Arc<dyn Replication>);

impl Replication for NoBarrier {
    fn propose(&self, drafts: Vec<Draft>, within: Duration) -> BoxFuture<'_, Vec<Verdict>> {
        self.0.propose(drafts, within)
    }

    fn linear(&self) -> BoxFuture<'_, Result<(), NoQuorum>> {
        Box::pin(std::future::ready(Ok(())))
    }

    delegate!(
        campaign() -> BoxFuture<'_, Result<u16, CampaignError>>,
        view() -> View,
        cluster_id() -> Option<String>
    );
}

/// On a connection that resumed its session, pages begin behind every message there is.
fn skip_stored_messages(conn: &Connection, op: Op) -> Op {
    static RESUMED: LazyLock<Mutex<HashSet<usize>>> = LazyLock::new(Mutex::default);
    let connection = Arc::as_ptr(&conn.outbox) as usize;
    let mut resumed = RESUMED.lock().expect("nothing panics under this lock");
    match op {
        Op::Resume { .. } => {
            resumed.insert(connection);
            op
        }
        // Perhaps the address of a connection that has ended.
        Op::Login { .. } => {
            resumed.remove(&connection);
            op
        }
        Op::Inbox {
            limit, consistency, ..
        } if resumed.contains(&connection) => Op::Inbox {
            after: Some(u64::MAX),
            limit,
            consistency,
        },
        Op::Sync {
            limit, consistency, ..
        } if resumed.contains(&connection) => Op::Sync {
            after: u64::MAX,
            limit,
            consistency,
        },
        op => op,
    }
}

fn acknowledge_early(job: Job) -> Job {
    match job {
        Job::Append { rows, done } => {
            done(Ok(()));
            let done = Box::new(|_| ());
            Job::Append { rows, done }
        }
        other => other,
    }
}
