//! What this node does with what peers and operators say through the peer door.

use std::sync::Arc;

use messagebase_protocol::peer::{Dialer, HelloReply, PeerHello, PeerReply, PeerRequest, Purpose};

use super::Shared;
use crate::admin;
use crate::peer::incarnations::BootCheck;
use crate::peer::server::PeerHandler;
use crate::raft::node_of;
use crate::service::Service;

/// The handler shared by all connections of the peer door.
pub struct Handler {
    /// The node.
    pub shared: Arc<Shared>,
    /// For operators' passwords, which are hashed like anybody's.
    pub service: Arc<Service>,
}

impl PeerHandler for Handler {
    fn greet(&self, hello: &PeerHello) -> HelloReply {
        let shared = &self.shared;
        if let Some(reason) = self.refusal(hello) {
            return HelloReply::Refused { reason };
        }
        // A restored cluster gives out Raft ids that the one before it gave out too.
        if let (Dialer::Node { raft_id, .. }, Some(met)) = (hello.dialer, hello.incarnation)
            && raft_id != 0
            && hello.cluster_id == shared.cluster_id()
            && let BootCheck::Stale(reason) = shared.incarnations.meet(raft_id, met)
        {
            return HelloReply::Stale { reason };
        }
        let identity = shared.store.identity();
        HelloReply::Welcome {
            node: shared.node,
            raft_id: identity.as_ref().map_or(0, |identity| identity.raft_id),
            cluster_id: identity.map(|identity| identity.cluster_id),
            incarnation: shared.incarnation,
        }
    }

    fn disconnected(&self, hello: &PeerHello) {
        if let (Dialer::Node { raft_id, .. }, Some(replica)) = (hello.dialer, self.shared.replica())
        {
            replica.peer_lost(raft_id);
        }
    }

    async fn answer(&self, hello: &PeerHello, request: PeerRequest) -> PeerReply {
        let shared = &self.shared;
        match (hello.purpose, hello.dialer, request) {
            (
                Purpose::Raft | Purpose::Snapshot | Purpose::Forward,
                Dialer::Node { raft_id, .. },
                PeerRequest::Raft(frame),
            ) => match shared.replica() {
                Some(replica) => PeerReply::Raft(replica.serve(raft_id, frame).await),
                None => PeerReply::Failed("this node's replication has not started".into()),
            },
            (
                Purpose::Presence,
                Dialer::Node { node, .. },
                PeerRequest::Presence { version, online },
            ) => {
                if shared.presence.remote(node, version, online) {
                    PeerReply::Done
                } else {
                    PeerReply::Failed("the whole set is needed".into())
                }
            }
            (Purpose::Probe, Dialer::Node { .. }, PeerRequest::Probe) => {
                PeerReply::Probe(shared.probe_reply())
            }
            (
                Purpose::Probe,
                Dialer::Node { .. },
                PeerRequest::Form {
                    cluster_id,
                    founders,
                },
            ) => done(shared.take_founder_identity(cluster_id, founders).await),
            (
                Purpose::Probe,
                Dialer::Node { .. },
                PeerRequest::Adopt {
                    cluster_id,
                    raft_id,
                },
            ) => done(shared.adopt_identity(cluster_id, raft_id).await),
            (Purpose::Admin, Dialer::Admin, PeerRequest::Admin(request)) => {
                tracing::debug!("an operator asks: {request:?}");
                PeerReply::Admin(admin::answer(shared, &self.service, request).await)
            }
            (purpose, ..) => PeerReply::Failed(format!(
                "not a request for a connection of purpose {purpose:?}"
            )),
        }
    }
}

impl Handler {
    /// Why this dialer may not speak, if so.
    fn refusal(&self, hello: &PeerHello) -> Option<String> {
        let shared = &self.shared;
        let Dialer::Node { node, raft_id } = hello.dialer else {
            return None;
        };
        if shared.is_stale() && hello.purpose != Purpose::Probe {
            return Some("this node runs on an older copy of its data".into());
        }
        if hello.purpose == Purpose::Probe {
            return None;
        }
        let Some(identity) = shared.store.identity() else {
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
        let newest = shared
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

fn done(result: Result<(), String>) -> PeerReply {
    match result {
        Ok(()) => PeerReply::Done,
        Err(why) => PeerReply::Failed(why),
    }
}
