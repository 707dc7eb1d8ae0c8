//! One row of `mbctl status`, from local state only: it must be available when the cluster is not.

use messagebase_protocol::peer::{MemberRow, NodeReport};

use crate::context::{NodeContext, Replica};
use crate::raft::RAFT_ID_GENERATION;

/// Never waits for the cluster; the counts come from this node's file and are 0 when it can't be read in time.
pub async fn report(context: &NodeContext) -> NodeReport {
    let identity = context.store.identity();
    let counts = match context.store.readers().run(crate::state::read::stats).await {
        Ok(counts) => Some(counts),
        Err(e) => {
            tracing::warn!("failed to count users and messages for a report: {e}");
            None
        }
    };
    let view = context.replica().map(Replica::view).unwrap_or_default();
    NodeReport {
        node: context.node,
        cluster_id: identity
            .as_ref()
            .map(|identity| identity.cluster_id.clone()),
        raft_id: identity.map_or(0, |identity| identity.raft_id),
        role: view.role,
        waiting_for: context.participation.waiting_for(),
        term: view.term,
        leader: view.leader,
        last_log: view.last_log,
        committed: view.committed,
        applied: view.applied,
        users: counts.as_ref().map_or(0, |counts| counts.users),
        queued: counts.as_ref().map_or(0, |counts| counts.queued),
        sessions: context.fanout.sessions() as u64,
        db_bytes: context.store.db_bytes(),
        uptime_ms: context.lifecycle.uptime_ms(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ready: view.ready,
        pid: std::process::id(),
        members: member_rows(context),
    }
}

/// The replicated membership as this node knows it, by node number.
pub fn member_rows(context: &NodeContext) -> Vec<MemberRow> {
    let mut rows: Vec<MemberRow> = context
        .replica()
        .map(|replica| replica.members())
        .unwrap_or_default()
        .into_iter()
        .map(|member| MemberRow {
            node: member.node.node,
            generation: member.raft_id / RAFT_ID_GENERATION,
            client: member.node.client,
            peer: member.node.peer,
            voter: member.voter,
        })
        .collect();
    rows.sort_by_key(|row| (row.node, row.generation));
    rows
}
