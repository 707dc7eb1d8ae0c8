//! Connections that are kept: one a peer, shared by all who talk to it for the same purpose.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use messagebase_protocol::peer::Purpose;

use super::api::{Target, Wire};

type Kept<L> = HashMap<(u64, String), Arc<L>>;

/// Kept connections of one purpose, by Raft id and address. Few: one a member, and one more when it moved.
pub(super) struct Links<W: Wire> {
    wire: W,
    purpose: Purpose,
    /// Locked for a lookup only, never across an await.
    kept: Mutex<Kept<W::Link>>,
}

impl<W: Wire> Links<W> {
    pub(super) fn new(wire: W, purpose: Purpose) -> Self {
        Links { wire, purpose, kept: Mutex::default() }
    }

    /// The connection to `target`.
    pub(super) fn to(&self, target: Target) -> Arc<W::Link> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (target.raft_id, target.peer.clone());
        kept.entry(key).or_insert_with(|| Arc::new(self.wire.link(target, self.purpose))).clone()
    }
}
