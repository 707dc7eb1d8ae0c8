//! What the service needs of replication: a trait, so that tests and a node that belongs to no cluster yet can stand
//! in for the real replica and its type parameters.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::raft::api::{CampaignError, Draft, NoQuorum, Verdict, View};

/// A boxed answer: the trait must be usable as `dyn`.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Replication as the service sees it. A node that belongs to no cluster (yet) has the role `Waiting` and proposes nothing:
/// `propose` answers `NoQuorum` for every draft and `linear` fails, both at once.
pub trait Replication: Send + Sync + 'static {
    /// Proposes drafts as one ordered batch; one verdict a draft, in the same order, each `Applied` on this node.
    /// Holds and retries while there is no leader; answers `NoQuorum` within `within`. Must be awaited to its end: a
    /// dropped proposal may still take effect after whatever its connection asks next.
    fn propose(&self, drafts: Vec<Draft>, within: Duration) -> Answering<'_, Vec<Verdict>>;

    /// Returns when this node has applied all that was acknowledged anywhere before the call.
    fn linear(&self) -> Answering<'_, Result<(), NoQuorum>>;

    /// Makes sure that there is a leader.
    fn campaign(&self) -> Answering<'_, Result<u16, CampaignError>>;

    /// At once.
    fn view(&self) -> View;

    /// `None` on a node that belongs to no cluster yet.
    fn cluster_id(&self) -> Option<String>;
}
