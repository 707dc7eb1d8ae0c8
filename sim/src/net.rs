//! The network: frames arrive after a seeded delay, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use messagebase_daemon::raft::Replica;
use messagebase_daemon::raft::api::{Link, Target, Wire, WireError};
use messagebase_protocol::peer::Purpose;
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

/// A replica in the simulation.
pub type SimReplica = Replica<SimRuntime, SimWire>;

/// Longest way of a frame, µs; the shortest is a tenth.
const DELAY_US: u64 = 2_000;

#[derive(Default)]
struct State {
    nodes: BTreeMap<u64, SimReplica>,
    /// Pairs of numbers that hear nothing of each other.
    cut: BTreeSet<(u16, u16)>,
    chance: u64,
}

/// What all nodes share. Locked for a look only, never across an await.
#[derive(Clone, Default)]
pub struct Net {
    state: Arc<Mutex<State>>,
}

impl Net {
    /// A network whose delays follow from `seed`.
    pub fn new(seed: u64) -> Net {
        let net = Net::default();
        net.lock().chance = seed.wrapping_mul(2).wrapping_add(1);
        net
    }

    /// The wire of one node.
    pub fn wire(&self, from: u64) -> SimWire {
        SimWire { net: self.clone(), from }
    }

    /// From now on the node answers.
    pub fn join(&self, raft_id: u64, replica: SimReplica) {
        self.lock().nodes.insert(raft_id, replica);
    }

    /// Nobody is there any more: calls are refused.
    pub fn leave(&self, raft_id: u64) {
        self.lock().nodes.remove(&raft_id);
    }

    /// Parts the node from all others: frames are lost, nobody is told.
    pub fn cut(&self, node: u16, others: impl IntoIterator<Item = u16>) {
        let mut state = self.lock();
        for other in others {
            state.cut.insert((node, other));
            state.cut.insert((other, node));
        }
    }

    /// Mends all cuts.
    pub fn heal(&self) {
        self.lock().cut.clear();
    }

    /// The next seeded delay between a tenth of `most` and `most` µs.
    pub fn delay(&self, most_us: u64) -> Duration {
        let mut state = self.lock();
        // xorshift64: small, and the same on every machine.
        state.chance ^= state.chance << 13;
        state.chance ^= state.chance >> 7;
        state.chance ^= state.chance << 17;
        Duration::from_micros(most_us / 10 + state.chance % most_us)
    }

    fn path(&self, from: u64, to: u64) -> Path {
        let state = self.lock();
        let number = messagebase_daemon::raft::node_of;
        if state.cut.contains(&(number(from), number(to))) {
            return Path::Cut;
        }
        state.nodes.get(&to).cloned().map_or(Path::Refused, Path::Open)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Path {
    Open(SimReplica),
    Cut,
    Refused,
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
        SimLink { net: self.net.clone(), from: self.from, to: to.raft_id }
    }
}

/// One connection.
pub struct SimLink {
    net: Net,
    from: u64,
    to: u64,
}

fn serve(replica: SimReplica, from: u64, frame: Vec<u8>) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send>> {
    Box::pin(async move { replica.serve(from, frame).await })
}

impl SimLink {
    async fn carry(&self, frame: Vec<u8>) -> Result<Vec<u8>, WireError> {
        SimRuntime::sleep(self.net.delay(DELAY_US)).await;
        let answer = match self.net.path(self.from, self.to) {
            // Boxed, because serving may call back: a future can't hold itself.
            Path::Open(replica) => serve(replica, self.from, frame).await,
            Path::Refused => return Err(WireError::Refused("nobody is there".into())),
            Path::Cut => return std::future::pending().await,
        };
        SimRuntime::sleep(self.net.delay(DELAY_US)).await;
        match self.net.path(self.to, self.from) {
            Path::Cut => std::future::pending().await,
            Path::Open(_) | Path::Refused => Ok(answer),
        }
    }
}

impl Link for SimLink {
    async fn call(&self, frame: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, WireError> {
        match SimRuntime::timeout(timeout, self.carry(frame)).await {
            Ok(result) => result,
            Err(_) => Err(WireError::Lost("no answer in time".into())),
        }
    }
}
