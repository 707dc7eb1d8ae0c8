//! Changes of the membership: on the leader, one at a time, each a replicated entry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{AsyncRuntime, ChangeMembers};

use super::api::{MemberError, Membership, Wire};
use super::core::Core;
use super::types::{Node, node_of, raft_id};

/// What a change of the membership may take.
const CHANGE_WAIT: Duration = Duration::from_secs(5);
/// A learner at most this many entries behind may vote: it keeps up.
pub(super) const CAUGHT_UP_ENTRIES: u64 = 1_000;

/// Changes the membership.
pub(super) struct MembershipChanges<R: AsyncRuntime, W: Wire> {
    core: Arc<Core<R, W>>,
    /// Changes whose tasks run on this node.
    in_progress: Arc<AtomicU32>,
}

impl<R: AsyncRuntime, W: Wire> MembershipChanges<R, W> {
    pub(super) fn new(core: Arc<Core<R, W>>) -> Self {
        MembershipChanges {
            core,
            in_progress: Arc::default(),
        }
    }

    /// Adds a node as a learner under a new Raft id, which is returned. With `promote` the leader makes it a voter once it
    /// has caught up.
    ///
    /// # Errors
    /// On any node but the leader; when it is a member already.
    pub(super) async fn add_learner(
        &self,
        node: u16,
        client: String,
        peer: String,
        promote: bool,
    ) -> Result<u64, MemberError> {
        self.core.ensure_leads()?;
        if self.member(node).is_some() {
            return Err(MemberError::Refused(format!(
                "node {node} is a member already. Hint: mbctl member replace {node} takes it in anew"
            )));
        }
        // A node that was a member once must not come back under its old id. The index of the change is greater than all
        // generations given so far, each of which took entries of its own.
        let generation = self
            .core
            .last_log()
            .map_or(0, |id| id.index)
            .saturating_add(2);
        let id = raft_id(generation, node);
        let new = Node {
            node,
            client,
            peer,
            promote,
        };
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, new)])))
            .await?;
        Ok(id)
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// On any node but the leader; while it is far behind.
    pub(super) async fn promote(&self, node: u16) -> Result<(), MemberError> {
        self.core.ensure_leads()?;
        let member = self.member(node).ok_or_else(|| no_member(node))?;
        if member.voter {
            return Ok(());
        }
        if !self.caught_up(&member) {
            return Err(MemberError::Behind(node));
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([member.raft_id])))
            .await
    }

    /// Removes a node from the membership.
    ///
    /// # Errors
    /// On any node but the leader; for the leader itself and for the last voter.
    pub(super) async fn remove(&self, node: u16) -> Result<(), MemberError> {
        self.core.ensure_leads()?;
        let member = self.member(node).ok_or_else(|| no_member(node))?;
        self.refuse_self(&member, "removing")?;
        self.change(removal(&member)).await
    }

    /// Removes all of the node's Raft ids and adds its next generation as a learner, which becomes a voter if the node voted
    /// or was to vote. Returns the new Raft id, for the blank node to adopt. Each call gives out another id: a node may have
    /// used an earlier one and lost it with another disk.
    ///
    /// # Errors
    /// On any node but the leader; for the leader itself.
    pub(super) async fn replace(&self, node: u16) -> Result<u64, MemberError> {
        self.core.ensure_leads()?;
        let generations: Vec<Membership> = self
            .core
            .members()
            .into_iter()
            .filter(|m| m.node.node == node)
            .collect();
        let newest = generations
            .iter()
            .max_by_key(|m| m.raft_id)
            .ok_or_else(|| no_member(node))?;
        for generation in &generations {
            self.refuse_self(generation, "replacing")?;
        }
        let id = raft_id(newest.raft_id / super::types::RAFT_ID_GENERATION + 1, node);
        let promote = generations
            .iter()
            .any(|member| member.voter || member.node.promote);
        let new = Node {
            promote,
            ..newest.node.clone()
        };
        // In one change: between two, a crash would leave the cluster without the node and its addresses.
        let mut changes: Vec<_> = generations.iter().map(removal).collect();
        changes.push(ChangeMembers::AddNodes(BTreeMap::from([(id, new)])));
        self.change(ChangeMembers::Batch(changes)).await?;
        Ok(id)
    }

    /// The member of that number.
    fn member(&self, node: u16) -> Option<Membership> {
        self.core
            .members()
            .into_iter()
            .find(|m| m.node.node == node)
    }

    fn refuse_self(&self, member: &Membership, doing: &str) -> Result<(), MemberError> {
        if member.raft_id != self.core.raft_id() {
            return Ok(());
        }
        let node = member.node.node;
        Err(MemberError::Refused(format!(
            "node {node} leads; {doing} it would interrupt service. Hint: mbctl transfer to another node first"
        )))
    }

    /// Whether the learner holds nearly all of the log, as its leader knows.
    pub(super) fn caught_up(&self, member: &Membership) -> bool {
        let last = self.core.last_log().map_or(0, |id| id.index);
        member
            .matched
            .is_some_and(|matched| matched.saturating_add(CAUGHT_UP_ENTRIES) >= last)
    }

    /// Promotes the learners that want it and have caught up. The leader's housekeeping calls this.
    pub(super) async fn promote_ready_learners(&self) {
        for member in self
            .core
            .members()
            .into_iter()
            .filter(|m| !m.voter && m.node.promote)
        {
            if !self.caught_up(&member) {
                continue;
            }
            match self
                .change(ChangeMembers::AddVoterIds(BTreeSet::from([member.raft_id])))
                .await
            {
                Ok(()) => tracing::info!(
                    node = member.node.node,
                    "the node has caught up and votes now"
                ),
                Err(error) => {
                    tracing::debug!(node = member.node.node, %error, "can't make it a voter yet")
                }
            }
        }
    }

    /// Finishes a change whose leader died before its end. openraft changes voters by two proposals, and the caller makes the
    /// second one. Until it comes, majorities of the old and the new voters are both needed.
    pub(super) async fn finish_change(&self) {
        let joint = {
            let metrics = self.core.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            metrics
                .membership_config
                .membership()
                .get_joint_config()
                .len()
                > 1
        };
        // A change in progress on this node makes its second proposal itself.
        if !joint || self.in_progress.load(Ordering::SeqCst) > 0 {
            return;
        }
        // Adds no voter: this proposes the newer set of voters alone.
        match self
            .change(ChangeMembers::AddVoterIds(BTreeSet::new()))
            .await
        {
            Ok(()) => {
                tracing::info!("finished a change of the membership that another leader had begun")
            }
            Err(error) => tracing::debug!(%error, "can't finish the change of the membership yet"),
        }
    }

    /// Makes a change in a task of its own: when the wait for it ends, both of its proposals still come.
    async fn change(&self, change: ChangeMembers<u64, Node>) -> Result<(), MemberError> {
        let core = self.core.clone();
        let in_progress = InProgress::of(&self.in_progress);
        let task = R::spawn(async move {
            let _in_progress = in_progress;
            core.unless_stopped(core.raft.change_membership(change, false))
                .await
        });
        let result = match R::timeout(CHANGE_WAIT, task).await {
            Err(_) | Ok(Ok(None)) => return Err(MemberError::NoQuorum),
            Ok(Ok(Some(result))) => result,
            Ok(Err(error)) => {
                return Err(MemberError::Refused(format!(
                    "the change ended badly: {error}"
                )));
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Err(MemberError::NotLeader {
                    leader: to.leader_id.map(node_of),
                })
            }
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => {
                Err(MemberError::NoQuorum)
            }
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                Err(MemberError::Refused(change_refused(error)))
            }
            Err(error) => Err(MemberError::Refused(error.to_string())),
        }
    }
}

/// Counts a change while its task lives.
struct InProgress(Arc<AtomicU32>);

impl InProgress {
    fn of(changes: &Arc<AtomicU32>) -> InProgress {
        changes.fetch_add(1, Ordering::SeqCst);
        InProgress(changes.clone())
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn removal(member: &Membership) -> ChangeMembers<u64, Node> {
    let id = BTreeSet::from([member.raft_id]);
    if member.voter {
        ChangeMembers::RemoveVoters(id)
    } else {
        ChangeMembers::RemoveNodes(id)
    }
}

fn no_member(node: u16) -> MemberError {
    MemberError::Refused(format!("node {node} is no member. Hint: mbctl member list"))
}

fn change_refused<A, B>(error: ChangeMembershipError<A, B>) -> String
where
    ChangeMembershipError<A, B>: std::fmt::Display,
    A: openraft::vote::RaftCommittedLeaderId,
    B: openraft::NodeId,
{
    match error {
        ChangeMembershipError::InProgress(_) => {
            "another change of the membership is under way. Hint: try again in a moment".into()
        }
        ChangeMembershipError::EmptyMembership(_) => "the last voter can't be taken out".into(),
        other => other.to_string(),
    }
}
