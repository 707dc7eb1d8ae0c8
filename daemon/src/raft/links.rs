//! Connections that are kept: one a peer and purpose, shared by all who talk to it for the same purpose, and open
//! before they are needed. A failover has milliseconds; a TLS handshake on its way would cost several of them, four
//! times one after the other (questions, votes, the first append, forwarded writes).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use messagebase_protocol::peer::Purpose;
use openraft::AsyncRuntime;

use super::api::{Link, Target, Wire};
use super::frame::{Request, encode};
use super::replica::Replica;

/// Between two looks at whether the kept connections stand.
const WARM_EVERY: Duration = Duration::from_secs(1);
/// What one look may take.
const WARM_WAIT: Duration = Duration::from_millis(700);

/// The kept connections of one replica, each kind for itself so that none delays another.
pub(super) struct PeerLinks<W: Wire> {
    /// Votes, transfers, and what is asked about a leader.
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

    fn all(&self) -> [&Links<W>; 4] {
        [&self.control, &self.append, &self.heartbeat, &self.forward]
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
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (target.raft_id, target.peer.clone());
        kept.entry(key)
            .or_insert_with(|| Arc::new(self.wire.link(target, self.purpose)))
            .clone()
    }

    /// Closes what leads to nobody of these any more, once the last user lets go of it.
    fn keep_only(&self, targets: &[Target]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(id, peer), _| {
            targets
                .iter()
                .any(|target| target.raft_id == *id && target.peer == *peer)
        });
    }
}

impl<R: AsyncRuntime, W: Wire> Replica<R, W> {
    /// Keeps a connection of each kind to each other member open, also between nodes that have nothing to say to each
    /// other as long as the leader lives.
    pub(super) async fn warm_loop(self) {
        loop {
            if self.unless_stopped(self.warm()).await.is_none() {
                return;
            }
            if self.unless_stopped(R::sleep(WARM_EVERY)).await.is_none() {
                return;
            }
        }
    }

    async fn warm(&self) {
        let Ok(frame) = encode(&Request::Alive) else {
            return;
        };
        let others: Vec<u64> = self
            .members()
            .iter()
            .map(|m| m.raft_id)
            .filter(|id| *id != self.raft_id())
            .collect();
        let targets: Vec<Target> = others
            .into_iter()
            .filter_map(|id| self.target(id))
            .collect();
        let links: Vec<Arc<W::Link>> = self
            .inner
            .links
            .all()
            .into_iter()
            .flat_map(|kind| {
                kind.keep_only(&targets);
                targets
                    .iter()
                    .map(|target| kind.to(target.clone()))
                    .collect::<Vec<_>>()
            })
            .collect();
        // Whether anybody answers is not the point: a link dials to ask, and keeps what it dialed.
        let asked: FuturesUnordered<_> = links
            .iter()
            .map(|link| link.call(frame.clone(), WARM_WAIT))
            .collect();
        asked.count().await;
    }
}
