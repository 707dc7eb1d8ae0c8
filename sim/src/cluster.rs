//! Nodes under simulation: started, killed, started again from what they had on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use messagebase_daemon::change::Settings;
use messagebase_daemon::raft::{Node, ReplicaConfig, node_of, raft_id};
use messagebase_daemon::state::effect::Effect;
use messagebase_daemon::store::{
    EffectSink, Identity, Job, Store, StoreError, StoreOptions, TableDigest, digest,
};
use messagebase_protocol::role::NodeRole;
use openraft_rt::{AsyncRuntime, Instant};
use openraft_rt_sim::{SimInstant, SimRuntime};
use tempfile::TempDir;

use crate::disk::{self, DiskMood};
use crate::net::{Net, SimReplica, Station};
use crate::node_lifetime::{NodeLifetime, NodeRuntime, lock};
use crate::rng::Rng;
use crate::run_context::RunContext;

/// Unix ms at which every simulation begins.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Between two looks of [`Cluster::wait`], in virtual time.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Most that a condition is waited for, in virtual time.
const WAIT_MOST: Duration = Duration::from_secs(30);
/// The cluster's id.
const CLUSTER_ID: &str = "00000000000000000000000000000051";
/// Change log of a cluster that is to need no snapshot.
const PLENTY: u64 = 64 * 1024 * 1024;
/// Clocks of the nodes differ by at most this, ms.
const SKEW_MS: u64 = 2_000;
/// Messages after which the index is merged: so few that every run merges many times, and dies while it does.
const MERGED_EARLY: usize = 16;

struct Nobody;

impl EffectSink for Nobody {
    fn publish(&self, _: Vec<Effect>) {}
    fn resync(&self) {}
}

/// One node that was started.
pub struct SimNode {
    /// The replica.
    pub replica: SimReplica,
    /// The store.
    pub store: Store,
    /// Its lifetime.
    pub lifetime: Arc<NodeLifetime>,
    /// How its disk behaves.
    pub mood: DiskMood,
    raft_id: u64,
    end: Arc<End>,
}

/// What becomes of a lifetime's directory, and of its connections.
struct End {
    dir: PathBuf,
    /// Where the copy goes that the next lifetime begins with.
    heritage: PathBuf,
    /// The whole host goes, so that nobody is told.
    host: AtomicBool,
    /// Nothing is kept.
    disk: AtomicBool,
}

impl SimNode {
    /// Digest of every replicated table.
    pub fn digest(&self) -> Vec<TableDigest> {
        self.store
            .readers()
            .with(digest)
            .expect("the file is readable")
    }

    /// Its Raft id.
    pub fn raft_id(&self) -> u64 {
        self.raft_id
    }
}

/// A node that is down and can come back.
#[derive(Debug, Clone)]
struct Down {
    raft_id: u64,
    dir: PathBuf,
}

/// Some nodes and the network between them.
pub struct Cluster {
    /// The network.
    pub net: Net,
    /// Those that run, by number; one whose lifetime just ended by itself is here until [`Cluster::bury`].
    pub nodes: BTreeMap<u16, SimNode>,
    down: BTreeMap<u16, Down>,
    seed: u64,
    change_log_bytes: u64,
    rng: Rng,
    /// Counts lives, over all nodes.
    lives: AtomicU64,
    root: TempDir,
}

impl Cluster {
    /// Starts nodes 1 to `count` and forms the cluster.
    pub async fn start(seed: u64, count: u16) -> Cluster {
        Cluster::start_with(seed, count, PLENTY).await
    }

    /// The same, with this bound of its change log, in bytes.
    pub async fn start_with(seed: u64, count: u16, change_log_bytes: u64) -> Cluster {
        let mut rng = Rng::new(seed);
        let net = Net::new(RunContext::new(), rng.fork(1));
        let root = temporary();
        let mut cluster = Cluster {
            net,
            nodes: BTreeMap::new(),
            down: BTreeMap::new(),
            seed,
            change_log_bytes,
            rng,
            lives: AtomicU64::new(0),
            root,
        };
        for node in 1..=count {
            cluster.start_blank(raft_id(1, node)).await;
        }
        let members: BTreeMap<u64, Node> = (1..=count)
            .map(|node| (raft_id(1, node), member(node)))
            .collect();
        let first = cluster.nodes[&1].replica.clone();
        let formed = cluster.nodes[&1]
            .lifetime
            .run(async move { first.initialize(members).await });
        formed
            .await
            .expect("nothing ends the node")
            .expect("a blank node forms the cluster");
        cluster
    }

    /// A blank node, in the place of one that lost its disk or for one that was added, under the Raft id it was given.
    pub async fn start_blank(&mut self, raft_id: u64) {
        let dir = self.new_dir(node_of(raft_id));
        self.begin(raft_id, dir).await;
    }

    /// Starts a node again from its files. False if its lifetime ended before it was up; then it is down again.
    pub async fn restart(&mut self, node: u16) -> bool {
        let Some(Down { raft_id, dir }) = self.down.remove(&node) else {
            return false;
        };
        self.begin(raft_id, dir).await
    }

    async fn begin(&mut self, raft_id: u64, dir: PathBuf) -> bool {
        let node = node_of(raft_id);
        let number = self.lives.fetch_add(1, Ordering::SeqCst);
        self.net
            .context
            .event(format_args!("start {raft_id:#x} lifetime {number}"));
        let heritage = self.new_dir(node);
        let end = End {
            dir,
            heritage,
            host: AtomicBool::new(false),
            disk: AtomicBool::new(false),
        };
        let end = Arc::new(end);
        let start = Start {
            net: self.net.clone(),
            raft_id,
            number,
            dir: end.dir.clone(),
            change_log_bytes: self.change_log_bytes,
            skew_ms: self.rng.between(0, SKEW_MS),
            rng: self.rng.fork(number),
            mood: DiskMood::default(),
        };
        let mood = start.mood.clone();
        let lifetime = new_life(&self.net, raft_id, end.clone());
        let started = lifetime.run(start.run(lifetime.clone())).await;
        match started {
            Some((replica, store)) => {
                self.nodes.insert(
                    node,
                    SimNode {
                        replica,
                        store,
                        lifetime,
                        mood,
                        raft_id,
                        end,
                    },
                );
                true
            }
            None => {
                lifetime.kill();
                self.down.insert(
                    node,
                    Down {
                        raft_id,
                        dir: end.heritage.clone(),
                    },
                );
                false
            }
        }
    }

    fn new_dir(&mut self, node: u16) -> PathBuf {
        let number = self.lives.fetch_add(1, Ordering::SeqCst);
        self.root.path().join(format!("node-{node}-{number}"))
    }

    /// The node's process ends at once, or with `host` all of its host; its files stay as they are.
    pub fn kill(&mut self, node: u16, host: bool) {
        if let Some(sim) = self.nodes.get(&node) {
            sim.end.host.store(host, Ordering::SeqCst);
            sim.lifetime.kill();
        }
        self.bury();
    }

    /// The same, after this number of the node's steps.
    pub fn kill_after(&mut self, node: u16, steps: u64, host: bool) {
        if let Some(sim) = self.nodes.get(&node) {
            sim.end.host.store(host, Ordering::SeqCst);
            sim.lifetime.end_after(steps);
        }
    }

    /// Those whose lifetime ended count as down from now on. Returns who they were.
    pub fn bury(&mut self) -> Vec<u16> {
        let ended: Vec<u16> = self
            .nodes
            .iter()
            .filter(|(_, sim)| !sim.lifetime.lives())
            .map(|(node, _)| *node)
            .collect();
        for node in &ended {
            if let Some(SimNode { raft_id, end, .. }) = self.nodes.remove(node)
                && !end.disk.load(Ordering::SeqCst)
            {
                self.down.insert(
                    *node,
                    Down {
                        raft_id,
                        dir: end.heritage.clone(),
                    },
                );
            }
        }
        ended
    }

    /// Those that are down and can come back.
    pub fn down(&self) -> BTreeSet<u16> {
        self.down.keys().copied().collect()
    }

    /// The node is gone at once, its files with it.
    pub async fn lose(&mut self, node: u16) {
        let raft_id = match (self.nodes.get(&node), self.down.remove(&node)) {
            (Some(sim), _) => {
                sim.end.disk.store(true, Ordering::SeqCst);
                sim.raft_id
            }
            (None, Some(down)) => down.raft_id,
            (None, None) => return,
        };
        self.kill(node, false);
        self.net
            .context
            .event(format_args!("lost {raft_id:#x} with its disk"));
        self.net.context.checks().lost(raft_id);
    }

    /// Stops the node as SIGTERM does; its files stay.
    pub async fn stop(&mut self, node: u16) {
        if let Some(sim) = self.nodes.get(&node) {
            let replica = sim.replica.clone();
            let stopped = sim.lifetime.run(async move {
                replica.step_down_for_stop().await;
                replica.shutdown().await;
            });
            // It may be killed on the way.
            let _ = stopped.await;
        }
        self.kill(node, false);
    }

    /// The replica of a node.
    pub fn replica(&self, node: u16) -> &SimReplica {
        &self.nodes[&node].replica
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.net.context.elapsed()
    }

    /// Parts `node` from all others.
    pub fn isolate(&self, node: u16) {
        self.net.cut(
            node,
            self.nodes.keys().copied().filter(|other| *other != node),
        );
    }

    /// The leader on which all of `among` agree, one that says so itself.
    pub fn leader_among(&self, among: &[u16]) -> Option<u16> {
        let views: Vec<_> = among
            .iter()
            .map(|node| self.replica(*node).view())
            .collect();
        let leader = views.first()?.leader?;
        let agreed = views
            .iter()
            .all(|view| view.leader == Some(leader) && view.term == views[0].term);
        (agreed && among.contains(&leader) && self.replica(leader).view().role == NodeRole::Leader)
            .then_some(leader)
    }

    /// Who leads, as the node with the greatest term says.
    pub fn leader(&self) -> Option<u16> {
        let alive = self.nodes.iter().filter(|(_, sim)| sim.lifetime.lives());
        let leading = alive
            .map(|(node, sim)| (sim.replica.metrics(), *node))
            .filter(|(glance, _)| glance.leads);
        leading
            .max_by_key(|(glance, node)| (glance.term, *node))
            .map(|(_, node)| node)
    }

    /// Waits in virtual time until `condition` gives something.
    ///
    /// # Errors
    /// At the end of `most`, or when an invariant is broken; says why.
    pub async fn try_wait<T>(
        &self,
        reason: &str,
        most: Duration,
        condition: impl Fn(&Cluster) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = SimInstant::now() + most;
        loop {
            if let Some(broken) = self.net.context.checks().violations().first() {
                return Err(broken.clone());
            }
            if let Some(value) = condition(self) {
                return Ok(value);
            }
            if SimInstant::now() >= deadline {
                let views: Vec<_> = self
                    .nodes
                    .iter()
                    .map(|(n, node)| (n, node.replica.view()))
                    .collect();
                return Err(format!(
                    "waited in vain for {reason}; down: {:?}; {views:#?}",
                    self.down
                ));
            }
            SimRuntime::sleep(LOOK_EVERY).await;
        }
    }

    /// The same; panics with the reason and the seed.
    pub async fn wait<T>(&self, reason: &str, condition: impl Fn(&Cluster) -> Option<T>) -> T {
        match self.try_wait(reason, WAIT_MOST, condition).await {
            Ok(value) => value,
            Err(why) => panic!("seed {}: {why}", self.seed),
        }
    }

    /// Ends everything; nothing is kept.
    pub async fn shutdown(mut self) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.lose(node).await;
        }
    }
}

fn member(node: u16) -> Node {
    let address = format!("node-{node}");
    Node {
        node,
        client: address.clone(),
        peer: address,
        promote: false,
    }
}

/// In memory where the system has such a place: the simulated disk's time is virtual.
fn temporary() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.or_else(|_| tempfile::tempdir())
        .expect("a temporary directory")
}

fn new_life(net: &Net, raft_id: u64, end: Arc<End>) -> Arc<NodeLifetime> {
    let (at_end, at_panic) = (net.clone(), net.context.clone());
    NodeLifetime::begin(
        Box::new(move || {
            at_end.context.event(format_args!("dead {raft_id:#x}"));
            at_end.context.count("deaths");
            if !end.disk.load(Ordering::SeqCst)
                && let Err(error) = disk::copy_dir(&end.dir, &end.heritage)
            {
                at_end.context.violated(format!(
                    "the simulation failed to keep the files of {raft_id:#x}: {error}"
                ));
            }
            if end.host.load(Ordering::SeqCst) {
                at_end.fall_silent(raft_id);
            } else {
                at_end.leave(raft_id);
            }
        }),
        Box::new(move |message| {
            at_panic.violated(format!("node {raft_id:#x}: a task panicked: {message}"))
        }),
    )
}

/// A node's start, all of it within its lifetime: it may end anywhere in it.
struct Start {
    net: Net,
    raft_id: u64,
    number: u64,
    dir: PathBuf,
    change_log_bytes: u64,
    skew_ms: u64,
    rng: Rng,
    mood: DiskMood,
}

impl Start {
    async fn run(self, lifetime: Arc<NodeLifetime>) -> (SimReplica, Store) {
        let Start {
            net,
            raft_id: id,
            number,
            dir,
            change_log_bytes,
            skew_ms,
            rng,
            mood,
        } = self;
        let context = net.context.clone();
        let options = StoreOptions {
            dir,
            node: node_of(id),
            readers: 1,
            merge_at: MERGED_EARLY,
            change_log_bytes,
            effects: Arc::new(Nobody),
        };
        let (store, writer) = Store::open(options).expect("its own store opens");
        disk::reopened(&context, id, &store).expect("its own store can be read");
        NodeRuntime::spawn(disk::write(
            context.clone(),
            id,
            store.readers().clone(),
            writer,
            mood,
            rng,
        ));
        if store.identity().is_none() {
            save_identity(&store, id).await;
        }
        let began = context.clone();
        let clock = move || {
            EPOCH_MS + skew_ms + u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
        };
        let config =
            ReplicaConfig::new(id, CLUSTER_ID.into(), change_log_bytes, Settings::default());
        let replica = SimReplica::start(
            store.clone(),
            config,
            net.wire(id),
            Arc::new(clock),
            NodeRuntime::spawn,
        )
        .await;
        let replica = replica.expect("the replica starts");
        lifetime.set_probe(probe(
            context.clone(),
            id,
            number,
            replica.clone(),
            store.clone(),
        ));
        let failing = replica.clone();
        NodeRuntime::spawn(async move {
            let why = failing.failed().await;
            context.violated(format!("node {id:#x}: replication failed: {why}"));
        });
        net.join(Station {
            raft_id: id,
            lifetime,
            replica: replica.clone(),
            store: store.clone(),
        });
        (replica, store)
    }
}

async fn save_identity(store: &Store, raft_id: u64) {
    let (saved, durable) = tokio::sync::oneshot::channel();
    let identity = Identity {
        cluster_id: CLUSTER_ID.into(),
        raft_id,
        founders: Vec::new(),
    };
    let done = Box::new(move |result: Result<(), StoreError>| {
        // A node that was killed meanwhile waits for nothing.
        let _ = saved.send(result);
    });
    store
        .submit(Job::SaveIdentity { identity, done })
        .await
        .expect("the writer runs");
    durable
        .await
        .expect("the writer answers")
        .expect("the identity is saved");
}

/// Looks at a node after each of its steps.
fn probe(
    context: RunContext,
    id: u64,
    lifetime: u64,
    replica: SimReplica,
    store: Store,
) -> Arc<dyn Fn() + Send + Sync> {
    let last = Mutex::new(None);
    Arc::new(move || {
        let glance = replica.metrics();
        let before = lock(&last).replace(glance);
        if before == Some(glance) {
            return;
        }
        let led = before.is_some_and(|before| before.leads && before.term == glance.term);
        if glance.leads && !led {
            context.event(format_args!("leads {id:#x} in {}", glance.term));
            context.count("elections won");
        }
        let due = context.checks().glanced(id, lifetime, glance);
        let Some(due) = due.filter(|due| due.index >= store.log_begin()) else {
            return;
        };
        let found = store.read_log(due.index..due.index + 1, usize::MAX);
        if found
            .as_ref()
            .ok()
            .and_then(|rows| rows.first())
            .is_none_or(|row| row.id != due)
        {
            let has = found.map(|rows| rows.first().map(|row| row.id));
            context.violated(format!(
                "node {id:#x}: leads in {} without {due:?}; there: {has:?}",
                glance.term
            ));
        }
    })
}
