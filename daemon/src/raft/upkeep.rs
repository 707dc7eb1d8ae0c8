//! What goes on by itself: the leader's own proposals (settings, expired sessions, delivered messages, learners that
//! may vote) and every node's care that its change log stays bounded.

use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::async_runtime::{Instant, Select2, WatchReceiver};

use super::api::{Draft, Wire};
use super::blocking::blocking;
use super::due::{self, Due};
use super::propose::Origin;
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
/// After a log that could not be shortened.
const SHORTEN_RETRY: Duration = Duration::from_secs(5);
/// A leader's log grows to so many times its bound while a member that answers is catching up.
const CATCHING_UP_TIMES: u64 = 8;
/// A member answers while its last answer is younger than this.
const IN_CONTACT: Duration = Duration::from_secs(2);

impl<R: AsyncRuntime, W: Wire> Replica<R, W> {
    pub(super) async fn housekeeping_loop(self) {
        let mut metrics = self.inner.raft.server_metrics();
        let mut next = R::Instant::now();
        loop {
            metrics.borrow_and_update();
            if self.ensure_leads().is_ok() {
                if self
                    .unless_stopped(self.lead_housekeeping(&mut next))
                    .await
                    .is_none()
                {
                    return;
                }
                let pause = R::select2(R::sleep(PROMOTE_EVERY), metrics.changed());
                if !matches!(
                    self.unless_stopped(pause).await,
                    Some(Select2::First(()) | Select2::Second(Ok(())))
                ) {
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
        let Due {
            settings,
            expired,
            forgettable,
        } = match look.await {
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
            changes.push(Change::ForgetDelivered {
                at_most: FORGET_AT_MOST,
            });
        }
        *next = R::Instant::now()
            + if forgettable {
                PROMOTE_EVERY
            } else {
                HOUSEKEEPING_EVERY
            };
        if changes.is_empty() {
            return;
        }
        let drafts: Vec<Draft> = changes
            .into_iter()
            .map(|body| Draft {
                actor: None,
                body,
                secrets: None,
            })
            .collect();
        // What fails is proposed again by whoever leads at the next look.
        let reply = self
            .propose_here(
                Origin::Replication,
                &drafts,
                R::Instant::now() + PROPOSAL_WAIT,
            )
            .await;
        tracing::debug!(?reply, "proposed housekeeping");
    }

    /// Keeps the change log near its bound by purging the older half.
    pub(super) async fn log_loop(self) {
        let mut applied = self.inner.store.applied();
        loop {
            let pause = if self.inner.store.log_bytes() <= self.inner.config.change_log_bytes {
                if !matches!(self.unless_stopped(applied.changed()).await, Some(Ok(()))) {
                    return;
                }
                LOG_LOOK_EVERY
            } else {
                // Also when nothing more is applied: a member for which the log was kept may be gone.
                match self.unless_stopped(self.compact()).await {
                    None => return,
                    Some(Ok(())) => LOG_LOOK_EVERY,
                    Some(Err(error)) => {
                        tracing::error!(%error, "failed to shorten the change log; trying again");
                        SHORTEN_RETRY
                    }
                }
            };
            if self.unless_stopped(R::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    async fn compact(&self) -> Result<(), String> {
        let store = &self.inner.store;
        if store.purging() {
            // What was purged still counts until its rows are deleted.
            return Ok(());
        }
        let begin = store.log_begin();
        let Some(applied) = store.applied().borrow().map(|last| last.index) else {
            return Ok(());
        };
        let half = purge_through(begin, applied);
        let through = half.min(self.held_behind().unwrap_or(u64::MAX));
        let whole = store.whole_segments(begin, through);
        // A member that catches up will soon need no more of its segment; until then deleting rows would cost more.
        let through = whole.unwrap_or(if through < half { begin } else { half });
        if through <= begin {
            return Ok(());
        }
        tracing::info!(applied, through, "shortening the change log");
        let raft = &self.inner.raft;
        let mut metrics = raft.metrics();
        // Costs nothing: openraft is told what is applied, and shortens the log for it.
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

    /// The last entry of a member that is catching up, within what a leader keeps for that: without it, one that needs
    /// longer for a snapshot than the log for its bound would need the next one at once.
    fn held_behind(&self) -> Option<u64> {
        let kept = self
            .inner
            .config
            .change_log_bytes
            .saturating_mul(CATCHING_UP_TIMES);
        if self.inner.store.log_bytes() > kept {
            return None;
        }
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let now = R::Instant::now();
        let answers = metrics.heartbeat.as_ref()?;
        let in_contact = |id: &u64| {
            let answered = answers.get(id).copied().flatten();
            answered.is_some_and(|at| now.saturating_duration_since(*at) < IN_CONTACT)
                || self.inner.receivers.has(*id, IN_CONTACT, now)
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

/// Half of what is applied stays, so that a follower that was away for a while needs no snapshot.
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
