//! What the leader proposes by itself: settings, expired sessions, delivered messages, learners that may vote.

use std::sync::Arc;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::async_runtime::{Instant, Select2, WatchReceiver};
use rusqlite::{Connection, params};

use super::api::{Draft, Wire};
use super::blocking::blocking;
use super::core::Core;
use super::membership::MembershipChanges;
use super::propose::{Origin, Proposer};
use crate::change::{Change, Settings};
use crate::state::read;

/// Pause between two looks at settings, expired sessions and delivered messages.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(60);
/// Pause between two looks at unfinished changes and at learners that want to vote, and while messages remain to be
/// forgotten.
const PROMOTE_EVERY: Duration = Duration::from_secs(1);
/// How long one proposal of the leader's own may take.
const PROPOSAL_WAIT: Duration = Duration::from_secs(5);
/// Delivered messages forgotten by one change.
const FORGET_MAX: u32 = 1_000;

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// The leader's own proposals.
pub(super) struct Housekeeping<R: AsyncRuntime, W: Wire> {
    core: Arc<Core<R, W>>,
    proposer: Arc<Proposer<R, W>>,
    membership: Arc<MembershipChanges<R, W>>,
}

impl<R: AsyncRuntime, W: Wire> Housekeeping<R, W> {
    pub(super) fn new(
        core: Arc<Core<R, W>>,
        proposer: Arc<Proposer<R, W>>,
        membership: Arc<MembershipChanges<R, W>>,
    ) -> Self {
        Housekeeping {
            core,
            proposer,
            membership,
        }
    }

    pub(super) async fn run(self) {
        let mut metrics = self.core.raft.server_metrics();
        let mut next = R::Instant::now();
        loop {
            metrics.borrow_and_update();
            if self.core.ensure_leads().is_ok() {
                if self
                    .core
                    .unless_stopped(self.look(&mut next))
                    .await
                    .is_none()
                {
                    return;
                }
                let pause = R::select2(R::sleep(PROMOTE_EVERY), metrics.changed());
                if !matches!(
                    self.core.unless_stopped(pause).await,
                    Some(Select2::First(()) | Select2::Second(Ok(())))
                ) {
                    return;
                }
            } else {
                // A new leader looks at once.
                next = R::Instant::now();
                if !matches!(
                    self.core.unless_stopped(metrics.changed()).await,
                    Some(Ok(()))
                ) {
                    return;
                }
            }
        }
    }

    async fn look(&self, next: &mut R::Instant) {
        self.membership.finish_change().await;
        self.membership.promote_ready_learners().await;
        if R::Instant::now() < *next {
            return;
        }
        let readers = self.core.store.readers().clone();
        let now = (self.core.clock)();
        let look = blocking::<R, _, _>(move || readers.with(|conn| due(conn, now)));
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
        if settings != self.core.config.settings {
            changes.push(Change::Settings(self.core.config.settings));
        }
        if expired {
            changes.push(Change::ExpireSessions {});
        }
        if forgettable {
            changes.push(Change::ForgetDelivered {
                at_most: FORGET_MAX,
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
        // The next look, on any leader, proposes again what fails here.
        let reply = self
            .proposer
            .propose_here(
                Origin::Replication,
                &drafts,
                R::Instant::now() + PROPOSAL_WAIT,
            )
            .await;
        tracing::debug!(?reply, "proposed housekeeping");
    }
}

/// What the leader has to propose.
struct Due {
    /// The replicated settings.
    settings: Settings,
    /// Whether a session has expired.
    expired: bool,
    /// Whether a delivered message is to be forgotten.
    forgettable: bool,
}

/// Reads the state at `now` (Unix ms). Apply decides again.
fn due(conn: &Connection, now: u64) -> rusqlite::Result<Due> {
    let settings = read::settings(conn)?;
    // SQLite's integers are signed; no clock comes near their end.
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let exists = |sql: &str, before: u64| {
        conn.query_row(sql, params![signed(before)], |row| row.get::<_, bool>(0))
    };
    let expired = exists(
        "SELECT EXISTS (SELECT 1 FROM sessions WHERE expires_at <= ?1)",
        now,
    )?;
    let days = u64::from(settings.delivered_days);
    let forgettable = days > 0
        && exists(
            "SELECT EXISTS (SELECT 1 FROM messages WHERE delivered_at < ?1)",
            now.saturating_sub(days * DAY_MS),
        )?;
    Ok(Due {
        settings,
        expired,
        forgettable,
    })
}
