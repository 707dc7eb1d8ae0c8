//! Members that a snapshot is being sent to. While one installs it, it answers no heartbeat, and must not be taken for one
//! that is away: the log behind the snapshot is kept for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::Instant;

/// Their Raft ids, each with the end of the last sending; `None` while one is under way.
pub(super) struct Receivers<I>(Mutex<BTreeMap<u64, Option<I>>>);

impl<I> Default for Receivers<I> {
    fn default() -> Self {
        Receivers(Mutex::default())
    }
}

impl<I: Instant> Receivers<I> {
    /// A sending begins; it ends when what this returns is dropped.
    pub(super) fn begin(self: &Arc<Self>, member: u64) -> Receiving<I> {
        self.lock().insert(member, None);
        Receiving {
            member,
            all: self.clone(),
        }
    }

    /// Whether the member is being sent a snapshot, or was a moment before `now`.
    pub(super) fn has(&self, member: u64, a_moment: Duration, now: I) -> bool {
        let ended = self.lock().get(&member).copied();
        ended.is_some_and(|ended| {
            ended.is_none_or(|at| now.saturating_duration_since(at) < a_moment)
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Option<I>>> {
        // One insertion at a time: nothing is left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One sending.
pub(super) struct Receiving<I: Instant> {
    member: u64,
    all: Arc<Receivers<I>>,
}

impl<I: Instant> Drop for Receiving<I> {
    fn drop(&mut self) {
        self.all.lock().insert(self.member, Some(I::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Now = <openraft_rt_tokio::TokioRuntime as openraft::AsyncRuntime>::Instant;

    #[test]
    fn a_member_counts_while_it_is_sent_a_snapshot_and_a_moment_longer() {
        const MOMENT: Duration = Duration::from_secs(60);
        let receivers = Arc::<Receivers<Now>>::default();
        let has = |member, later: Duration| receivers.has(member, MOMENT, Now::now() + later);
        assert!(!has(7, Duration::ZERO));
        let sending = receivers.begin(7);
        assert!(has(7, 2 * MOMENT) && !has(8, Duration::ZERO));
        drop(sending);
        assert!(has(7, Duration::ZERO) && !has(7, 2 * MOMENT));
    }
}
