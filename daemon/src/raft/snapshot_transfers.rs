//! Members that a snapshot is being sent to. While a member installs it, it answers no heartbeat. It must not be taken for a
//! member that is away: the log behind the snapshot is kept for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::Instant;
use parking_lot::Mutex;

/// Their Raft ids, each with the end of the last transfer; `None` during one.
pub(super) struct SnapshotTransfers<I>(Mutex<BTreeMap<u64, Option<I>>>);

impl<I> Default for SnapshotTransfers<I> {
    fn default() -> Self {
        SnapshotTransfers(Mutex::new(BTreeMap::new()))
    }
}

impl<I: Instant> SnapshotTransfers<I> {
    /// A transfer begins; it ends when the returned value is dropped.
    pub(super) fn begin(self: &Arc<Self>, member: u64) -> SnapshotTransfer<I> {
        self.0.lock().insert(member, None);
        SnapshotTransfer {
            member,
            all: self.clone(),
        }
    }

    /// Whether a snapshot is being sent to the member, or was less than `a_moment` before `now`.
    pub(super) fn has(&self, member: u64, a_moment: Duration, now: I) -> bool {
        let ended = self.0.lock().get(&member).copied();
        ended.is_some_and(|ended| {
            ended.is_none_or(|at| now.saturating_duration_since(at) < a_moment)
        })
    }
}

/// One transfer.
pub(super) struct SnapshotTransfer<I: Instant> {
    member: u64,
    all: Arc<SnapshotTransfers<I>>,
}

impl<I: Instant> Drop for SnapshotTransfer<I> {
    fn drop(&mut self) {
        self.all.0.lock().insert(self.member, Some(I::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Now = <openraft_rt_tokio::TokioRuntime as openraft::AsyncRuntime>::Instant;

    #[test]
    fn a_member_counts_while_it_is_sent_a_snapshot_and_a_moment_longer() {
        const MOMENT: Duration = Duration::from_secs(60);
        let transfers = Arc::<SnapshotTransfers<Now>>::default();
        let has = |member, later: Duration| transfers.has(member, MOMENT, Now::now() + later);
        assert!(!has(7, Duration::ZERO));
        let transfer = transfers.begin(7);
        assert!(has(7, 2 * MOMENT) && !has(8, Duration::ZERO));
        drop(transfer);
        assert!(has(7, Duration::ZERO) && !has(7, 2 * MOMENT));
    }
}
