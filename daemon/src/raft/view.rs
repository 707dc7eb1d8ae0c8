//! What a replica tells the rest of the daemon of itself: role, leader, membership, position.

use std::sync::Arc;

use messagebase_protocol::json::{LogPosition, MemberInfo};
use messagebase_protocol::role::NodeRole;
use openraft::async_runtime::{Instant, WatchReceiver};
use openraft::{AsyncRuntime, ServerState};
use tokio::sync::watch;

use super::api::{Membership, View, Wire};
use super::core::{Core, members_in};
use super::leadership::Leadership;
use super::types::{RaftLogId, node_of};

/// Publishes the view.
pub(super) struct Views<R: AsyncRuntime, W: Wire> {
    core: Arc<Core<R, W>>,
    leadership: Arc<Leadership<R, W>>,
    sender: watch::Sender<View>,
}

impl<R: AsyncRuntime, W: Wire> Views<R, W> {
    pub(super) fn new(core: Arc<Core<R, W>>, leadership: Arc<Leadership<R, W>>) -> Self {
        let sender = watch::Sender::new(view_of(&core));
        Views {
            core,
            leadership,
            sender,
        }
    }

    /// What this node knows now.
    pub(super) fn current(&self) -> View {
        view_of(&self.core)
    }

    /// Changes when role, term, leader or membership change, not with every entry.
    pub(super) fn subscribe(&self) -> watch::Receiver<View> {
        self.sender.subscribe()
    }

    pub(super) async fn run(self: Arc<Self>) {
        let mut metrics = self.core.raft.server_metrics();
        loop {
            self.leadership.note();
            self.sender.send_replace(self.current());
            match self.core.unless_stopped(metrics.changed()).await {
                Some(Ok(())) => {}
                Some(Err(_)) | None => return,
            }
        }
    }
}

fn view_of<R: AsyncRuntime, W: Wire>(core: &Core<R, W>) -> View {
    let metrics = core.raft.metrics();
    let data = core.raft.data_metrics();
    let last_log = data.borrow_watched().last_log;
    let metrics = metrics.borrow_watched();
    let leader = metrics.current_leader;
    let members = members_in(metrics.membership_config.membership());
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
        applied: core.store.applied().borrow().map(|id| id.index),
        ready: leader.is_some_and(|leader| {
            if leader == core.raft_id() {
                let alone = members.iter().filter(|m| m.voter).count() == 1;
                let acked = metrics.last_quorum_acked.map(|at| at.elapsed());
                alone || acked.is_some_and(|ago| ago < core.config.election_max)
            } else {
                core.heard_lately()
            }
        }),
        members: members.into_iter().map(info).collect(),
    }
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
