//! Keeps the change log near its bound, on every node.

use std::sync::Arc;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::async_runtime::{Instant, WatchReceiver};

use super::api::Wire;
use super::blocking::blocking;
use super::core::Core;
use super::snapshot_transfers::SnapshotTransfers;

/// Pause between two looks at the size of the change log, while changes are applied.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Pause after a log that could not be shortened.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// A leader's log may grow to this multiple of its bound while a member that answers is catching up.
const CATCHING_UP_TIMES: u64 = 8;
/// A member answers while its last answer is younger than this.
const IN_CONTACT: Duration = Duration::from_secs(2);

/// Purges the older half of a log that is over its bound.
pub(super) struct LogRetention<R: AsyncRuntime, W: Wire> {
    core: Arc<Core<R, W>>,
    transfers: Arc<SnapshotTransfers<R::Instant>>,
}

impl<R: AsyncRuntime, W: Wire> LogRetention<R, W> {
    pub(super) fn new(
        core: Arc<Core<R, W>>,
        transfers: Arc<SnapshotTransfers<R::Instant>>,
    ) -> Self {
        LogRetention { core, transfers }
    }

    pub(super) async fn run(self) {
        let mut applied = self.core.store.applied();
        loop {
            let pause = if self.core.store.log_bytes() <= self.core.config.change_log_bytes {
                if !matches!(
                    self.core.unless_stopped(applied.changed()).await,
                    Some(Ok(()))
                ) {
                    return;
                }
                LOOK_EVERY
            } else {
                // Without new entries too: a member for which the log was kept may be gone.
                match self.core.unless_stopped(self.compact()).await {
                    None => return,
                    Some(Ok(())) => LOOK_EVERY,
                    Some(Err(error)) => {
                        tracing::error!(%error, "failed to shorten the change log; trying again");
                        RETRY_AFTER
                    }
                }
            };
            if self.core.unless_stopped(R::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    async fn compact(&self) -> Result<(), String> {
        let store = &self.core.store;
        if store.purging() {
            // Purged entries count until their rows are deleted.
            return Ok(());
        }
        let begin = store.log_begin();
        let Some(applied) = store.applied().borrow().map(|last| last.index) else {
            return Ok(());
        };
        let half = purge_through(begin, applied);
        let through = half.min(self.held_behind().unwrap_or(u64::MAX));
        let whole = store.whole_segments(begin, through);
        // A member that catches up will soon not need its segment. Deleting rows until then would cost more.
        let through = whole.unwrap_or(if through < half { begin } else { half });
        if through <= begin {
            return Ok(());
        }
        tracing::info!(applied, through, "shortening the change log");
        let raft = &self.core.raft;
        let mut metrics = raft.metrics();
        // Costs nothing: openraft only learns what is applied, so that it may purge.
        raft.trigger().snapshot().await.map_err(|e| e.to_string())?;
        loop {
            if metrics
                .borrow_and_update()
                .snapshot
                .is_some_and(|id| id.index >= through)
            {
                break;
            }
            metrics
                .changed()
                .await
                .map_err(|_| "replication has stopped")?;
        }
        raft.trigger()
            .purge_log(through)
            .await
            .map_err(|e| e.to_string())?;
        let store = store.clone();
        let forget = move || store.forget_snapshot_before(through);
        blocking::<R, _, _>(forget).await.map_err(|e| e.to_string())
    }

    /// The last entry of a member that is catching up, as long as the log may grow for it. A member that needs longer for a
    /// snapshot than the log needs to reach its bound would otherwise need the next snapshot at once.
    fn held_behind(&self) -> Option<u64> {
        let kept = self
            .core
            .config
            .change_log_bytes
            .saturating_mul(CATCHING_UP_TIMES);
        if self.core.store.log_bytes() > kept {
            return None;
        }
        let metrics = self.core.raft.metrics();
        let metrics = metrics.borrow_watched();
        let now = R::Instant::now();
        let answers = metrics.heartbeat.as_ref()?;
        let in_contact = |id: &u64| {
            let answered = answers.get(id).copied().flatten();
            answered.is_some_and(|at| now.saturating_duration_since(*at) < IN_CONTACT)
                || self.transfers.has(*id, IN_CONTACT, now)
        };
        let matched = metrics
            .replication
            .as_ref()?
            .iter()
            .filter(|(id, _)| in_contact(id));
        matched
            .map(|(_, matched)| matched.as_ref().map_or(0, |last| last.index))
            .min()
    }
}

/// Half of the applied entries stay, so that a follower that was away for a while needs no snapshot.
fn purge_through(begin: u64, applied: u64) -> u64 {
    begin + applied.saturating_sub(begin) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_log_stays() {
        assert_eq!(purge_through(100, 200), 150);
        assert_eq!(purge_through(0, 1), 0);
        assert_eq!(purge_through(7, 3), 7);
    }
}
