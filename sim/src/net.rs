//! The network between nodes. Each frame and each answer travels for itself: it takes its time (so frames overtake each
//! other), may be lost, may arrive twice, and does not arrive over a link that is cut, one way or both. A frame that
//! arrives twice is handled twice.
//!
//! Who dials a dead process is refused; who waits for its answer is told that the connection broke, and all others
//! notice the loss of their connections as the peer port would. Of a dead host, or over a cut, nobody hears anything.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::hash::Hasher;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use messagebase_daemon::raft::api::{Link, Target, Wire, WireError};
use messagebase_daemon::raft::{Replica, frame_kind, node_of};
use messagebase_daemon::store::Store;
use messagebase_protocol::peer::Purpose;
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use tokio::sync::oneshot;

use crate::node_lifetime::{NodeLifetime, NodeRuntime, lock};
use crate::rng::Rng;
use crate::run_context::RunContext;

/// A replica in the simulation.
pub type SimReplica = Replica<NodeRuntime, SimWire>;

/// The way of a frame on a quiet network, µs.
const DELAY_US: (u64, u64) = (50, 1_500);
/// The way of a frame that was held up, µs.
const SLOW_US: (u64, u64) = (2_000, 120_000);
/// Until the other side notices that a connection broke, µs.
const BROKEN_US: (u64, u64) = (50, 2_000);

/// What happens to the frames on a link, per mille.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noise {
    /// Lost.
    pub lost: u64,
    /// Arriving twice.
    pub twice: u64,
    /// Held up.
    pub slow: u64,
}

/// A node that runs.
#[derive(Clone)]
pub struct Station {
    /// Its Raft id.
    pub raft_id: u64,
    /// Its lifetime.
    pub lifetime: Arc<NodeLifetime>,
    /// Its replica. Work on it belongs into its lifetime.
    pub replica: SimReplica,
    /// Its store.
    pub store: Store,
}

#[derive(Default)]
struct State {
    stations: BTreeMap<u64, Station>,
    /// Hosts that answer nothing, not even a refusal.
    silent: BTreeSet<u64>,
    /// (from, to) by number: frames that way are lost.
    cut: BTreeSet<(u16, u16)>,
    noise: BTreeMap<(u16, u16), Noise>,
}

/// What all nodes share. Locked for a look only, never across an await.
#[derive(Clone)]
pub struct Net {
    /// The run.
    pub context: RunContext,
    state: Arc<Mutex<State>>,
    rng: Arc<Mutex<Rng>>,
}

impl Net {
    /// A quiet network.
    pub fn new(context: RunContext, rng: Rng) -> Net {
        Net {
            context,
            state: Arc::default(),
            rng: Arc::new(Mutex::new(rng)),
        }
    }

    /// The wire of one node.
    pub fn wire(&self, from: u64) -> SimWire {
        SimWire {
            net: self.clone(),
            from,
        }
    }

    /// From now on the node answers.
    pub fn join(&self, station: Station) {
        let mut state = lock(&self.state);
        state.silent.remove(&station.raft_id);
        state.stations.insert(station.raft_id, station);
    }

    /// The node's process is gone: its connections break, calls to it are refused.
    pub fn leave(&self, raft_id: u64) {
        let gone = lock(&self.state).stations.remove(&raft_id);
        // Dropped out of the lock.
        drop(gone);
        for peer in self.stations() {
            self.break_connection(raft_id, peer);
        }
    }

    /// The node's host is gone: silence.
    pub fn fall_silent(&self, raft_id: u64) {
        let mut state = lock(&self.state);
        state.silent.insert(raft_id);
        let gone = state.stations.remove(&raft_id);
        drop(state);
        drop(gone);
    }

    /// The connections between two nodes break though both are well.
    pub fn reset(&self, a: u64, b: u64) {
        for (from, to) in [(a, b), (b, a)] {
            if let Some(station) = self.at(to) {
                self.break_connection(from, station);
            }
        }
    }

    fn break_connection(&self, gone: u64, peer: Station) {
        let net = self.clone();
        let after = self.draw(BROKEN_US);
        SimRuntime::spawn(async move {
            SimRuntime::sleep(after).await;
            if peer.lifetime.lives() && !net.is_cut(gone, peer.raft_id) {
                net.context
                    .event(format_args!("broken {gone:#x} {:#x}", peer.raft_id));
                peer.replica.peer_lost(gone);
            }
        });
    }

    /// The node that runs under that id.
    pub fn at(&self, raft_id: u64) -> Option<Station> {
        lock(&self.state)
            .stations
            .get(&raft_id)
            .filter(|station| station.lifetime.lives())
            .cloned()
    }

    /// The nodes that run, by Raft id.
    pub fn stations(&self) -> Vec<Station> {
        lock(&self.state)
            .stations
            .values()
            .filter(|station| station.lifetime.lives())
            .cloned()
            .collect()
    }

    /// The node of that number, if it runs.
    pub fn station(&self, node: u16) -> Option<Station> {
        self.stations()
            .into_iter()
            .rev()
            .find(|station| node_of(station.raft_id) == node)
    }

    /// Frames from `from` to `to` are lost, nobody is told.
    pub fn cut_one_way(&self, from: u16, to: u16) {
        lock(&self.state).cut.insert((from, to));
    }

    /// Parts the node from the others, both ways.
    pub fn cut(&self, node: u16, others: impl IntoIterator<Item = u16>) {
        for other in others {
            self.cut_one_way(node, other);
            self.cut_one_way(other, node);
        }
    }

    /// Sets what happens to the frames of a link, one way.
    pub fn disturb(&self, from: u16, to: u16, noise: Noise) {
        lock(&self.state).noise.insert((from, to), noise);
    }

    /// Mends all cuts and quiets all links.
    pub fn heal(&self) {
        let mut state = lock(&self.state);
        state.cut.clear();
        state.noise.clear();
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        lock(&self.state)
            .cut
            .contains(&(node_of(from), node_of(to)))
    }

    fn is_silent(&self, raft_id: u64) -> bool {
        lock(&self.state).silent.contains(&raft_id)
    }

    fn draw(&self, (least, most): (u64, u64)) -> Duration {
        lock(&self.rng).micros(least, most)
    }

    /// When the copies of a frame arrive; none if it is lost.
    fn ways(&self, from: u64, to: u64) -> Vec<Duration> {
        let noise = lock(&self.state)
            .noise
            .get(&(node_of(from), node_of(to)))
            .copied()
            .unwrap_or_default();
        let mut rng = lock(&self.rng);
        if rng.hits(noise.lost) {
            self.context.count("frames lost");
            return Vec::new();
        }
        let copies = if rng.hits(noise.twice) {
            self.context.count("frames twice");
            2
        } else {
            1
        };
        let mut way = || {
            if rng.hits(noise.slow) {
                self.context.count("frames held up");
                rng.micros(SLOW_US.0, SLOW_US.1)
            } else {
                rng.micros(DELAY_US.0, DELAY_US.1)
            }
        };
        (0..copies).map(|_| way()).collect()
    }

    fn send(
        &self,
        from: u64,
        to: u64,
        frame: Vec<u8>,
    ) -> oneshot::Receiver<Result<Vec<u8>, WireError>> {
        let (answer, answered) = oneshot::channel();
        let answer = Arc::new(Mutex::new(Some(answer)));
        self.context.count("frames");
        for way in self.ways(from, to) {
            let journey = Journey {
                net: self.clone(),
                from,
                to,
                answer: answer.clone(),
            };
            SimRuntime::spawn(journey.forth(way, frame.clone()));
        }
        answered
    }
}

type Answer = Arc<Mutex<Option<oneshot::Sender<Result<Vec<u8>, WireError>>>>>;

/// Boxed, because serving may call back: a future can't hold itself.
fn serve(
    replica: SimReplica,
    from: u64,
    frame: Vec<u8>,
) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send>> {
    Box::pin(async move { replica.serve(from, frame).await })
}

/// One copy of a frame, and its answer. Goes on when its sender is dead: what was sent was sent.
struct Journey {
    net: Net,
    from: u64,
    to: u64,
    /// Of the first answer to arrive; shared by all copies.
    answer: Answer,
}

impl Journey {
    async fn forth(self, way: Duration, frame: Vec<u8>) {
        SimRuntime::sleep(way).await;
        let Journey { net, from, to, .. } = &self;
        if net.is_cut(*from, *to) || net.is_silent(*to) {
            net.context.count("frames cut off");
            return;
        }
        let Some(station) = net.at(*to) else {
            return self.back(Err(WireError::Refused("refused".into())));
        };
        let kind = frame_kind(&frame);
        net.context.event(format_args!(
            "{kind} {from:#x} {to:#x} {:016x} {}",
            digest(&frame),
            frame.len()
        ));
        match kind {
            "suspect" => net.context.count("suspicions"),
            "drop-lease" => net.context.count("leases dropped"),
            "transfer" => net.context.count("leaderships handed over"),
            "snapshot-chunk" => net.context.count("pieces of snapshots"),
            _ => {}
        }
        let (replica, from) = (station.replica.clone(), *from);
        let handled = station.lifetime.run(serve(replica, from, frame));
        drop(station);
        let answer = handled
            .await
            .ok_or_else(|| WireError::Lost("the connection broke".into()));
        self.back(answer);
    }

    fn back(self, answer: Result<Vec<u8>, WireError>) {
        for way in self.net.ways(self.to, self.from) {
            let (net, from, to, slot) = (self.net.clone(), self.from, self.to, self.answer.clone());
            let answer = answer.clone();
            SimRuntime::spawn(async move {
                SimRuntime::sleep(way).await;
                if net.is_cut(to, from) || (answer.is_err() && net.is_silent(to)) {
                    return net.context.count("frames cut off");
                }
                let Some(asker) = lock(&slot).take() else {
                    return;
                };
                let hash = answer.as_ref().map(|bytes| digest(bytes));
                net.context
                    .event(format_args!("answer {to:#x} {from:#x} {hash:x?}"));
                // The caller may have given up.
                let _ = asker.send(answer);
            });
        }
    }
}

fn digest(frame: &[u8]) -> u64 {
    let mut hash = std::hash::DefaultHasher::new();
    hash.write(frame);
    hash.finish()
}

/// One node's end of the network.
#[derive(Clone)]
pub struct SimWire {
    net: Net,
    from: u64,
}

impl Wire for SimWire {
    type Link = SimLink;

    fn link(&self, to: Target, _: Purpose) -> SimLink {
        SimLink {
            net: self.net.clone(),
            from: self.from,
            to: to.raft_id,
        }
    }
}

/// One connection.
pub struct SimLink {
    net: Net,
    from: u64,
    to: u64,
}

impl Link for SimLink {
    async fn call(&self, frame: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, WireError> {
        let answered = self.net.send(self.from, self.to, frame);
        let answer = async {
            match answered.await {
                Ok(answer) => answer,
                // All copies are lost, of which nobody is told.
                Err(_) => std::future::pending().await,
            }
        };
        match NodeRuntime::timeout(timeout, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(WireError::Lost("no answer in time".into())),
        }
    }
}
