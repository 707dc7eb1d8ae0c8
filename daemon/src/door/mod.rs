//! The clients' door: listeners, connections, dialects. Cuts bytes into lines and writes lines; `service/` decides what a
//! request means.
//!
//! A connection has four kinds of task. `connection` reads and keeps the timeouts; `write_queue` carries out its writes
//! in order; short tasks answer its reads; `writer` empties its outbox into the socket. `json` and `pipe` are the two
//! dialects; a third one is one more file. `work` and `conn` hold what all of them share.

mod connection;
mod connection_shared;
mod json;
mod listener;
mod pipe;
#[cfg(test)]
mod tests;
mod timeouts;
mod work;
mod write_queue;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::hooks::RewriteRequest;
use crate::service::Service;
pub use timeouts::Timeouts;

/// Serves clients on any number of listeners, with one limit on connections for all of them.
pub struct Door {
    service: Arc<Service>,
    timeouts: Timeouts,
    rewrite: Option<RewriteRequest>,
    /// One permit for each connection.
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
    /// `connections`: the greatest number of open client connections (`[limits] connections`). `rewrite` is a test
    /// program's hook.
    pub fn new(
        service: Arc<Service>,
        connections: u32,
        timeouts: Timeouts,
        rewrite: Option<RewriteRequest>,
    ) -> Arc<Self> {
        let slots = usize::try_from(connections)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        Arc::new(Door {
            service,
            timeouts,
            rewrite,
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
