//! Handles the hellos and calls of peers and operators.

use std::sync::Arc;

use messagebase_protocol::peer::{
    Dialer, HelloReply, Incarnation, PeerHello, PeerReply, PeerRequest, Purpose,
};

use super::identity::{IdentityError, NodeIdentity};
use crate::admin::AdminHandler;
use crate::context::NodeContext;
use crate::peer::incarnations::{BootCheck, Incarnations};
use crate::peer::server::PeerHandler;
use crate::raft::node_of;

/// The handler shared by all connections of the peer port.
pub struct Handler {
    /// The node.
    pub context: Arc<NodeContext>,
    /// Answers formation.
    pub identity: Arc<NodeIdentity>,
    /// This process's.
    pub incarnation: Incarnation,
    /// The peers'.
    pub incarnations: Arc<Incarnations>,
    /// Answers operators.
    pub admin: AdminHandler,
}

impl PeerHandler for Handler {
    fn greet(&self, hello: &PeerHello) -> HelloReply {
        let context = &self.context;
        if let Some(reason) = self.refusal(hello) {
            return HelloReply::Refused { reason };
        }
        // Only within this cluster: a restored cluster reuses the Raft ids of the one that was backed up.
        if let (Dialer::Node { raft_id, .. }, Some(met)) = (hello.dialer, hello.incarnation)
            && raft_id != 0
            && hello.cluster_id == context.cluster_id()
            && let BootCheck::Stale(reason) = self.incarnations.meet(raft_id, met)
        {
            return HelloReply::Stale { reason };
        }
        let identity = context.store.identity();
        HelloReply::Welcome {
            node: context.node,
            raft_id: identity.as_ref().map_or(0, |identity| identity.raft_id),
            cluster_id: identity.map(|identity| identity.cluster_id),
            incarnation: self.incarnation,
        }
    }

    fn disconnected(&self, hello: &PeerHello) {
        if let (Dialer::Node { raft_id, .. }, Some(replica)) =
            (hello.dialer, self.context.replica())
        {
            replica.peer_lost(raft_id);
        }
    }

    async fn answer(&self, hello: &PeerHello, request: PeerRequest) -> PeerReply {
        let context = &self.context;
        match (hello.purpose, hello.dialer, request) {
            (
                Purpose::Raft | Purpose::Snapshot | Purpose::Forward,
                Dialer::Node { raft_id, .. },
                PeerRequest::Raft(frame),
            ) => match context.replica() {
                Some(replica) => PeerReply::Raft(replica.serve(raft_id, frame).await),
                None => PeerReply::Failed("this node's replication has not started".into()),
            },
            (
                Purpose::Presence,
                Dialer::Node { node, .. },
                PeerRequest::Presence { version, online },
            ) => {
                if context.presence.remote(node, version, online) {
                    PeerReply::Done
                } else {
                    PeerReply::Failed("the whole set is needed".into())
                }
            }
            (Purpose::Probe, Dialer::Node { .. }, PeerRequest::Probe) => {
                PeerReply::Probe(self.identity.probe_reply())
            }
            (
                Purpose::Probe,
                Dialer::Node { .. },
                PeerRequest::Form {
                    cluster_id,
                    founders,
                },
            ) => done(self.identity.take_as_founder(cluster_id, founders).await),
            (
                Purpose::Probe,
                Dialer::Node { .. },
                PeerRequest::Adopt {
                    cluster_id,
                    raft_id,
                },
            ) => done(self.identity.adopt(cluster_id, raft_id).await),
            (Purpose::Admin, Dialer::Admin, PeerRequest::Admin(request)) => {
                tracing::debug!("an operator asks: {request:?}");
                PeerReply::Admin(self.admin.answer(request).await)
            }
            (purpose, ..) => PeerReply::Failed(format!(
                "not a request for a connection of purpose {purpose:?}"
            )),
        }
    }
}

impl Handler {
    /// Why this dialer is refused, if it is.
    fn refusal(&self, hello: &PeerHello) -> Option<String> {
        let context = &self.context;
        let Dialer::Node { node, raft_id } = hello.dialer else {
            return None;
        };
        if context.participation.is_stale() && hello.purpose != Purpose::Probe {
            return Some("this node runs on an older copy of its data".into());
        }
        if hello.purpose == Purpose::Probe {
            return None;
        }
        let Some(identity) = context.store.identity() else {
            return Some("this node belongs to no cluster yet".into());
        };
        if hello.cluster_id.as_ref() != Some(&identity.cluster_id) {
            return Some(format!(
                "this node belongs to the cluster {}",
                identity.cluster_id
            ));
        }
        if hello.to_raft_id != identity.raft_id {
            return Some(format!(
                "meant for Raft id {}, this is {}",
                hello.to_raft_id, identity.raft_id
            ));
        }
        if node_of(raft_id) != node {
            return Some(format!("Raft id {raft_id} is not one of node {node}"));
        }
        let newest = context
            .replica()?
            .members()
            .iter()
            .map(|m| m.raft_id)
            .filter(|id| node_of(*id) == node)
            .max();
        newest
            .filter(|newest| *newest > raft_id)
            .map(|newest| format!("node {node} was replaced; it is {newest} now"))
    }
}

fn done(result: Result<(), IdentityError>) -> PeerReply {
    match result {
        Ok(()) => PeerReply::Done,
        Err(e) => PeerReply::Failed(e.to_string()),
    }
}
