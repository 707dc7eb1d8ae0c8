//! The state that `node` and `admin` share: a node's configuration and file, its peers, its live sessions, its participation
//! and lifecycle. State without procedures: `node` starts and stops it, `admin` reads it and acts on it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use messagebase_config::Config;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::fanout::Fanout;
use crate::peer::wire::TlsWire;
use crate::presence::Presence;
use crate::raft::TokioReplica;
use crate::store::Store;

/// Replication over TLS on tokio.
pub type Replica = TokioReplica<TlsWire>;

/// Why a node waits before it has asked its peers.
pub const JUST_STARTED: &str = "it has just been started";

/// One node.
pub struct NodeContext {
    /// The validated configuration file.
    pub config: Arc<Config>,
    /// This node's number.
    pub node: u16,
    /// The file.
    pub store: Store,
    /// Dials peers.
    pub wire: TlsWire,
    /// Live sessions.
    pub fanout: Arc<Fanout>,
    /// Who is online on which node.
    pub presence: Arc<Presence>,
    /// Replication, once there is an identity.
    pub participation: Participation,
    /// From start to stop.
    pub lifecycle: Lifecycle,
}

impl NodeContext {
    /// Replication, once this node has an identity and unless its data is an older copy.
    pub fn replica(&self) -> Option<&Replica> {
        self.participation.replica()
    }

    /// The cluster this node belongs to.
    pub fn cluster_id(&self) -> Option<String> {
        self.store.identity().map(|identity| identity.cluster_id)
    }
}

/// Whether this node takes part in its cluster, and why not.
pub struct Participation {
    replica: OnceCell<Replica>,
    /// A peer recognized this node's data as an older copy: replication was stopped.
    stale: AtomicBool,
    /// `None` on a member.
    waiting_for: Mutex<Option<String>>,
}

impl Default for Participation {
    fn default() -> Self {
        Participation {
            replica: OnceCell::new(),
            stale: AtomicBool::new(false),
            waiting_for: Mutex::new(Some(JUST_STARTED.into())),
        }
    }
}

impl Participation {
    fn replica(&self) -> Option<&Replica> {
        if self.is_stale() {
            None
        } else {
            self.replica.get()
        }
    }

    /// The replica, built by the first caller.
    pub async fn replica_or_build<E, F>(&self, build: impl FnOnce() -> F) -> Result<&Replica, E>
    where
        F: Future<Output = Result<Replica, E>>,
    {
        self.replica.get_or_try_init(build).await
    }

    /// This node takes part from now on.
    pub fn begin(&self) {
        *self.waiting_for.lock() = None;
    }

    /// Why this node does not take part yet, for the log and `mbctl status`.
    pub fn wait_for(&self, why: String) {
        *self.waiting_for.lock() = Some(why);
    }

    /// See [`Participation::wait_for`]; `None` on a member.
    pub fn waiting_for(&self) -> Option<String> {
        self.waiting_for.lock().clone()
    }

    /// From now on this node takes no part; why, for the log and `mbctl status`.
    pub fn mark_stale(&self, why: String) {
        self.stale.store(true, Ordering::Relaxed);
        tracing::error!("{why}");
        self.wait_for(why);
    }

    /// Whether a peer recognized this node's data as an older copy.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }
}

/// From the start of the process to its stop.
pub struct Lifecycle {
    /// Cancelled by `mbctl stop`: begin the graceful stop.
    pub stop_requested: CancellationToken,
    /// Cancelled when everything is to end.
    pub stop: CancellationToken,
    /// Whether the graceful stop has begun: clients are sent to other nodes.
    closing: AtomicBool,
    /// The first failure that ends the node.
    failure: Mutex<Option<String>>,
    started: Instant,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Lifecycle {
            stop_requested: CancellationToken::new(),
            stop: CancellationToken::new(),
            closing: AtomicBool::new(false),
            failure: Mutex::default(),
            started: Instant::now(),
        }
    }
}

impl Lifecycle {
    /// Since the process started.
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The graceful stop has begun.
    pub fn set_closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether the graceful stop has begun.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Ends the node with exit 1. Only the first reason is kept.
    pub fn fail(&self, why: String) {
        self.failure.lock().get_or_insert(why);
        self.stop.cancel();
    }

    /// The first reason to end the node.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }
}

/// The wall clock, for the leader's stamps and the times of backups; a clock before 1970 counts as 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
