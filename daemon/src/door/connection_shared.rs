//! What the tasks of one connection share.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::hooks::RewriteRequest;
use crate::service::{Connection, Service};

/// Reads of one connection at work at a time; the others of its pipeline wait. All connections share the readers.
const CONCURRENT_READS: usize = 4;

/// A connection's shared half.
pub(super) struct ConnShared {
    pub(super) service: Arc<Service>,
    pub(super) conn: Connection,
    /// A test program's hook on requests of the JSON dialect.
    pub(super) rewrite: Option<RewriteRequest>,
    /// Counts the answered requests that began or ended a session.
    session_changes: watch::Sender<u64>,
    /// One permit for each read at work.
    pub(super) read_permits: Semaphore,
    /// Ends the reading tasks with the connection: what they wait for may never come.
    pub(super) closed: CancellationToken,
}

impl ConnShared {
    pub(super) fn new(
        service: Arc<Service>,
        conn: Connection,
        rewrite: Option<RewriteRequest>,
    ) -> Self {
        ConnShared {
            service,
            conn,
            rewrite,
            session_changes: watch::Sender::new(0),
            read_permits: Semaphore::new(CONCURRENT_READS),
            closed: CancellationToken::new(),
        }
    }

    /// A request that begins or ends a session has been answered.
    pub(super) fn session_changed(&self) {
        self.session_changes.send_modify(|changes| *changes += 1);
    }

    /// Waits until `changes` requests that begin or end a session have been answered.
    pub(super) async fn wait_for_session(&self, changes: u64) {
        // An error is impossible: the sender lives in `self`.
        let _ = self
            .session_changes
            .subscribe()
            .wait_for(|answered| *answered >= changes)
            .await;
    }
}
