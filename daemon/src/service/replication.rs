//! Replication as the service needs it. A trait, because tests replace it, a node may belong to no cluster yet, and the
//! service must not carry the replica's type parameters.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::raft::api::{CampaignError, Draft, NoQuorum, Verdict, View};

/// A boxed future, so that the trait can be a `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Replication as the service sees it. A node that belongs to no cluster (yet) has the role `Waiting` and proposes nothing:
/// `propose` answers `NoQuorum` for every draft and `linear` fails, both at once.
pub trait Replication: Send + Sync + 'static {
    /// Proposes drafts as one ordered batch. Returns one verdict for each, in the same order; an `Applied` one is applied on
    /// this node. Retries while there is no leader; returns `NoQuorum` after `within` at the latest. Must be awaited to its
    /// end: a dropped proposal may take effect after the connection's next request.
    fn propose(&self, drafts: Vec<Draft>, within: Duration) -> BoxFuture<'_, Vec<Verdict>>;

    /// Returns when this node has applied all that was acknowledged anywhere before the call.
    fn linear(&self) -> BoxFuture<'_, Result<(), NoQuorum>>;

    /// Makes sure that there is a leader.
    fn campaign(&self) -> BoxFuture<'_, Result<u16, CampaignError>>;

    /// Returns at once.
    fn view(&self) -> View;

    /// `None` on a node that belongs to no cluster yet.
    fn cluster_id(&self) -> Option<String>;
}
