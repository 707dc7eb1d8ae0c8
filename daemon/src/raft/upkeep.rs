//! What goes on by itself: the leader's own proposals (settings, expired sessions, delivered messages, learners that
//! may vote) and every node's care that its change log stays bounded.

use std::sync::PoisonError;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::async_runtime::{Instant, Select2, WatchReceiver};

use super::api::{Draft, Wire};
use super::blocking::blocking;
use super::due::{self, Due};
use super::replica::Replica;
use crate::change::Change;

/// Between two looks at what the leader has to propose.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(60);
/// Between two looks at the settings and at learners that want to vote.
const PROMOTE_EVERY: Duration = Duration::from_secs(1);
/// What one proposal of the leader's own may take.
const PROPOSAL_WAIT: Duration = Duration::from_secs(5);
/// Delivered messages forgotten by one change.
const FORGET_AT_MOST: u32 = 1_000;
/// Between two looks at the size of the change log, while changes are applied.
const LOG_LOOK_EVERY: Duration = Duration::from_millis(250);
/// After a snapshot that could not be built.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(5);

impl<R: AsyncRuntime, W: Wire> Replica<R, W> {
    pub(super) async fn housekeeping_loop(self) {
        let mut metrics = self.inner.raft.server_metrics();
        let mut next = R::Instant::now();
        loop {
            metrics.borrow_and_update();
            if self.ensure_leads().is_ok() {
                if self.unless_stopped(self.lead_housekeeping(&mut next)).await.is_none() {
                    return;
                }
                let pause = R::select2(R::sleep(PROMOTE_EVERY), metrics.changed());
                if !matches!(self.unless_stopped(pause).await, Some(Select2::First(()) | Select2::Second(Ok(())))) {
                    return;
                }
            } else {
                // A new leader looks at once.
                next = R::Instant::now();
                if !matches!(self.unless_stopped(metrics.changed()).await, Some(Ok(()))) {
                    return;
                }
            }
        }
    }

    async fn lead_housekeeping(&self, next: &mut R::Instant) {
        self.finish_change().await;
        self.promote_ready_learners().await;
        if R::Instant::now() < *next {
            return;
        }
        let readers = self.inner.store.readers().clone();
        let now = (self.inner.clock)();
        let look = blocking::<R, _, _>(move || readers.with(|conn| due::look(conn, now)));
        let Due { settings, expired, forgettable } = match look.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return tracing::warn!(%error, "failed to look for housekeeping"),
            Err(error) => return tracing::warn!(%error, "failed to look for housekeeping"),
        };
        let mut changes = Vec::new();
        if settings != self.inner.config.settings {
            changes.push(Change::Settings(self.inner.config.settings));
        }
        if expired {
            changes.push(Change::ExpireSessions {});
        }
        if forgettable {
            changes.push(Change::ForgetDelivered { at_most: FORGET_AT_MOST });
        }
        *next = R::Instant::now() + if forgettable { PROMOTE_EVERY } else { HOUSEKEEPING_EVERY };
        if changes.is_empty() {
            return;
        }
        let drafts: Vec<Draft> = changes.into_iter().map(|body| Draft { actor: None, body, secrets: None }).collect();
        // What fails is proposed again by whoever leads at the next look.
        let reply = self.propose_here(&drafts, R::Instant::now() + PROPOSAL_WAIT).await;
        tracing::debug!(?reply, "proposed housekeeping");
    }

    /// Keeps the change log near its bound: a snapshot, then a purge of the older half.
    pub(super) async fn log_loop(self) {
        let mut applied = self.inner.store.applied();
        loop {
            if !matches!(self.unless_stopped(applied.changed()).await, Some(Ok(()))) {
                return;
            }
            let pause = if self.inner.store.log_bytes() <= self.inner.config.change_log_bytes {
                LOG_LOOK_EVERY
            } else {
                match self.unless_stopped(self.compact()).await {
                    None => return,
                    Some(Ok(())) => LOG_LOOK_EVERY,
                    Some(Err(error)) => {
                        tracing::error!(%error, "failed to shorten the change log; trying again");
                        SNAPSHOT_RETRY
                    }
                }
            };
            if self.unless_stopped(R::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    async fn compact(&self) -> Result<(), String> {
        let store = self.inner.store.clone();
        let begin = store.log_begin();
        let built = blocking::<R, _, _>(move || store.build_snapshot()).await;
        let file = built.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let through = purge_through(begin, file.last.index);
        tracing::info!(snapshot = file.last.index, through, "shortening the change log");
        let last = file.last.index;
        *self.inner.prebuilt.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        let raft = &self.inner.raft;
        let mut metrics = raft.metrics();
        raft.trigger().snapshot().await.map_err(|e| e.to_string())?;
        loop {
            if metrics.borrow_and_update().snapshot.is_some_and(|id| id.index >= last) {
                break;
            }
            metrics.changed().await.map_err(|_| "replication has stopped")?;
        }
        raft.trigger().purge_log(through).await.map_err(|e| e.to_string())
    }
}

/// Half of what is in the snapshot stays, so that a follower that was away for a while needs no snapshot.
fn purge_through(begin: u64, snapshot: u64) -> u64 {
    begin + snapshot.saturating_sub(begin) / 2
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
