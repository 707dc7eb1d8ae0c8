//! The clients' door: listeners, connections, dialects. Bytes come in as lines, leave as lines; what a request means
//! is `service/`'s business.
//!
//! A connection is four kinds of task: `session` reads and watches the clock; `lane` carries out its writes in
//! order; short tasks answer its reads; `writer` empties its outbox into the socket. `json` and `pipe` are the
//! two dialects: a third one is one more file.

mod answer;
mod json;
mod lane;
mod listener;
mod pipe;
mod session;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use messagebase_protocol::limits::{LOGIN_WAIT, PIPE_UNFINISHED, SESSION_IDLE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::service::Service;

/// How long a connection is waited for in each state. Production uses the default; tests shorten it.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Silence of a logged-in connection.
    pub idle: Duration,
    /// From connecting to logging in.
    pub login_wait: Duration,
    /// A pipe-shaped buffer without its newline.
    pub unfinished: Duration,
    /// Requests that were taken in before the connection closes; longer than a held write.
    pub drain: Duration,
    /// The same while the node stops, which is to take 5 s in all.
    pub shutdown_drain: Duration,
    /// A write of at most 64 KiB.
    pub stall: Duration,
    /// The last lines of a connection that is being closed, and the other side's own closing after them.
    pub grace: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            idle: SESSION_IDLE,
            login_wait: LOGIN_WAIT,
            unfinished: PIPE_UNFINISHED,
            drain: Duration::from_secs(10),
            shutdown_drain: Duration::from_millis(2_000),
            stall: Duration::from_secs(10),
            grace: Duration::from_millis(1_000),
        }
    }
}

/// Serves clients on any number of listeners, with one limit on connections for all of them.
pub struct Door {
    service: Arc<Service>,
    patience: Patience,
    /// One permit a connection.
    slots: Arc<Semaphore>,
    open: AtomicUsize,
}

/// A connection's place under the limit.
struct Slot {
    door: Arc<Door>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.door.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Door {
    /// `connections`: the greatest number of open client connections (`[limits] connections`).
    pub fn new(service: Arc<Service>, connections: u32, patience: Patience) -> Arc<Self> {
        let slots = usize::try_from(connections)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        Arc::new(Door {
            service,
            patience,
            slots: Arc::new(Semaphore::new(slots)),
            open: AtomicUsize::new(0),
        })
    }

    /// Open client connections.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn take_slot(self: &Arc<Self>) -> Option<Slot> {
        let permit = self.slots.clone().try_acquire_owned().ok()?;
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(Slot {
            door: self.clone(),
            _permit: permit,
        })
    }
}
