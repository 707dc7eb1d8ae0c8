//! What an operator wants to find in the log in the morning: who led when, and who the members were.

use std::sync::Arc;

use messagebase_protocol::json::MemberInfo;
use tracing::info;

use super::Shared;

/// Says each change of leader and membership, once, until the node stops.
pub async fn write(shared: Arc<Shared>) {
    let Some(replica) = shared.replica() else {
        return;
    };
    let mut views = replica.watch_view();
    let (mut leader, mut members) = (None, Vec::new());
    loop {
        let view = views.borrow_and_update().clone();
        if (view.term, view.leader) != leader.unwrap_or_default() {
            leader = Some((view.term, view.leader));
            match view.leader {
                Some(node) if node == shared.node => info!("this node leads in term {}", view.term),
                Some(node) => info!("node {node} leads in term {}", view.term),
                None => info!("no leader is known in term {}", view.term),
            }
        }
        if view.members != members {
            info!("members: {}", name(&view.members));
            members = view.members;
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() {
                // Replication has ended; why is for whoever watches that to say.
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
