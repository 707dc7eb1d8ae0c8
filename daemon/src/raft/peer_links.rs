//! Kept connections: one a peer and purpose, shared by all callers of that purpose, and open before they are needed. A
//! failover has milliseconds. A TLS handshake would cost several of them, four times one after the other (probes, votes, the
//! first append, forwarded writes).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use messagebase_protocol::peer::Purpose;
use parking_lot::Mutex;

use super::api::{Link, Target, Wire};
use super::frame::{Request, encode};

/// Pause between two checks of the kept connections.
pub(super) const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(1);
/// How long one check may take.
const KEEP_ALIVE_WAIT: Duration = Duration::from_millis(700);

/// The kept connections of one replica. Each kind has its own, so that none delays another.
pub(super) struct PeerLinks<W: Wire> {
    /// Votes, transfers, probes and suspicions.
    pub(super) control: Links<W>,
    pub(super) append: Links<W>,
    pub(super) heartbeat: Links<W>,
    /// Forwarded writes and read indexes.
    pub(super) forward: Links<W>,
}

impl<W: Wire> PeerLinks<W> {
    pub(super) fn new(wire: &W) -> Self {
        PeerLinks {
            control: Links::new(wire.clone(), Purpose::Raft),
            append: Links::new(wire.clone(), Purpose::Raft),
            heartbeat: Links::new(wire.clone(), Purpose::Raft),
            forward: Links::new(wire.clone(), Purpose::Forward),
        }
    }

    /// Opens a connection of each kind to each target, and closes those to others. Nodes that have nothing to say to each
    /// other while the leader lives need them at once when it dies.
    pub(super) async fn keep_alive(&self, targets: &[Target]) {
        let Ok(frame) = encode(&Request::Alive) else {
            return;
        };
        let mut links = Vec::new();
        for kind in [&self.control, &self.append, &self.heartbeat, &self.forward] {
            kind.keep_only(targets);
            links.extend(targets.iter().map(|target| kind.to(target.clone())));
        }
        // The answers do not matter: a link dials to ask, and keeps its connection.
        let asked: FuturesUnordered<_> = links
            .iter()
            .map(|link| link.call(frame.clone(), KEEP_ALIVE_WAIT))
            .collect();
        asked.count().await;
    }
}

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
        Links {
            wire,
            purpose,
            kept: Mutex::default(),
        }
    }

    /// The connection to `target`.
    pub(super) fn to(&self, target: Target) -> Arc<W::Link> {
        let mut kept = self.kept.lock();
        let key = (target.raft_id, target.peer.clone());
        kept.entry(key)
            .or_insert_with(|| Arc::new(self.wire.link(target, self.purpose)))
            .clone()
    }

    /// Closes connections to other targets, once their last user drops them.
    fn keep_only(&self, targets: &[Target]) {
        let mut kept = self.kept.lock();
        kept.retain(|(id, peer), _| {
            targets
                .iter()
                .any(|target| target.raft_id == *id && target.peer == *peer)
        });
    }
}
