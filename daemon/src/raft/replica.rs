//! The facade.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use messagebase_protocol::json::{LogPosition, MemberInfo};
use messagebase_protocol::role::NodeRole;
use openraft::async_runtime::{Instant, Select2, WatchReceiver};
use openraft::{AsyncRuntime, Config, Raft, ServerState, SnapshotPolicy};
use tokio::sync::{mpsc, oneshot};

use super::api::{Target, View, Wire};
use super::group::{Groups, PROPOSALS_MAX, Way};
use super::links::PeerLinks;
use super::log_store::LogStore;
use super::network::Network;
use super::notices::Askers;
use super::receivers::Receivers;
use super::serve::Incoming;
use super::state_machine::StateMachine;
use super::suspicion::FoundDead;
use super::types::{Node, RaftLogId, Types, Vote, node_of};
use crate::change::Settings;
use crate::store::Store;
use crate::watch;

/// Wall clock, Unix ms; read on the leader alone, to stamp changes.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How a replica behaves.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// This node's Raft id, as in its file.
    pub raft_id: u64,
    /// As in its file; snapshots of other clusters are refused.
    pub cluster_id: String,
    /// Bytes of change log kept for followers that were away.
    pub change_log_bytes: u64,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout.
    pub election_max: Duration,
    /// This node's file's settings; proposed when it leads and the replicated ones differ.
    pub settings: Settings,
}

impl ReplicaConfig {
    /// With the timing of DESIGN 6.
    pub fn new(
        raft_id: u64,
        cluster_id: String,
        change_log_bytes: u64,
        settings: Settings,
    ) -> Self {
        ReplicaConfig {
            raft_id,
            cluster_id,
            change_log_bytes,
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            settings,
        }
    }
}

/// Why a replica can't start or go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ReplicaError(pub String);

/// Why the membership was not changed, or leadership not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Ask the leader.
    #[error("this node does not lead{}", .leader.map(|n| format!("; node {n} does")).unwrap_or_default())]
    NotLeader {
        /// Its number, if known.
        leader: Option<u16>,
    },
    /// It may still happen.
    #[error("no majority of the nodes answered in time")]
    NoQuorum,
    /// Nothing was changed; it will be possible.
    #[error("node {0} is still catching up")]
    Behind(u16),
    /// Nothing was changed.
    #[error("{0}")]
    Refused(String),
}

/// A member of the replicated membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Raft id.
    pub raft_id: u64,
    /// Number and addresses.
    pub node: Node,
    /// Whether it votes.
    pub voter: bool,
    /// Last index that it is known to hold; only the leader knows.
    pub matched: Option<u64>,
}

/// The openraft instance behind a replica.
pub(crate) type Core<R> = Raft<Types<R>, StateMachine<R>>;

/// Read barriers that may wait for a round; more wait for a place.
const BARRIER_QUEUE: usize = 4_096;
/// Installing a snapshot's last piece, as openraft counts it; our network has limits of its own.
const INSTALL_TIMEOUT_MS: u64 = 120_000;
/// Entries in one append, and in one write of the log.
const APPEND_ENTRIES: u64 = 2_000;

/// One node's part in replication. Cheap to clone; all clones are the same replica.
pub struct Replica<R: AsyncRuntime, W: Wire> {
    pub(super) inner: Arc<Inner<R, W>>,
}

impl<R: AsyncRuntime, W: Wire> Clone for Replica<R, W> {
    fn clone(&self) -> Self {
        Replica {
            inner: self.inner.clone(),
        }
    }
}

/// What the clones share.
pub(super) struct Inner<R: AsyncRuntime, W: Wire> {
    pub(super) raft: Core<R>,
    pub(super) store: Store,
    pub(super) config: ReplicaConfig,
    pub(super) wire: W,
    pub(super) clock: Clock,
    /// Kept connections to all members.
    pub(super) links: Arc<PeerLinks<W>>,
    pub(super) receivers: Arc<Receivers<R::Instant>>,
    pub(super) askers: Arc<Askers>,
    /// The snapshot that is being received; taken out while a piece is written, so never locked across an await.
    pub(super) incoming: Mutex<Option<Incoming>>,
    /// Files that were begun for received snapshots; numbers their names.
    pub(super) received: AtomicU64,
    /// Changes of the membership whose tasks live on this node.
    pub(super) changes: Arc<AtomicU32>,
    started: R::Instant,
    /// When the leader was last heard of, µs since `started`; 0: never.
    heard: AtomicU64,
    /// Counts broken connections with the leader.
    pub(super) lost: watch::Sender<u64>,
    /// The leader that this node has found dead with own eyes. Locked for a copy only.
    pub(super) found_dead: Mutex<Option<FoundDead<R::Instant>>>,
    /// The vote under which this node leads or led last, and since when. Locked for a copy only.
    pub(super) led: Mutex<Option<(Vote, R::Instant)>>,
    /// Whether this node is seeing to an election: one at a time, a second would only void the first.
    pub(super) electing: AtomicBool,
    /// Feeds the barrier task.
    pub(super) barriers: mpsc::Sender<oneshot::Sender<()>>,
    /// Feeds the task that proposes in groups, of callers here and of peers: were what these forward grouped by itself,
    /// each group of it would cost a sync of its own on every node.
    pub(super) proposals: Groups<R::Instant>,
    /// Feeds one on replication's own thread: for what must not wait for threads that callers have work for.
    pub(super) proposals_apart: Groups<R::Instant>,
    /// Feeds the task that forwards in groups.
    pub(super) forwards: Groups<R::Instant>,
    /// True from shutdown on; all tasks and waits end.
    stop: watch::Sender<bool>,
    view: tokio::sync::watch::Sender<View>,
    /// Our tasks, joined at shutdown.
    tasks: Mutex<Vec<R::JoinHandle<()>>>,
}

impl<R: AsyncRuntime, W: Wire> Replica<R, W> {
    /// Starts Raft on an opened store whose writer runs. `beside_callers` starts a task on the threads of those who
    /// propose: the tasks that gather their changes wake each of them, and waking another thread costs more than the rest
    /// of it.
    ///
    /// # Errors
    /// When the timing makes no sense or the store can't be read.
    pub async fn start(
        store: Store,
        config: ReplicaConfig,
        wire: W,
        clock: Clock,
        beside_callers: impl Fn(BoxFuture<'static, ()>) -> R::JoinHandle<()> + Send,
    ) -> Result<Self, ReplicaError> {
        let raft_config = Arc::new(raft_config(&config)?);
        let links = Arc::new(PeerLinks::new(&wire));
        let receivers = Arc::<Receivers<R::Instant>>::default();
        let askers = Arc::<Askers>::default();
        let network = Network::<R, W>::new(
            config.raft_id,
            store.clone(),
            wire.clone(),
            links.clone(),
            receivers.clone(),
            askers.clone(),
        );
        let log = LogStore::<R>::new(store.clone());
        let machine = StateMachine::<R>::new(store.clone());
        let raft = Core::<R>::new(config.raft_id, raft_config, network, log, machine)
            .await
            .map_err(|e| ReplicaError(format!("failed to start replication: {e}")))?;
        let (barriers, barrier_queue) = mpsc::channel(BARRIER_QUEUE);
        let (proposals, proposal_queue) = mpsc::channel(PROPOSALS_MAX);
        let (proposals_apart, apart_queue) = mpsc::channel(PROPOSALS_MAX);
        let (forwards, forward_queue) = mpsc::channel(PROPOSALS_MAX);
        let replica = Replica {
            inner: Arc::new(Inner {
                raft,
                store,
                config,
                wire,
                clock,
                links,
                receivers,
                askers,
                incoming: Mutex::default(),
                received: AtomicU64::new(0),
                changes: Arc::default(),
                started: R::Instant::now(),
                heard: AtomicU64::new(0),
                lost: watch::Sender::new(0),
                found_dead: Mutex::default(),
                led: Mutex::default(),
                electing: AtomicBool::new(false),
                barriers,
                proposals,
                proposals_apart,
                forwards,
                stop: watch::Sender::new(false),
                view: tokio::sync::watch::Sender::new(blank_view()),
                tasks: Mutex::default(),
            }),
        };
        replica.inner.view.send_replace(replica.view());
        replica.spawn(replica.clone().barrier_loop(barrier_queue));
        replica.spawn(replica.clone().group_loop(Way::Here, apart_queue));
        replica.join_at_end(beside_callers(
            replica
                .clone()
                .group_loop(Way::Here, proposal_queue)
                .boxed(),
        ));
        replica.join_at_end(beside_callers(
            replica
                .clone()
                .group_loop(Way::ToLeader, forward_queue)
                .boxed(),
        ));
        replica.spawn(replica.clone().view_loop());
        replica.spawn(replica.clone().housekeeping_loop());
        replica.spawn(replica.clone().log_loop());
        replica.spawn(replica.clone().suspicion_loop());
        replica.spawn(replica.clone().warm_loop());
        Ok(replica)
    }

    /// Formation: makes the first membership. Called on one founder alone, once all took the identity.
    ///
    /// # Errors
    /// When this node's log or vote is not blank.
    pub async fn initialize(&self, members: BTreeMap<u64, Node>) -> Result<(), ReplicaError> {
        let result = self.inner.raft.initialize(members).await;
        result.map_err(|e| ReplicaError(format!("failed to form the cluster: {e}")))
    }

    /// What this node knows, at once.
    pub fn view(&self) -> View {
        let metrics = self.inner.raft.metrics();
        let data = self.inner.raft.data_metrics();
        let last_log = data.borrow_watched().last_log;
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader;
        let members = self.members_in(metrics.membership_config.membership());
        View {
            role: match metrics.state {
                ServerState::Leader => NodeRole::Leader,
                ServerState::Candidate => NodeRole::Candidate,
                ServerState::Learner => NodeRole::Learner,
                ServerState::Follower | ServerState::Shutdown => NodeRole::Follower,
            },
            term: metrics.current_term,
            leader: leader.map(node_of),
            last_log: last_log.map(position),
            committed: metrics.local_committed.map(|id| id.index),
            applied: self.inner.store.applied().borrow().map(|id| id.index),
            ready: leader.is_some_and(|leader| {
                if leader == self.inner.config.raft_id {
                    let alone = members.iter().filter(|m| m.voter).count() == 1;
                    let acked = metrics.last_quorum_acked.map(|at| at.elapsed());
                    alone || acked.is_some_and(|ago| ago < self.inner.config.election_max)
                } else {
                    self.heard_lately()
                }
            }),
            members: members.into_iter().map(info).collect(),
        }
    }

    /// Changes when role, term, leader or membership change (not with every entry).
    pub fn watch_view(&self) -> tokio::sync::watch::Receiver<View> {
        self.inner.view.subscribe()
    }

    /// The replicated membership, by Raft id.
    pub fn members(&self) -> Vec<Membership> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut members = self.members_in(metrics.membership_config.membership());
        for member in &mut members {
            let matched = metrics
                .replication
                .as_ref()
                .and_then(|all| all.get(&member.raft_id).copied().flatten());
            member.matched = matched.map(|id| id.index);
        }
        members
    }

    /// Resolves when replication has failed for good (the store, most likely), with the reason. Never on shutdown.
    pub async fn failed(&self) -> String {
        // Those of the server change seldom, the others with every step; the senders of all go with openraft's core.
        let mut metrics = self.inner.raft.server_metrics();
        while metrics.changed().await.is_ok() {}
        let ended = self
            .inner
            .raft
            .metrics()
            .borrow_watched()
            .running_state
            .clone();
        let reason = ended.err().map_or_else(
            || "replication ended unexpectedly".into(),
            |error| error.to_string(),
        );
        if self.stopping() {
            // Stopped on purpose: whoever waits here is dropped with the node.
            return std::future::pending().await;
        }
        reason
    }

    /// Stops Raft and its tasks; proposals in flight answer `Closing`.
    pub async fn shutdown(&self) {
        self.inner.stop.send_replace(true);
        let tasks = std::mem::take(
            &mut *self
                .inner
                .tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a replication task ended badly");
            }
        }
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(%error, "failed to stop replication");
        }
    }

    // ── for the other files of this room ────────────────────────────────────────────────────────────────────────

    pub(super) fn raft_id(&self) -> u64 {
        self.inner.config.raft_id
    }

    pub(super) fn stopping(&self) -> bool {
        *self.inner.stop.borrow()
    }

    /// Resolves at shutdown.
    pub(super) async fn stopped(&self) {
        let mut stop = self.inner.stop.subscribe();
        // An error means that the replica is gone, which is as good.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// `None` once the replica stops; never let a task outlive it.
    pub(super) async fn unless_stopped<F: Future + Send>(&self, work: F) -> Option<F::Output> {
        match R::select2(self.stopped(), work).await {
            Select2::First(()) => None,
            Select2::Second(output) => Some(output),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.join_at_end(R::spawn(task));
    }

    fn join_at_end(&self, handle: R::JoinHandle<()>) {
        self.inner
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(handle);
    }

    /// Raft id of the leader that this node follows, itself included.
    pub(super) fn leader(&self) -> Option<u64> {
        self.inner
            .raft
            .server_metrics()
            .borrow_watched()
            .current_leader
    }

    /// Resolves when another leader than `from`, or none, is known.
    pub(super) async fn leader_changed(&self, from: Option<u64>) {
        let mut metrics = self.inner.raft.server_metrics();
        loop {
            if metrics.borrow_and_update().current_leader != from {
                return;
            }
            if metrics.changed().await.is_err() {
                return self.stopped().await;
            }
        }
    }

    /// Waits until this node has applied `index`; false at the deadline.
    pub(super) async fn applied(&self, index: u64, deadline: R::Instant) -> bool {
        let mut applied = self.inner.store.applied();
        // In a block of its own: the guard that `wait_for` returns must not be held, nor show in the future's type.
        let reached = async {
            applied
                .wait_for(|id| id.is_some_and(|id| id.index >= index))
                .await
                .is_ok()
        };
        matches!(R::timeout_at(deadline, reached).await, Ok(true))
    }

    /// Where a member is dialed.
    pub(super) fn target(&self, raft_id: u64) -> Option<Target> {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let node = metrics.membership_config.get_node(&raft_id)?;
        Some(Target {
            raft_id,
            node: node.node,
            peer: node.peer.clone(),
        })
    }

    /// An append of the current leader arrived at `when`; later news than that stay.
    pub(super) fn heard_of_leader(&self, when: R::Instant) {
        let micros = when
            .saturating_duration_since(self.inner.started)
            .as_micros();
        self.inner.heard.fetch_max(
            u64::try_from(micros).unwrap_or(u64::MAX).max(1),
            Ordering::Relaxed,
        );
    }

    /// When the leader was last heard of; before that, when this replica started.
    pub(super) fn heard_at(&self) -> R::Instant {
        self.inner.started + Duration::from_micros(self.inner.heard.load(Ordering::Relaxed))
    }

    fn heard_lately(&self) -> bool {
        let heard = self.inner.heard.load(Ordering::Relaxed);
        let ago = self
            .inner
            .started
            .elapsed()
            .saturating_sub(Duration::from_micros(heard));
        heard != 0 && ago < self.inner.config.election_max
    }

    fn members_in(&self, membership: &super::types::RaftMembership) -> Vec<Membership> {
        // While a change is under way there are two sets, and majorities of both are needed. Who is only in the newer one
        // can't stand in for anybody yet: reported as a voter, its arrival would invite the operator to stop another.
        let voters = membership.get_joint_config().first();
        membership
            .nodes()
            .map(|(id, node)| Membership {
                raft_id: *id,
                node: node.clone(),
                voter: voters.is_some_and(|voters| voters.contains(id)),
                matched: None,
            })
            .collect()
    }

    async fn view_loop(self) {
        let mut metrics = self.inner.raft.server_metrics();
        loop {
            self.note_leading();
            self.inner.view.send_replace(self.view());
            match self.unless_stopped(metrics.changed()).await {
                Some(Ok(())) => {}
                Some(Err(_)) | None => return,
            }
        }
    }
}

fn raft_config(config: &ReplicaConfig) -> Result<Config, ReplicaError> {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let raft = Config {
        cluster_name: config.cluster_id.clone(),
        heartbeat_interval: ms(config.heartbeat),
        election_timeout_min: ms(config.election_min),
        election_timeout_max: ms(config.election_max),
        install_snapshot_timeout: INSTALL_TIMEOUT_MS,
        max_payload_entries: APPEND_ENTRIES,
        max_append_entries: Some(APPEND_ENTRIES),
        // Snapshots and purges go by bytes, see `upkeep`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // A restarted leader that goes on leading would serve reads from a state that lags its own commits.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    raft.validate()
        .map_err(|e| ReplicaError(format!("the timing of replication makes no sense: {e}")))
}

fn position(id: RaftLogId) -> LogPosition {
    LogPosition {
        term: id.leader_id.term,
        leader: node_of(id.leader_id.node_id),
        index: id.index,
    }
}

fn info(member: Membership) -> MemberInfo {
    MemberInfo {
        node: member.node.node,
        client: member.node.client,
        voter: member.voter,
    }
}

fn blank_view() -> View {
    View {
        role: NodeRole::Follower,
        ..View::default()
    }
}
