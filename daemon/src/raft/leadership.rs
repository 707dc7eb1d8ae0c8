//! Whether this node is a leader that is well, which it tells peers that probe it.

use std::sync::Arc;

use openraft::async_runtime::{Instant, WatchReceiver};
use openraft::{AsyncRuntime, ServerState};
use parking_lot::Mutex;

use super::api::Wire;
use super::core::Core;
use super::types::Vote;

/// Remembers since when this node leads.
pub(super) struct Leadership<R: AsyncRuntime, W: Wire> {
    core: Arc<Core<R, W>>,
    /// The vote under which this node leads or led last, and since when.
    led: Mutex<Option<(Vote, R::Instant)>>,
}

impl<R: AsyncRuntime, W: Wire> Leadership<R, W> {
    pub(super) fn new(core: Arc<Core<R, W>>) -> Self {
        Leadership {
            core,
            led: Mutex::default(),
        }
    }

    /// This node's vote, and whether it leads well under it: with a quorum, or so new that it may still get one. A leader
    /// that denied itself until its first answers came would be voted out at once.
    pub(super) fn current(&self) -> (Vote, bool) {
        let vote = self.core.vote();
        let leads = self.core.leader() == Some(self.core.raft_id());
        let led = *self.led.lock();
        let fresh = led.is_none_or(|(of, since)| {
            of != vote || since.elapsed() < self.core.config.election_max
        });
        (vote, leads && (fresh || self.core.leads_with_quorum()))
    }

    /// Looks whether this node leads by now.
    pub(super) fn note(&self) {
        let metrics = self.core.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state == ServerState::Leader {
            let mut led = self.led.lock();
            if led.is_none_or(|(vote, _)| vote != metrics.vote) {
                *led = Some((metrics.vote, R::Instant::now()));
            }
        }
    }
}
