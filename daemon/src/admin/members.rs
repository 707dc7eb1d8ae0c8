//! Changes to the replica set of a running cluster. The leader does them; others say who leads.

use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::peer::{
    AdminCode, AdminError, AdminErrorKind, AdminOk, AdminReply, PeerReply, PeerRequest, ProbeReply,
    Purpose,
};
use messagebase_protocol::role::NodeRole;
use tracing::info;

use super::{internal, no_quorum, refused, report, waiting};
use crate::node::{Replica, Shared};
use crate::raft::api::Target;
use crate::raft::{MemberError, raft_id};

/// How long a node may take to say who it is or to take an identity (an fsync).
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// The replicated membership.
pub fn list(shared: &Arc<Shared>) -> AdminReply {
    shared.replica().ok_or_else(|| waiting(shared))?;
    Ok(AdminOk::Members(report::member_rows(shared)))
}

/// Hands leadership over.
pub async fn transfer(shared: &Arc<Shared>, to: u16) -> AdminReply {
    done(leading(shared)?.transfer(to).await)
}

/// Takes a blank node in as a learner.
pub async fn add(shared: &Arc<Shared>, node: u16, client: String, peer: String) -> AdminReply {
    let replica = leading(shared)?;
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
    let answer = ask_blank(shared, node, &peer).await?;
    if let Some(id) = answer
        .cluster_id
        .filter(|id| Some(id) != shared.cluster_id().as_ref())
    {
        return Err(refused(
            AdminCode::OtherCluster,
            format!("node {node} belongs to the cluster {id}"),
        ));
    }
    let given = replica
        .add_learner(node, client, peer.clone(), false)
        .await
        .map_err(member_error)?;
    adopt(shared, node, &peer, given).await
}

/// Makes a learner a voter.
pub async fn promote(shared: &Arc<Shared>, node: u16) -> AdminReply {
    done(leading(shared)?.promote(node).await)
}

/// Takes a node out.
pub async fn remove(shared: &Arc<Shared>, node: u16) -> AdminReply {
    done(leading(shared)?.remove(node).await)
}

/// A node that lost its disk comes back under its next generation. Repeating it after a crash half way is harmless:
/// whatever the node was given before goes, even if it never took it.
pub async fn replace(shared: &Arc<Shared>, node: u16) -> AdminReply {
    let replica = leading(shared)?;
    let members = replica.members();
    let Some(member) = members
        .iter()
        .filter(|m| m.node.node == node)
        .max_by_key(|m| m.raft_id)
    else {
        return Err(AdminError {
            hint: Some("mbctl member list".into()),
            ..refused(
                AdminCode::NotAMember,
                format!("node {node} is not a member"),
            )
        });
    };
    let peer = member.node.peer.clone();
    let answer = ask_blank(shared, node, &peer).await?;
    if answer.cluster_id.is_some() && answer.raft_id == member.raft_id {
        return Err(AdminError {
            hint: Some(format!(
                "if its data is unusable: mbctl stop {node}, remove its data directory, mbctl up {node}"
            )),
            ..refused(
                AdminCode::NotBlank,
                format!("node {node} still holds its data; only a node that lost it is replaced"),
            )
        });
    }
    let given = replica.replace(node).await.map_err(member_error)?;
    info!(
        "node {node} is replaced: Raft id {} becomes {given}",
        member.raft_id
    );
    debug_assert!(given > raft_id(1, node), "a generation is never used twice");
    adopt(shared, node, &peer, given).await
}

async fn ask_blank(shared: &Arc<Shared>, node: u16, peer: &str) -> Result<ProbeReply, AdminError> {
    let target = Target {
        raft_id: 0,
        node,
        peer: peer.to_owned(),
    };
    match shared
        .wire
        .ask(target, Purpose::Probe, PeerRequest::Probe, ASK_TIMEOUT)
        .await
    {
        Ok(PeerReply::Probe(answer)) => Ok(answer),
        Ok(other) => Err(internal(format!("node {node} answered {other:?}"))),
        Err(e) => Err(AdminError {
            hint: Some(format!(
                "start it with an empty data directory first: mbctl up {node}"
            )),
            ..refused(
                AdminCode::Unreachable,
                format!("node {node} does not answer: {e}"),
            )
        }),
    }
}

async fn adopt(shared: &Arc<Shared>, node: u16, peer: &str, raft_id: u64) -> AdminReply {
    let cluster_id = shared.cluster_id().ok_or_else(|| waiting(shared))?;
    let target = Target {
        raft_id: 0,
        node,
        peer: peer.to_owned(),
    };
    let body = PeerRequest::Adopt {
        cluster_id,
        raft_id,
    };
    match shared
        .wire
        .ask(target, Purpose::Probe, body, ASK_TIMEOUT)
        .await
    {
        Ok(PeerReply::Done) => Ok(AdminOk::Done),
        Ok(other) => Err(internal(format!(
            "node {node} did not take its identity: {other:?}"
        ))),
        Err(e) => Err(AdminError {
            hint: Some(format!(
                "once it answers, run again: mbctl member replace {node}"
            )),
            ..refused(
                AdminCode::Unreachable,
                format!("node {node} is a learner now, but did not take its identity: {e}"),
            )
        }),
    }
}

fn leading(shared: &Arc<Shared>) -> Result<&Replica, AdminError> {
    let replica = shared.replica().ok_or_else(|| waiting(shared))?;
    let view = replica.view();
    if view.role == NodeRole::Leader {
        Ok(replica)
    } else {
        Err(not_leader(view.leader))
    }
}

fn done(result: Result<(), MemberError>) -> AdminReply {
    result.map(|()| AdminOk::Done).map_err(member_error)
}

fn member_error(e: MemberError) -> AdminError {
    match e {
        MemberError::NotLeader { leader } => not_leader(leader),
        MemberError::NoQuorum => no_quorum(),
        MemberError::Behind(_) => AdminError {
            hint: Some("try again once `mbctl status` shows little lag".into()),
            ..refused(AdminCode::Behind, e.to_string())
        },
        MemberError::Refused(why) => refused(AdminCode::Refused, why),
    }
}

fn not_leader(leader: Option<u16>) -> AdminError {
    AdminError {
        kind: AdminErrorKind::NotLeader,
        code: AdminCode::NotLeader,
        message: "this node does not lead".into(),
        hint: None,
        leader,
    }
}
