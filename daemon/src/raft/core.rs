//! What all parts of a replica share: openraft, the store, the links, the news of the leader, and the end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::{Instant, Select2, WatchReceiver};
use openraft::{AsyncRuntime, Raft, ServerState};

use super::api::{MemberError, Membership, Target, Wire};
use super::config::{Clock, ReplicaConfig};
use super::peer_links::PeerLinks;
use super::state_machine::StateMachine;
use super::types::{RaftLogId, RaftMembership, Types, Vote, node_of};
use crate::store::Store;
use crate::watch;

/// The openraft instance behind a replica.
pub(super) type OpenRaft<R> = Raft<Types<R>, StateMachine<R>>;

/// Pause before an attempt is repeated when nothing says that it would succeed now.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Shared by the parts of one replica.
pub(super) struct Core<R: AsyncRuntime, W: Wire> {
    pub(super) raft: OpenRaft<R>,
    pub(super) store: Store,
    pub(super) config: ReplicaConfig,
    pub(super) clock: Clock,
    pub(super) links: Arc<PeerLinks<W>>,
    started: R::Instant,
    /// When the leader was last heard of, µs since `started`; 0: never.
    last_heard: AtomicU64,
    /// True from shutdown on; all tasks and waits end.
    stop: watch::Sender<bool>,
}

impl<R: AsyncRuntime, W: Wire> Core<R, W> {
    pub(super) fn new(
        raft: OpenRaft<R>,
        store: Store,
        config: ReplicaConfig,
        clock: Clock,
        links: Arc<PeerLinks<W>>,
    ) -> Self {
        Core {
            raft,
            store,
            config,
            clock,
            links,
            started: R::Instant::now(),
            last_heard: AtomicU64::new(0),
            stop: watch::Sender::new(false),
        }
    }

    pub(super) fn raft_id(&self) -> u64 {
        self.config.raft_id
    }

    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Resolves at shutdown.
    pub(super) async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // An error means that the replica is gone, which is as good.
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// `None` once the replica stops. No task may outlive it.
    pub(super) async fn unless_stopped<F: Future + Send>(&self, work: F) -> Option<F::Output> {
        match R::select2(self.stopped(), work).await {
            Select2::First(()) => None,
            Select2::Second(output) => Some(output),
        }
    }

    pub(super) fn vote(&self) -> Vote {
        self.raft.server_metrics().borrow_watched().vote
    }

    pub(super) fn last_log(&self) -> Option<RaftLogId> {
        self.raft.data_metrics().borrow_watched().last_log
    }

    /// Raft id of the leader that this node follows, itself included.
    pub(super) fn leader(&self) -> Option<u64> {
        self.raft.server_metrics().borrow_watched().current_leader
    }

    /// # Errors
    /// `NotLeader`, with the leader's number if it is known.
    pub(super) fn ensure_leads(&self) -> Result<(), MemberError> {
        let leader = self.leader();
        if leader == Some(self.raft_id()) {
            return Ok(());
        }
        Err(MemberError::NotLeader {
            leader: leader.map(node_of),
        })
    }

    /// Whether this node leads and a quorum has confirmed it lately.
    pub(super) fn leads_with_quorum(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let alone = metrics.membership_config.voter_ids().count() == 1;
        let acked = metrics
            .last_quorum_acked
            .is_some_and(|at| at.elapsed() < self.config.election_max);
        metrics.state == ServerState::Leader && (alone || acked)
    }

    /// Resolves when another leader than `from`, or none, is known.
    pub(super) async fn leader_changed(&self, from: Option<u64>) {
        let mut metrics = self.raft.server_metrics();
        loop {
            if metrics.borrow_and_update().current_leader != from {
                return;
            }
            if metrics.changed().await.is_err() {
                return self.stopped().await;
            }
        }
    }

    /// Resolves with the leader once the vote is committed and not `old`.
    pub(super) async fn new_leader(&self, old: Vote) -> u64 {
        let mut metrics = self.raft.server_metrics();
        loop {
            {
                let now = metrics.borrow_and_update();
                if let Some(leader) = now.current_leader
                    && (now.vote.leader_id != old.leader_id || !old.committed)
                    && now.vote.committed
                {
                    return leader;
                }
            }
            if metrics.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Waits for a reason to try again: a leader other than `tried`, or a short pause.
    pub(super) async fn wait_before_retry(&self, tried: Option<u64>, deadline: R::Instant) {
        R::select3(
            self.leader_changed(tried),
            R::sleep(RETRY_PAUSE),
            R::sleep_until(deadline),
        )
        .await;
    }

    /// Waits until this node has applied `index`; false at the deadline.
    pub(super) async fn applied(&self, index: u64, deadline: R::Instant) -> bool {
        let mut applied = self.store.applied();
        // In a block of its own: the guard that `wait_for` returns must not be held, nor show in the future's type.
        let reached = async {
            applied
                .wait_for(|id| id.is_some_and(|id| id.index >= index))
                .await
                .is_ok()
        };
        matches!(R::timeout_at(deadline, reached).await, Ok(true))
    }

    /// An append of the current leader arrived at `when`. A later time that is known already stays.
    pub(super) fn heard_of_leader(&self, when: R::Instant) {
        let micros = when.saturating_duration_since(self.started).as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX).max(1);
        self.last_heard.fetch_max(micros, Ordering::Relaxed);
    }

    /// When the leader was last heard of; before that, when this replica started.
    pub(super) fn heard_at(&self) -> R::Instant {
        self.started + Duration::from_micros(self.last_heard.load(Ordering::Relaxed))
    }

    /// Whether the leader was heard of within an election timeout.
    pub(super) fn heard_lately(&self) -> bool {
        let heard = self.last_heard.load(Ordering::Relaxed);
        let ago = self
            .started
            .elapsed()
            .saturating_sub(Duration::from_micros(heard));
        heard != 0 && ago < self.config.election_max
    }

    /// Where a member is dialed.
    pub(super) fn target(&self, raft_id: u64) -> Option<Target> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let node = metrics.membership_config.get_node(&raft_id)?;
        Some(Target {
            raft_id,
            node: node.node,
            peer: node.peer.clone(),
        })
    }

    /// The replicated membership, by Raft id.
    pub(super) fn members(&self) -> Vec<Membership> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut members = members_in(metrics.membership_config.membership());
        for member in &mut members {
            let matched = metrics
                .replication
                .as_ref()
                .and_then(|all| all.get(&member.raft_id).copied().flatten());
            member.matched = matched.map(|id| id.index);
        }
        members
    }
}

/// The members without what only a leader knows.
pub(super) fn members_in(membership: &RaftMembership) -> Vec<Membership> {
    // A change in progress has two sets of voters, and majorities of both are needed. A member of the newer set alone can't
    // replace anybody yet: reported as a voter, it would invite the operator to stop another node.
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
