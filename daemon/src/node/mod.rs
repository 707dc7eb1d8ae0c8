//! Builds one node of all rooms and decides the order of start and stop.
//!
//! Start: directory lock and migrations → listeners bound → writer → doors open → identity (from the file, or by
//! formation) → replication. A node without an identity answers `status` and waits. Stop: leadership away → doors
//! tell their clients → replication → file.

mod formation;
mod gossip;
mod handler;
mod incarnations;
mod leadership_log;
mod replication;
mod restore;
mod start;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use messagebase_config::{Config, NodeConfig};
use messagebase_protocol::peer::{
    AdminReply, Incarnation, PeerReply, PeerRequest, ProbeReply, Purpose,
};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

pub use restore::restore;
pub use start::run;

use crate::admin::Backups;
use crate::change::Settings;
use crate::fanout::Fanout;
use crate::peer::incarnations::Incarnations;
use crate::peer::wire::TlsWire;
use crate::presence::Presence;
use crate::raft::api::Target;
use crate::raft::{Node as Member, ReplicaConfig, TokioReplica, node_of, raft_id};
use crate::store::{Identity, Job, Store};

/// Replication over TLS on tokio.
pub type Replica = TokioReplica<TlsWire>;

/// What the rooms of one node share. Every field is fixed at start but those behind a cell, a lock or a token.
pub struct Shared {
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
    /// Cancelled by SIGTERM, SIGINT or `mbctl stop`: begin the graceful stop.
    pub quit: CancellationToken,
    /// Cancelled when everything is to end.
    pub stop: CancellationToken,
    /// The backup that is being taken.
    pub backups: Backups,
    /// Which life of its process this node is in.
    pub incarnation: Incarnation,
    /// Which life of each peer's process was met last.
    pub incarnations: Arc<Incarnations>,
    replica: OnceCell<Replica>,
    /// The threads of the clients' connections.
    clients: Handle,
    /// A peer recognized this node's data as an older copy: it takes no part any more.
    stale: AtomicBool,
    /// Whether clients and peers are told that this node is going away.
    closing: AtomicBool,
    /// Why this node waits; `None` on a member. Held for a copy only.
    waiting: Mutex<Option<String>>,
    /// The first failure that ends the node. Held for a copy only.
    failure: Mutex<Option<String>>,
    started: Instant,
}

impl Shared {
    /// Replication, once this node has an identity and unless its data is an older copy.
    pub fn replica(&self) -> Option<&Replica> {
        if self.is_stale() {
            None
        } else {
            self.replica.get()
        }
    }

    /// From now on this node takes no part; why, for the log and `mbctl status`.
    fn mark_stale(&self, why: String) {
        self.stale.store(true, Ordering::Relaxed);
        tracing::error!("{why}");
        self.set_waiting(why);
    }

    /// Whether a peer recognized this node's data as an older copy.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// The cluster this node belongs to.
    pub fn cluster_id(&self) -> Option<String> {
        self.store.identity().map(|identity| identity.cluster_id)
    }

    /// Since the process started.
    pub fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Why this node waits, if it does.
    pub fn waiting_for(&self) -> Option<String> {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_waiting(&self, why: String) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Whether the graceful stop has begun.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Ends the node with exit 1. The first reason is the one that is told.
    pub fn fail(&self, why: String) {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(why);
        self.stop.cancel();
    }

    fn failure(&self) -> Option<String> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// As by SIGKILL: nothing is flushed, nobody is told. That is what the operator asked for.
    pub fn die(&self) -> AdminReply {
        tracing::warn!("killed by an operator");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        std::process::abort()
    }

    /// The nodes of the configuration file, sorted.
    fn configured(&self) -> Vec<u16> {
        let mut nodes: Vec<u16> = self.config.nodes.iter().map(|node| node.id).collect();
        nodes.sort_unstable();
        nodes
    }

    fn has_log(&self) -> bool {
        self.store.log_begin() > 0 || self.store.last_log_index().is_some()
    }

    fn me(&self) -> formation::Me {
        let identity = self.store.identity();
        formation::Me {
            node: self.node,
            configured: self.configured(),
            founder: identity
                .as_ref()
                .is_some_and(|identity| !identity.founders.is_empty()),
            cluster_id: identity.map(|identity| identity.cluster_id),
            has_log: self.has_log(),
        }
    }

    /// What this node answers to a probe.
    fn probe_reply(&self) -> ProbeReply {
        let identity = self.store.identity();
        ProbeReply {
            node: self.node,
            raft_id: identity.as_ref().map_or(0, |identity| identity.raft_id),
            cluster_id: identity.map(|identity| identity.cluster_id),
            has_log: self.has_log(),
            configured: self.configured(),
        }
    }

    fn probe_target(&self, node: u16) -> Target {
        formation::any_identity(
            node,
            self.config
                .node(node)
                .map(|n| n.peer.to_string())
                .unwrap_or_default(),
        )
    }

    async fn probe(&self, node: u16, within: Duration) -> Result<ProbeReply, String> {
        match self
            .wire
            .ask(
                self.probe_target(node),
                Purpose::Probe,
                PeerRequest::Probe,
                within,
            )
            .await
        {
            Ok(PeerReply::Probe(reply)) => Ok(reply),
            Ok(other) => Err(format!("node {node} answered {other:?}")),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Stores who this node is; durable when it returns.
    async fn save_identity(&self, identity: Identity) -> Result<(), String> {
        let (done, saved) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| drop(done.send(result)));
        self.store
            .submit(Job::SaveIdentity { identity, done })
            .await
            .map_err(|e| e.to_string())?;
        saved
            .await
            .map_err(|_| "the store is closed".to_owned())?
            .map_err(|e| e.to_string())
    }

    /// Takes the identity of a founder. Only a blank node does, or one that took the very same before.
    async fn take_founder_identity(
        &self,
        cluster_id: String,
        founders: Vec<u16>,
    ) -> Result<(), String> {
        if founders != self.configured() {
            return Err("its configuration file lists other nodes".into());
        }
        let identity = Identity {
            cluster_id,
            raft_id: raft_id(formation::FIRST_GENERATION, self.node),
            founders,
        };
        self.take_identity(identity).await
    }

    /// Takes the identity that a leader gave to a blank node.
    async fn adopt_identity(&self, cluster_id: String, raft_id: u64) -> Result<(), String> {
        if node_of(raft_id) != self.node {
            return Err(format!(
                "Raft id {raft_id} is not one of node {}",
                self.node
            ));
        }
        self.take_identity(Identity {
            cluster_id,
            raft_id,
            founders: Vec::new(),
        })
        .await
    }

    async fn take_identity(&self, identity: Identity) -> Result<(), String> {
        match self.store.identity() {
            None => self.save_identity(identity).await?,
            Some(held)
                if held.cluster_id == identity.cluster_id && held.raft_id == identity.raft_id => {}
            Some(held) => {
                return Err(format!(
                    "it holds an identity of the cluster {} already",
                    held.cluster_id
                ));
            }
        }
        self.start_replica().await
    }

    /// Starts replication under the stored identity. Calling it again changes nothing.
    async fn start_replica(&self) -> Result<(), String> {
        if self.is_stale() {
            return Err("this data directory is an older copy and counts as lost".into());
        }
        let replica = self
            .replica
            .get_or_try_init(|| self.build_replica())
            .await?;
        let told = replica.clone();
        self.wire
            .set_on_disconnect(Box::new(move |raft_id| told.peer_lost(raft_id)));
        let leader = replica.clone();
        self.incarnations.set_acknowledged(Box::new(move |raft_id| {
            // A deposed leader that does not know it yet remembers acknowledgements that another has truncated since.
            if !leader.leads_with_quorum() {
                return None;
            }
            leader
                .members()
                .iter()
                .find(|member| member.raft_id == raft_id)
                .and_then(|member| member.matched)
        }));
        if self.is_stale() {
            // It was told so while replication was starting.
            replica.shutdown().await;
            return Err("this data directory is an older copy and counts as lost".into());
        }
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    async fn build_replica(&self) -> Result<Replica, String> {
        let identity = self.store.identity().ok_or("this node has no identity")?;
        let config = ReplicaConfig::new(
            identity.raft_id,
            identity.cluster_id,
            self.config.limits.change_log_bytes,
            settings(&self.config),
        );
        let clock = Arc::new(unix_ms);
        let beside_clients = |task| self.clients.spawn(task);
        let started = Replica::start(
            self.store.clone(),
            config,
            self.wire.clone(),
            clock,
            beside_clients,
        )
        .await;
        started.map_err(|e| e.to_string())
    }

    /// As the driver of a formation: makes the first membership.
    async fn initialize(&self) -> Result<(), String> {
        let replica = self.replica().ok_or("replication has not started")?;
        let members: BTreeMap<u64, Member> = self
            .config
            .nodes
            .iter()
            .map(|node| {
                (
                    raft_id(formation::FIRST_GENERATION, node.id),
                    member_of(node),
                )
            })
            .collect();
        replica.initialize(members).await.map_err(|e| e.to_string())
    }
}

/// A node of the configuration file as a first membership has it.
fn member_of(node: &NodeConfig) -> Member {
    Member {
        node: node.id,
        client: node.client.to_string(),
        peer: node.peer.to_string(),
        promote: false,
    }
}

/// The replicated settings as this node's file has them.
fn settings(config: &Config) -> Settings {
    Settings {
        registration_open: config.registration_open,
        session_days: config.session_days,
        sessions_per_user: config.limits.sessions_per_user,
        queued_messages_per_user: config.limits.queued_messages_per_user,
        queued_bytes_per_user: config.limits.queued_bytes_per_user,
        delivered_days: config.delivered_days,
    }
}

/// The wall clock, for the leader's stamps and what is said of a backup; a clock before 1970 counts as 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
