//! Nodes under simulation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use messagebase_daemon::change::Settings;
use messagebase_daemon::raft::{Node, ReplicaConfig, node_of, raft_id};
use messagebase_daemon::state::effect::Effect;
use messagebase_daemon::store::{EffectSink, Store, StoreOptions, TableDigest, Writer, digest};
use openraft_rt::{AsyncRuntime, Instant};
use openraft_rt_sim::{SimInstant, SimRuntime};
use tempfile::TempDir;

use crate::net::{Net, SimReplica};

/// Unix ms at which every simulation begins.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Longest fsync, µs.
const FSYNC_US: u64 = 4_000;
/// Between two looks of [`Cluster::wait`], in virtual time.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Most that a condition is waited for, in virtual time.
const WAIT_MOST: Duration = Duration::from_secs(30);
/// The cluster's id.
const CLUSTER_ID: &str = "00000000000000000000000000000051";

struct Nobody;

impl EffectSink for Nobody {
    fn publish(&self, _: Vec<Effect>) {}
    fn resync(&self) {}
}

/// One node: its replica and its files.
pub struct SimNode {
    /// The replica.
    pub replica: SimReplica,
    /// The store.
    pub store: Store,
    _dir: TempDir,
}

impl SimNode {
    /// Digest of every replicated table.
    pub fn digest(&self) -> Vec<TableDigest> {
        self.store.readers().with(digest).expect("the file is readable")
    }
}

/// Some nodes and the network between them.
pub struct Cluster {
    /// The network.
    pub net: Net,
    /// By number.
    pub nodes: BTreeMap<u16, SimNode>,
    began: SimInstant,
    seed: u64,
}

impl Cluster {
    /// Starts nodes 1 to `count` and forms the cluster.
    pub async fn start(seed: u64, count: u16) -> Cluster {
        let net = Net::new(seed);
        let began = SimInstant::now();
        let mut nodes = BTreeMap::new();
        for node in 1..=count {
            nodes.insert(node, start_node(&net, began, node).await);
        }
        let member = |node: u16| {
            let address = format!("node-{node}");
            (raft_id(1, node), Node { node, client: address.clone(), peer: address, promote: false })
        };
        let members: BTreeMap<u64, Node> = (1..=count).map(member).collect();
        nodes[&1].replica.initialize(members).await.expect("a blank node forms the cluster");
        Cluster { net, nodes, began, seed }
    }

    /// The replica of a node.
    pub fn replica(&self, node: u16) -> &SimReplica {
        &self.nodes[&node].replica
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Parts `node` from all others.
    pub fn isolate(&self, node: u16) {
        self.net.cut(node, self.nodes.keys().copied().filter(|other| *other != node));
    }

    /// The leader on which all of `among` agree, one that says so itself.
    pub fn leader_among(&self, among: &[u16]) -> Option<u16> {
        let views: Vec<_> = among.iter().map(|node| self.replica(*node).view()).collect();
        let leader = views.first()?.leader?;
        let agreed = views.iter().all(|view| view.leader == Some(leader) && view.term == views[0].term);
        (agreed && among.contains(&leader) && self.replica(leader).view().role == "leader").then_some(leader)
    }

    /// Waits in virtual time until `condition` gives something; panics with the reason and the seed.
    pub async fn wait<T>(&self, reason: &str, condition: impl Fn(&Cluster) -> Option<T>) -> T {
        let deadline = SimInstant::now() + WAIT_MOST;
        loop {
            if let Some(value) = condition(self) {
                return value;
            }
            if SimInstant::now() >= deadline {
                let views: Vec<_> = self.nodes.iter().map(|(n, node)| (n, node.replica.view())).collect();
                panic!("seed {}: waited in vain for {reason}; {views:#?}", self.seed);
            }
            SimRuntime::sleep(LOOK_EVERY).await;
        }
    }

    /// Stops everything.
    pub async fn shutdown(self) {
        for (node, sim) in self.nodes {
            self.net.leave(raft_id(1, node));
            sim.replica.shutdown().await;
        }
    }
}

async fn start_node(net: &Net, began: SimInstant, node: u16) -> SimNode {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = StoreOptions { dir: dir.path().to_owned(), node, readers: 2, effects: Arc::new(Nobody) };
    let (store, writer) = Store::open(options).expect("a blank store opens");
    SimRuntime::spawn(write(net.clone(), writer));
    let id = raft_id(1, node);
    let clock = Arc::new(move || EPOCH_MS + u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    let config = ReplicaConfig::new(id, CLUSTER_ID.into(), 64 * 1024 * 1024, Settings::default());
    let replica = SimReplica::start(store.clone(), config, net.wire(id), clock).await.expect("the replica starts");
    assert_eq!(node_of(id), node);
    net.join(id, replica.clone());
    SimNode { replica, store, _dir: dir }
}

/// The writer's thread, as a task whose disk takes virtual time.
async fn write(net: Net, mut writer: Writer) {
    while let Some(job) = writer.recv().await {
        SimRuntime::sleep(net.delay(FSYNC_US)).await;
        if writer.step(job).is_err() {
            return;
        }
    }
}
