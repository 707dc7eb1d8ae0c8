//! Campaigns: elections until a leader is known. `suspicion` decides whether the old one is dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::AsyncRuntime;

use super::api::Wire;
use super::core::Core;
use super::probe::Prober;
use super::types::{Vote, node_of};

/// Pauses between elections that nobody won; the last one repeats. They grow, because a new round voids the answers to
/// the one before, and far peers need longer than the first pause.
const ELECTION_PAUSES: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
    Duration::from_millis(160),
    Duration::from_millis(250),
];
/// The head start of a node that was told to campaign.
const HEAD_START: Duration = Duration::from_millis(20);
/// This node waits at most this long, in all, for the election of a node that it has voted for.
const DEFER_MAX: Duration = Duration::from_millis(150);

/// The elections that this node campaigns in.
pub(super) struct Elections<R: AsyncRuntime, W: Wire> {
    core: Arc<Core<R, W>>,
    prober: Arc<Prober<R, W>>,
    /// Whether a task of this node sees to an election. A second campaign would only void the first.
    is_campaigning: AtomicBool,
}

impl<R: AsyncRuntime, W: Wire> Elections<R, W> {
    pub(super) fn new(core: Arc<Core<R, W>>, prober: Arc<Prober<R, W>>) -> Self {
        Elections {
            core,
            prober,
            is_campaigning: AtomicBool::new(false),
        }
    }

    /// Campaigns until a leader under another vote than `old` is known; returns its number. `another_campaigns`: a node
    /// with a longer log was told to campaign, and gets a head start.
    ///
    /// # Errors
    /// The number of the leader of `old`, when that one is heard of again.
    pub(super) async fn elect(&self, old: Vote, another_campaigns: bool) -> Result<u16, u16> {
        let new_leader = || self.core.new_leader(old);
        if another_campaigns && let Ok(leader) = R::timeout(HEAD_START, new_leader()).await {
            return Ok(node_of(leader));
        }
        let mut deferred = Duration::ZERO;
        let last = ELECTION_PAUSES[ELECTION_PAUSES.len() - 1];
        for pause in ELECTION_PAUSES.into_iter().chain(std::iter::repeat(last)) {
            if self.prober.is_back(old) {
                return Err(node_of(old.leader_id.node_id));
            }
            // One task of a node at a time, and none during the election of a node that this one has voted for: another
            // round would only void that one.
            let campaign = Campaign::begin(&self.is_campaigning);
            if deferred < DEFER_MAX && self.has_voted_for_another(old) {
                deferred += pause;
            } else if campaign.is_some()
                && let Err(error) = self.core.raft.trigger().elect(true).await
            {
                tracing::debug!(%error, "can't campaign");
            }
            if let Ok(leader) = R::timeout(pause, new_leader()).await {
                return Ok(node_of(leader));
            }
        }
        // The pauses never end.
        std::future::pending().await
    }

    /// Whether this node has voted for another one since `old`, in an election that is not decided.
    fn has_voted_for_another(&self, old: Vote) -> bool {
        let vote = self.core.vote();
        !vote.committed
            && vote.leader_id != old.leader_id
            && vote.leader_id.node_id != self.core.raft_id()
    }
}

/// While it lives, no other task of this node campaigns.
struct Campaign<'a>(&'a AtomicBool);

impl<'a> Campaign<'a> {
    fn begin(is_campaigning: &'a AtomicBool) -> Option<Self> {
        (!is_campaigning.swap(true, Ordering::AcqRel)).then_some(Campaign(is_campaigning))
    }
}

impl Drop for Campaign<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
