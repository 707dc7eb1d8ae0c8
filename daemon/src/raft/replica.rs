//! One node's part in replication: puts its parts together, starts their tasks, and is all that the daemon sees of them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use messagebase_protocol::limits::WRITE_DEADLINE;
use openraft::AsyncRuntime;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;

use super::api::{
    CampaignError, Draft, MemberError, Membership, NoQuorum, ReplicaError, Target, Verdict, View,
    Wire,
};
use super::barrier::Barriers;
use super::batch::Batcher;
use super::config::{Clock, ReplicaConfig};
use super::core::{Core, OpenRaft};
use super::election::Elections;
use super::housekeeping::Housekeeping;
use super::leadership::Leadership;
use super::log_retention::LogRetention;
use super::log_store::LogStore;
use super::membership::MembershipChanges;
use super::network::Network;
use super::openraft_metrics::RaftMetrics;
use super::peer_links::{KEEP_ALIVE_EVERY, PeerLinks};
use super::pending_requests::PendingRequests;
use super::probe::Prober;
use super::propose::Proposer;
use super::serve::PeerService;
use super::snapshot_receiver::SnapshotReceiver;
use super::snapshot_transfers::SnapshotTransfers;
use super::state_machine::StateMachine;
use super::suspicion::Suspicion;
use super::transfer::Transfers;
use super::types::Node;
use super::view::Views;
use crate::store::Store;

/// Cheap to clone; all clones are the same replica.
pub struct Replica<R: AsyncRuntime, W: Wire> {
    parts: Arc<Parts<R, W>>,
}

impl<R: AsyncRuntime, W: Wire> Clone for Replica<R, W> {
    fn clone(&self) -> Self {
        Replica {
            parts: self.parts.clone(),
        }
    }
}

struct Parts<R: AsyncRuntime, W: Wire> {
    core: Arc<Core<R, W>>,
    views: Arc<Views<R, W>>,
    membership: Arc<MembershipChanges<R, W>>,
    transfers: Transfers<R, W>,
    /// Holds the parts that peers ask too.
    peers: PeerService<R, W>,
    /// Joined at shutdown.
    tasks: Mutex<Vec<R::JoinHandle<()>>>,
}

impl<R: AsyncRuntime, W: Wire> Replica<R, W> {
    /// Starts Raft on an opened store whose writer runs. `beside_callers` starts a task on the runtime of the callers: a
    /// wake-up across threads costs more than batching their writes.
    ///
    /// # Errors
    /// When the timing is contradictory or the store can't be read.
    pub async fn start(
        store: Store,
        config: ReplicaConfig,
        wire: W,
        clock: Clock,
        beside_callers: impl Fn(BoxFuture<'static, ()>) -> R::JoinHandle<()> + Send,
    ) -> Result<Self, ReplicaError> {
        let links = Arc::new(PeerLinks::new(&wire));
        let snapshot_transfers = Arc::<SnapshotTransfers<R::Instant>>::default();
        let pending = Arc::<PendingRequests>::default();
        let network = Network::<R, W>::new(
            config.raft_id,
            store.clone(),
            wire.clone(),
            links.clone(),
            snapshot_transfers.clone(),
            pending.clone(),
        );
        let raft = start_openraft(&config, &store, network).await?;
        let core = Arc::new(Core::new(raft, store, config, clock, links));
        let leadership = Arc::new(Leadership::new(core.clone()));
        let views = Arc::new(Views::new(core.clone(), leadership.clone()));
        let prober = Arc::new(Prober::new(core.clone(), leadership.clone(), wire));
        let elections = Arc::new(Elections::new(core.clone(), prober.clone()));
        let suspicion = Suspicion::new(core.clone(), prober.clone(), elections);
        let (batcher, batch_feeds) = Batcher::new();
        let (barriers, barrier_feed) = Barriers::new(core.clone());
        let membership = Arc::new(MembershipChanges::new(core.clone()));
        let replica = Replica {
            parts: Arc::new(Parts {
                views: views.clone(),
                membership: membership.clone(),
                transfers: Transfers::new(core.clone()),
                peers: PeerService {
                    core: core.clone(),
                    proposer: Arc::new(Proposer::new(core.clone(), batcher)),
                    barriers: Arc::new(barriers),
                    leadership,
                    prober,
                    suspicion: Arc::new(suspicion),
                    snapshots: SnapshotReceiver::new(core.clone()),
                    pending,
                },
                core: core.clone(),
                tasks: Mutex::default(),
            }),
        };
        let peers = &replica.parts.peers;
        let (apart, for_callers) = batch_feeds.tasks(&core);
        replica.spawn(peers.barriers.clone().run(barrier_feed));
        replica.spawn(apart);
        for task in for_callers {
            replica.join_at_end(beside_callers(task.boxed()));
        }
        replica.spawn(views.run());
        replica.spawn(Housekeeping::new(core.clone(), peers.proposer.clone(), membership).run());
        replica.spawn(LogRetention::new(core.clone(), snapshot_transfers).run());
        replica.spawn(peers.suspicion.clone().run());
        replica.spawn(keep_links_alive(core));
        Ok(replica)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.join_at_end(R::spawn(task));
    }

    fn join_at_end(&self, handle: R::JoinHandle<()>) {
        self.parts.tasks.lock().push(handle);
    }

    /// Formation: makes the first membership. Called on one founder alone, once all took the identity.
    ///
    /// # Errors
    /// When this node's log or vote is not blank.
    pub async fn initialize(&self, members: BTreeMap<u64, Node>) -> Result<(), ReplicaError> {
        let result = self.parts.core.raft.initialize(members).await;
        result.map_err(|e| ReplicaError(format!("failed to form the cluster: {e}")))
    }

    /// What this node knows now.
    pub fn view(&self) -> View {
        self.parts.views.current()
    }

    /// Changes when role, term, leader or membership change, not with every entry.
    pub fn watch_view(&self) -> tokio::sync::watch::Receiver<View> {
        self.parts.views.subscribe()
    }

    /// Raft's metrics as plain values.
    pub fn metrics(&self) -> RaftMetrics {
        RaftMetrics::of(&self.parts.core.raft)
    }

    /// The replicated membership, by Raft id.
    pub fn members(&self) -> Vec<Membership> {
        self.parts.core.members()
    }

    /// Whether this node leads and a quorum has confirmed it lately.
    pub fn leads_with_quorum(&self) -> bool {
        self.parts.core.leads_with_quorum()
    }

    /// Proposes ONE ordered batch and waits until it is applied HERE. One verdict a draft, in order. The caller keeps at
    /// most one batch of a connection in flight; that keeps the connection's order. Returns within [`WRITE_DEADLINE`].
    pub async fn propose(&self, drafts: Vec<Draft>) -> Vec<Verdict> {
        self.propose_by(drafts, WRITE_DEADLINE).await
    }

    /// As [`Replica::propose`], but returns within `within`: the caller's requests may have waited before. The leader that a
    /// batch is forwarded to answers 50 ms earlier.
    pub async fn propose_by(&self, drafts: Vec<Draft>, within: Duration) -> Vec<Verdict> {
        self.parts.peers.proposer.propose_by(drafts, within).await
    }

    /// A read barrier: when it returns, this node has applied all that was acknowledged before the call.
    ///
    /// # Errors
    /// [`NoQuorum`] after [`WRITE_DEADLINE`], or when the replica stops.
    pub async fn linear(&self) -> Result<(), NoQuorum> {
        self.parts.peers.barriers.linear().await
    }

    /// A client's request for a leader; returns the winner's number.
    ///
    /// # Errors
    /// `LeaderAlive` when the leader answers a probe; `NoQuorum` after
    /// [`CAMPAIGN_DEADLINE`](messagebase_protocol::limits::CAMPAIGN_DEADLINE).
    pub async fn campaign(&self) -> Result<u16, CampaignError> {
        self.parts.peers.suspicion.campaign().await
    }

    /// A connection from or to this peer broke. If it leads, it is probed.
    pub fn peer_lost(&self, raft_id: u64) {
        self.parts.peers.suspicion.peer_lost(raft_id);
    }

    /// Answers one frame of a peer that was authenticated as `from_raft_id`. Frames may be handled concurrently. Those of a
    /// [`Purpose::Snapshot`](messagebase_protocol::peer::Purpose::Snapshot) connection come one at a time, because their
    /// sender waits for each answer.
    pub async fn serve(&self, from_raft_id: u64, frame: Vec<u8>) -> Vec<u8> {
        self.parts.peers.serve(from_raft_id, frame).await
    }

    /// Adds a node as a learner under a new Raft id, which is returned. With `promote` the leader makes it a voter once it
    /// has caught up.
    ///
    /// # Errors
    /// On any node but the leader; when it is a member already.
    pub async fn add_learner(
        &self,
        node: u16,
        client: String,
        peer: String,
        promote: bool,
    ) -> Result<u64, MemberError> {
        let membership = &self.parts.membership;
        membership.add_learner(node, client, peer, promote).await
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// On any node but the leader; while it is far behind.
    pub async fn promote(&self, node: u16) -> Result<(), MemberError> {
        self.parts.membership.promote(node).await
    }

    /// Removes a node from the membership.
    ///
    /// # Errors
    /// On any node but the leader; for the leader itself and for the last voter.
    pub async fn remove(&self, node: u16) -> Result<(), MemberError> {
        self.parts.membership.remove(node).await
    }

    /// Removes all of the node's Raft ids and adds its next generation as a learner, which becomes a voter if the node voted
    /// or was to vote. Returns the new Raft id, for the blank node to adopt.
    ///
    /// # Errors
    /// On any node but the leader; for the leader itself.
    pub async fn replace(&self, node: u16) -> Result<u64, MemberError> {
        self.parts.membership.replace(node).await
    }

    /// Hands leadership to a voter and waits until it leads.
    ///
    /// # Errors
    /// On any node but the leader, for anything but a voter, or when another node came to lead.
    pub async fn transfer(&self, to_node: u16) -> Result<(), MemberError> {
        self.parts.transfers.transfer(to_node).await
    }

    /// Before a graceful stop: hands leadership, if held, to the most up-to-date voter; waits at most a second.
    pub async fn step_down_for_stop(&self) {
        self.parts.transfers.step_down_for_stop().await;
    }

    /// Resolves when replication has failed for good (the store, most likely), with the reason. Never on shutdown.
    pub async fn failed(&self) -> String {
        let core = &self.parts.core;
        // These metrics change seldom, the others with every step; the senders of all end with openraft.
        let mut metrics = core.raft.server_metrics();
        while metrics.changed().await.is_ok() {}
        let ended = core.raft.metrics().borrow_watched().running_state.clone();
        let reason = ended.err().map_or_else(
            || "replication ended unexpectedly".into(),
            |error| error.to_string(),
        );
        if core.is_stopping() {
            // Stopped on purpose: the caller is dropped with the node.
            return std::future::pending().await;
        }
        reason
    }

    /// Stops Raft and its tasks; proposals in flight answer `Closing`.
    pub async fn shutdown(&self) {
        self.parts.core.stop();
        let tasks = std::mem::take(&mut *self.parts.tasks.lock());
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a replication task ended badly");
            }
        }
        if let Err(error) = self.parts.core.raft.shutdown().await {
            tracing::error!(%error, "failed to stop replication");
        }
    }
}

async fn start_openraft<R: AsyncRuntime, W: Wire>(
    config: &ReplicaConfig,
    store: &Store,
    network: Network<R, W>,
) -> Result<OpenRaft<R>, ReplicaError> {
    let log = LogStore::<R>::new(store.clone());
    let machine = StateMachine::<R>::new(store.clone());
    let timing = Arc::new(config.for_openraft()?);
    OpenRaft::<R>::new(config.raft_id, timing, network, log, machine)
        .await
        .map_err(|e| ReplicaError(format!("failed to start replication: {e}")))
}

/// Keeps connections of each kind to the other members open.
async fn keep_links_alive<R: AsyncRuntime, W: Wire>(core: Arc<Core<R, W>>) {
    let check = async || {
        let others = core.members().into_iter().map(|member| member.raft_id);
        let targets: Vec<Target> = others
            .filter(|id| *id != core.raft_id())
            .filter_map(|id| core.target(id))
            .collect();
        core.links.keep_alive(&targets).await;
        R::sleep(KEEP_ALIVE_EVERY).await;
    };
    while core.unless_stopped(check()).await.is_some() {}
}
