//! Logs the history of leaders and members, for an operator who reads it later.

use std::sync::Arc;

use messagebase_protocol::json::MemberInfo;
use tracing::info;

use crate::context::NodeContext;

/// Logs each change of leader and membership, once, until the node stops.
pub async fn write(context: Arc<NodeContext>) {
    let Some(replica) = context.replica() else {
        return;
    };
    let mut views = replica.watch_view();
    let (mut leadership, mut members) = ((0, None), Vec::new());
    // A cluster that has just formed, or a node that has just started, has no leader yet: that is not worth a line.
    let mut had_leader = false;
    loop {
        let view = views.borrow_and_update().clone();
        had_leader |= view.leader.is_some();
        if had_leader && (view.term, view.leader) != leadership {
            leadership = (view.term, view.leader);
            match view.leader {
                Some(node) if node == context.node => {
                    info!("this node leads in term {}", view.term);
                }
                Some(node) => info!("node {node} leads in term {}", view.term),
                None => info!("no leader is known in term {}", view.term),
            }
        }
        if view.members != members {
            info!("members: {}", name(&view.members));
            members = view.members;
        }
        tokio::select! {
            () = context.lifecycle.stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() {
                // Replication has ended; the task that watches it logs why.
                return std::future::pending().await;
            },
        }
    }
}

fn name(members: &[MemberInfo]) -> String {
    let one = |member: &MemberInfo| {
        let role = if member.voter { "votes" } else { "learns" };
        format!("node {} ({role})", member.node)
    };
    members.iter().map(one).collect::<Vec<_>>().join(", ")
}
