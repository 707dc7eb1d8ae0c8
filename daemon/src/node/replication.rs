//! Replication for `service`. A node without an identity answers `NoQuorum` at once.

use std::sync::Arc;
use std::time::Duration;

use crate::context::{NodeContext, Replica};
use crate::raft::api::{CampaignError, Draft, NoQuorum, Verdict, View};
use crate::service::{BoxFuture, Replication};

/// The node's replica, while it has one.
pub struct NodeReplication(pub Arc<NodeContext>);

impl Replication for NodeReplication {
    fn propose(&self, drafts: Vec<Draft>, within: Duration) -> BoxFuture<'_, Vec<Verdict>> {
        Box::pin(async move {
            match self.0.replica() {
                Some(replica) => replica.propose_by(drafts, within).await,
                None => drafts.iter().map(|_| Verdict::NoQuorum).collect(),
            }
        })
    }

    fn linear(&self) -> BoxFuture<'_, Result<(), NoQuorum>> {
        Box::pin(async move { self.0.replica().ok_or(NoQuorum)?.linear().await })
    }

    fn campaign(&self) -> BoxFuture<'_, Result<u16, CampaignError>> {
        Box::pin(async move {
            self.0
                .replica()
                .ok_or(CampaignError::NoQuorum)?
                .campaign()
                .await
        })
    }

    fn view(&self) -> View {
        let mut view = self.0.replica().map(Replica::view).unwrap_or_default();
        // A stopping node is not ready: its clients go to other nodes.
        view.ready &= !self.0.lifecycle.is_closing();
        view
    }

    fn cluster_id(&self) -> Option<String> {
        self.0.cluster_id()
    }
}
