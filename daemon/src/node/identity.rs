//! This node's identity, from the first probe to replication under it: what peers learn of it, who may give it one, and the
//! start of the replica. When to form a cluster is `formation`'s decision.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use messagebase_config::{Config, NodeConfig};
use messagebase_protocol::peer::{PeerReply, PeerRequest, ProbeReply, Purpose};
use tokio::runtime::Handle;

use crate::change::Settings;
use crate::context::{NodeContext, Replica, unix_ms};
use crate::peer::incarnations::Incarnations;
use crate::peer::wire::PeerError;
use crate::raft::api::Target;
use crate::raft::{Node as Member, ReplicaConfig, ReplicaError, node_of, raft_id};
use crate::store::{Identity, Job, StoreError};

/// A node's first generation; grows when it is replaced after losing its disk.
pub const FIRST_GENERATION: u64 = 1;

/// Why a node did not take an identity or start replication under it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another founder's file differs from this node's.
    #[error("its configuration file lists other nodes")]
    OtherFounders,
    /// It was meant for another node.
    #[error("Raft id {raft_id} is not one of node {node}")]
    OtherNode {
        /// The Raft id that was given.
        raft_id: u64,
        /// This node.
        node: u16,
    },
    /// Only a blank node takes one.
    #[error("it holds an identity of the cluster {0} already")]
    Taken(String),
    /// See [`crate::peer::incarnations`].
    #[error("this data directory is an older copy and counts as lost")]
    Stale,
    /// Replication needs one.
    #[error("this node has no identity")]
    Missing,
    /// It was not stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Replication did not start, or did not take the first membership.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}

/// Takes and uses this node's identity.
pub struct NodeIdentity {
    context: Arc<NodeContext>,
    incarnations: Arc<Incarnations>,
    /// The threads of the clients' connections; the replica gathers their writes there.
    clients: Handle,
}

impl NodeIdentity {
    pub fn new(
        context: Arc<NodeContext>,
        incarnations: Arc<Incarnations>,
        clients: Handle,
    ) -> Self {
        NodeIdentity {
            context,
            incarnations,
            clients,
        }
    }

    pub fn context(&self) -> &Arc<NodeContext> {
        &self.context
    }

    /// The nodes of the configuration file, sorted.
    pub fn configured(&self) -> Vec<u16> {
        let nodes = &self.context.config.nodes;
        let mut nodes: Vec<u16> = nodes.iter().map(|node| node.id).collect();
        nodes.sort_unstable();
        nodes
    }

    pub fn has_log(&self) -> bool {
        let store = &self.context.store;
        store.log_begin() > 0 || store.last_log_index().is_some()
    }

    /// What this node answers to a probe.
    pub fn probe_reply(&self) -> ProbeReply {
        let identity = self.context.store.identity();
        ProbeReply {
            node: self.context.node,
            raft_id: identity.as_ref().map_or(0, |identity| identity.raft_id),
            cluster_id: identity.map(|identity| identity.cluster_id),
            has_log: self.has_log(),
            configured: self.configured(),
        }
    }

    /// Sends a request to a node of the configuration file, whatever its Raft id.
    pub async fn ask(
        &self,
        node: u16,
        body: PeerRequest,
        within: Duration,
    ) -> Result<PeerReply, PeerError> {
        let configured = self.context.config.node(node);
        let target = Target {
            raft_id: 0,
            node,
            peer: configured
                .map(|node| node.peer.to_string())
                .unwrap_or_default(),
        };
        let wire = &self.context.wire;
        wire.ask(target, Purpose::Probe, body, within).await
    }

    /// Takes the identity of a founder. Only for a blank node, or one that took the same identity before.
    pub async fn take_as_founder(
        &self,
        cluster_id: String,
        founders: Vec<u16>,
    ) -> Result<(), IdentityError> {
        if founders != self.configured() {
            return Err(IdentityError::OtherFounders);
        }
        self.take(self.founder(cluster_id, founders)).await
    }

    /// Takes the identity that a leader gave to a blank node.
    pub async fn adopt(&self, cluster_id: String, raft_id: u64) -> Result<(), IdentityError> {
        let node = self.context.node;
        if node_of(raft_id) != node {
            return Err(IdentityError::OtherNode { raft_id, node });
        }
        let founders = Vec::new();
        self.take(Identity {
            cluster_id,
            raft_id,
            founders,
        })
        .await
    }

    async fn take(&self, identity: Identity) -> Result<(), IdentityError> {
        match self.context.store.identity() {
            None => self.save(identity).await?,
            Some(held)
                if held.cluster_id == identity.cluster_id && held.raft_id == identity.raft_id => {}
            Some(held) => return Err(IdentityError::Taken(held.cluster_id)),
        }
        self.start_replica().await
    }

    /// This node's identity as a founder.
    pub fn founder(&self, cluster_id: String, founders: Vec<u16>) -> Identity {
        Identity {
            cluster_id,
            raft_id: raft_id(FIRST_GENERATION, self.context.node),
            founders,
        }
    }

    /// Stores who this node is; durable when it returns.
    pub async fn save(&self, identity: Identity) -> Result<(), IdentityError> {
        let (done, saved) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| drop(done.send(result)));
        let job = Job::SaveIdentity { identity, done };
        self.context.store.submit(job).await?;
        Ok(saved.await.map_err(|_| StoreError::Closed)??)
    }

    /// Starts replication under the stored identity. Calling it again changes nothing.
    pub async fn start_replica(&self) -> Result<(), IdentityError> {
        let participation = &self.context.participation;
        if participation.is_stale() {
            return Err(IdentityError::Stale);
        }
        let replica = participation
            .replica_or_build(|| self.build_replica())
            .await?;
        let on_lost = replica.clone();
        self.context
            .wire
            .set_on_disconnect(Box::new(move |raft_id| on_lost.peer_lost(raft_id)));
        let leader = replica.clone();
        self.incarnations
            .set_acknowledged(Box::new(move |raft_id| acknowledged(&leader, raft_id)));
        if participation.is_stale() {
            // A peer said so while replication was starting.
            replica.shutdown().await;
            return Err(IdentityError::Stale);
        }
        participation.begin();
        Ok(())
    }

    async fn build_replica(&self) -> Result<Replica, IdentityError> {
        let context = &self.context;
        let identity = context.store.identity().ok_or(IdentityError::Missing)?;
        let config = ReplicaConfig::new(
            identity.raft_id,
            identity.cluster_id,
            context.config.limits.change_log_bytes,
            settings(&context.config),
        );
        let clock = Arc::new(unix_ms);
        let beside_clients = |task| self.clients.spawn(task);
        let (store, wire) = (context.store.clone(), context.wire.clone());
        Ok(Replica::start(store, config, wire, clock, beside_clients).await?)
    }

    /// Makes the first membership. Only for the driver of a formation.
    pub async fn initialize(&self) -> Result<(), IdentityError> {
        let replica = self.context.replica().ok_or(IdentityError::Stale)?;
        let nodes = &self.context.config.nodes;
        let members: BTreeMap<u64, Member> = nodes
            .iter()
            .map(|node| (raft_id(FIRST_GENERATION, node.id), member_of(node)))
            .collect();
        Ok(replica.initialize(members).await?)
    }
}

/// The last index that a peer acknowledged to this leader. `None` on a follower, and on a deposed leader that does not know
/// it yet: it remembers acknowledgements of entries that a new leader has truncated since.
fn acknowledged(leader: &Replica, raft_id: u64) -> Option<u64> {
    if !leader.leads_with_quorum() {
        return None;
    }
    let members = leader.members();
    let member = members.iter().find(|member| member.raft_id == raft_id);
    member.and_then(|member| member.matched)
}

/// A node of the configuration file as a member of the first membership.
pub fn member_of(node: &NodeConfig) -> Member {
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
