//! Nodes under simulation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use messagebase_daemon::change::Settings;
use messagebase_daemon::raft::{Node, ReplicaConfig, node_of, raft_id};
use messagebase_daemon::state::effect::Effect;
use messagebase_daemon::store::{
    EffectSink, Identity, Job, Store, StoreError, StoreOptions, TableDigest, Writer, digest,
};
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
    raft_id: u64,
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
    change_log_bytes: u64,
}

impl Cluster {
    /// Starts nodes 1 to `count` and forms the cluster.
    pub async fn start(seed: u64, count: u16) -> Cluster {
        Cluster::start_with(seed, count, 64 * 1024 * 1024).await
    }

    /// The same, keeping only so many bytes of change log.
    pub async fn start_with(seed: u64, count: u16, change_log_bytes: u64) -> Cluster {
        let net = Net::new(seed);
        let began = SimInstant::now();
        let mut nodes = BTreeMap::new();
        for node in 1..=count {
            nodes.insert(node, start_node(&net, began, raft_id(1, node), change_log_bytes).await);
        }
        let member = |node: u16| {
            let address = format!("node-{node}");
            (raft_id(1, node), Node { node, client: address.clone(), peer: address, promote: false })
        };
        let members: BTreeMap<u64, Node> = (1..=count).map(member).collect();
        nodes[&1].replica.initialize(members).await.expect("a blank node forms the cluster");
        Cluster { net, nodes, began, seed, change_log_bytes }
    }

    /// A blank node in the place of one that lost its disk, under the Raft id it was given.
    pub async fn start_blank(&mut self, raft_id: u64) {
        let node = node_of(raft_id);
        let blank = start_node(&self.net, self.began, raft_id, self.change_log_bytes).await;
        self.nodes.insert(node, blank);
    }

    /// The node is gone at once, its files with it.
    pub async fn lose(&mut self, node: u16) {
        if let Some(lost) = self.nodes.remove(&node) {
            self.net.leave(lost.raft_id);
            lost.replica.shutdown().await;
        }
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
        for sim in self.nodes.into_values() {
            self.net.leave(sim.raft_id);
            sim.replica.shutdown().await;
        }
    }
}

async fn start_node(net: &Net, began: SimInstant, id: u64, change_log_bytes: u64) -> SimNode {
    let node = node_of(id);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = StoreOptions { dir: dir.path().to_owned(), node, readers: 2, effects: Arc::new(Nobody) };
    let (store, writer) = Store::open(options).expect("a blank store opens");
    SimRuntime::spawn(write(net.clone(), writer));
    let identity = Identity { cluster_id: CLUSTER_ID.into(), raft_id: id, founders: Vec::new() };
    let done = Box::new(|result: Result<(), StoreError>| result.expect("the identity is saved"));
    store.submit(Job::SaveIdentity { identity, done }).await.expect("the writer runs");
    let clock = Arc::new(move || EPOCH_MS + u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    let config = ReplicaConfig::new(id, CLUSTER_ID.into(), change_log_bytes, Settings::default());
    let replica = SimReplica::start(store.clone(), config, net.wire(id), clock).await.expect("the replica starts");
    net.join(id, replica.clone());
    SimNode { replica, store, raft_id: id, _dir: dir }
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
