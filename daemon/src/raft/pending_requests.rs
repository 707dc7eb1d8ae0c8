//! Requests of peers that are in flight on this node: forwarded writes and read indexes. A peer answers its own caller only
//! after it has applied what was committed, so a commit must be told to it at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// The peers with requests in flight, by Raft id.
#[derive(Default)]
pub(super) struct PendingRequests(Mutex<BTreeMap<u64, Arc<PeerRequests>>>);

impl PendingRequests {
    /// Those of one peer.
    pub(super) fn of(&self, peer: u64) -> Arc<PeerRequests> {
        self.0.lock().entry(peer).or_default().clone()
    }
}

/// The requests of one peer.
#[derive(Default)]
pub(super) struct PeerRequests {
    /// How many are in flight.
    in_flight: AtomicU32,
    /// Whether one was answered since this was last looked at.
    answered: AtomicBool,
    /// The task that delays the notice of a commit.
    notifier: AtomicWaker,
}

impl PeerRequests {
    /// A request begins; it ends when the returned value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> PendingRequest {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        PendingRequest(self.clone())
    }

    /// Whether the peer waits for a commit, or was answered since the last call. Wakes the task with the next answer. A
    /// request that begins needs no wake-up: it brings entries, or is answered soon.
    pub(super) fn waits(&self, cx: &Context<'_>) -> bool {
        self.notifier.register(cx.waker());
        self.answered.swap(false, Ordering::AcqRel) || self.in_flight.load(Ordering::Acquire) > 0
    }
}

/// A request in flight.
pub(super) struct PendingRequest(Arc<PeerRequests>);

impl Drop for PendingRequest {
    fn drop(&mut self) {
        self.0.answered.store(true, Ordering::Release);
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.0.notifier.wake();
    }
}
