//! Changes the membership of a running cluster. The leader does it; other nodes answer who leads.

use std::time::Duration;

use messagebase_protocol::peer::{
    AdminCode, AdminError, AdminOk, AdminReply, PeerReply, PeerRequest, ProbeReply, Purpose,
};
use messagebase_protocol::role::NodeRole;
use tracing::info;

use super::refusal::{internal, not_leader, of_member_change, refused, replica};
use super::report;
use crate::context::{NodeContext, Replica};
use crate::raft::api::Target;
use crate::raft::{MemberError, raft_id};

/// How long a node may take to answer a probe, or to store an identity (an fsync).
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// The replicated membership.
pub fn list(context: &NodeContext) -> AdminReply {
    replica(context)?;
    Ok(AdminOk::Members(report::member_rows(context)))
}

/// Hands leadership over.
pub async fn transfer(context: &NodeContext, to: u16) -> AdminReply {
    done(leading(context)?.transfer(to).await)
}

/// Makes a blank node a learner.
pub async fn add(context: &NodeContext, node: u16, client: String, peer: String) -> AdminReply {
    let replica = leading(context)?;
    if replica
        .members()
        .iter()
        .any(|member| member.node.node == node)
    {
        return Err(refused(
            AdminCode::AlreadyAMember,
            format!("node {node} is a member already"),
        ));
    }
    let answer = probe(context, node, &peer).await?;
    if let Some(id) = answer
        .cluster_id
        .filter(|id| Some(id) != context.cluster_id().as_ref())
    {
        return Err(refused(
            AdminCode::OtherCluster,
            format!("node {node} belongs to the cluster {id}"),
        ));
    }
    let given = replica
        .add_learner(node, client, peer.clone(), false)
        .await
        .map_err(of_member_change)?;
    adopt(context, node, &peer, given).await
}

/// Makes a learner a voter.
pub async fn promote(context: &NodeContext, node: u16) -> AdminReply {
    done(leading(context)?.promote(node).await)
}

/// Takes a node out.
pub async fn remove(context: &NodeContext, node: u16) -> AdminReply {
    done(leading(context)?.remove(node).await)
}

/// Gives a node that lost its disk its next generation. May be repeated after a crash half way: the generation that was
/// given before is removed, even if the node never took it.
pub async fn replace(context: &NodeContext, node: u16) -> AdminReply {
    let replica = leading(context)?;
    let members = replica.members();
    let Some(member) = members
        .iter()
        .filter(|m| m.node.node == node)
        .max_by_key(|m| m.raft_id)
    else {
        return Err(refused(
            AdminCode::NotAMember,
            format!("node {node} is not a member"),
        )
        .with_hint("mbctl member list"));
    };
    let peer = member.node.peer.clone();
    let answer = probe(context, node, &peer).await?;
    if answer.cluster_id.is_some() && answer.raft_id == member.raft_id {
        return Err(refused(
            AdminCode::NotBlank,
            format!("node {node} still holds its data; only a node that lost it is replaced"),
        )
        .with_hint(format!(
            "if its data is unusable: mbctl stop {node}, remove its data directory, mbctl up {node}"
        )));
    }
    let given = replica.replace(node).await.map_err(of_member_change)?;
    info!(
        "node {node} is replaced: Raft id {} becomes {given}",
        member.raft_id
    );
    debug_assert!(given > raft_id(1, node), "a generation is never used twice");
    adopt(context, node, &peer, given).await
}

async fn probe(context: &NodeContext, node: u16, peer: &str) -> Result<ProbeReply, AdminError> {
    let target = Target {
        raft_id: 0,
        node,
        peer: peer.to_owned(),
    };
    match context
        .wire
        .ask(target, Purpose::Probe, PeerRequest::Probe, ASK_TIMEOUT)
        .await
    {
        Ok(PeerReply::Probe(answer)) => Ok(answer),
        Ok(other) => Err(internal(format!("node {node} answered {other:?}"))),
        Err(e) => Err(refused(
            AdminCode::Unreachable,
            format!("node {node} does not answer: {e}"),
        )
        .with_hint(format!(
            "start it with an empty data directory first: mbctl up {node}"
        ))),
    }
}

async fn adopt(context: &NodeContext, node: u16, peer: &str, raft_id: u64) -> AdminReply {
    let cluster_id = context
        .cluster_id()
        .ok_or_else(|| internal("it has no identity"))?;
    let target = Target {
        raft_id: 0,
        node,
        peer: peer.to_owned(),
    };
    let body = PeerRequest::Adopt {
        cluster_id,
        raft_id,
    };
    match context
        .wire
        .ask(target, Purpose::Probe, body, ASK_TIMEOUT)
        .await
    {
        Ok(PeerReply::Done) => Ok(AdminOk::Done),
        Ok(other) => Err(internal(format!(
            "node {node} did not take its identity: {other:?}"
        ))),
        Err(e) => Err(refused(
            AdminCode::Unreachable,
            format!("node {node} is a learner now, but did not take its identity: {e}"),
        )
        .with_hint(format!(
            "once it answers, run again: mbctl member replace {node}"
        ))),
    }
}

fn leading(context: &NodeContext) -> Result<&Replica, AdminError> {
    let replica = replica(context)?;
    let view = replica.view();
    if view.role == NodeRole::Leader {
        Ok(replica)
    } else {
        Err(not_leader(view.leader))
    }
}

fn done(result: Result<(), MemberError>) -> AdminReply {
    result.map(|()| AdminOk::Done).map_err(of_member_change)
}
