//! What happens to the nodes of a run: faults and operations drawn from the seed, always so that the cluster can
//! recover in the end. At most one node at a time is without its disk or outside of the membership.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use messagebase_daemon::raft::{node_of, raft_id};
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use crate::chance::Chance;
use crate::cluster::Cluster;
use crate::life::lock;
use crate::net::{Noise, Station};

/// Between two faults, ms.
const PAUSE_MS: (u64, u64) = (5, 220);
/// Steps until a crash; most seconds of a leader have a few thousand.
const STEPS: (u64, u64) = (0, 1_500);
/// A node stays down so long, ms.
const DOWN_MS: (u64, u64) = (10, 1_200);
/// The network stays as it was made, ms.
const WEATHER_MS: (u64, u64) = (100, 1_500);
/// A disk stands still so long, ms.
const STALL_MS: (u64, u64) = (40, 500);
/// One call of an operator may take so long before another leader is asked.
const SURGERY_WAIT: Duration = Duration::from_secs(3);

/// What a run is to be like.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Founders.
    pub nodes: u16,
    /// Small ones make snapshots necessary.
    pub change_log_bytes: u64,
    /// How long faults happen, in virtual time.
    pub chaos: Duration,
    /// Whether the membership is changed too.
    pub surgery: bool,
}

impl Plan {
    /// Of a seed.
    pub fn draw(chance: &mut Chance) -> Plan {
        Plan {
            nodes: chance.pick(&[3, 3, 3, 4, 5]).unwrap_or(3),
            change_log_bytes: chance
                .pick(&[6 * 1024, 16 * 1024, 1024 * 1024])
                .unwrap_or(16 * 1024),
            chaos: chance.millis(1_500, 3_000),
            surgery: chance.hits(400),
        }
    }
}

/// A change of the membership that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Surgery {
    /// Without its disk since then; to be replaced.
    Replace(u16),
    /// To be taken out.
    Remove(u16),
    /// Out; to be taken in again.
    Add(u16),
}

/// Draws the faults of a run, one after the other.
pub struct Storm {
    chance: Chance,
    plan: Plan,
    /// When nodes that are down come back, in virtual time.
    back_at: BTreeMap<u16, Duration>,
    calm_at: Option<Duration>,
    surgery: Option<Surgery>,
    /// The operator's call that goes on: when it began, and what became of it.
    call: Option<(Duration, CallSlot)>,
}

type CallSlot = Arc<Mutex<Option<Option<u64>>>>;

#[derive(Debug, Clone, Copy)]
enum Fault {
    Crash,
    CrashAll,
    Stop,
    Isolate,
    OneWay,
    Split,
    Noise,
    Reset,
    Stall,
    Transfer,
    Campaign,
    Surgery,
}

/// Each so often as it stands here.
const FAULTS: [Fault; 32] = {
    use Fault::{
        Campaign, Crash, CrashAll, Isolate, Noise, OneWay, Reset, Split, Stall, Stop, Surgery,
        Transfer,
    };
    [
        Crash, Crash, Crash, Crash, Crash, Crash, Crash, Crash, Crash, CrashAll, Stop, Isolate,
        Isolate, Isolate, OneWay, OneWay, OneWay, Split, Split, Noise, Noise, Noise, Reset, Reset,
        Stall, Stall, Transfer, Transfer, Campaign, Campaign, Surgery, Surgery,
    ]
};

impl Storm {
    /// Of a plan.
    pub fn new(plan: Plan, chance: Chance) -> Storm {
        Storm {
            chance,
            plan,
            back_at: BTreeMap::new(),
            calm_at: None,
            surgery: None,
            call: None,
        }
    }

    /// Faults, until the plan's time is over or an invariant is broken.
    pub async fn rage(&mut self, cluster: &mut Cluster) {
        let end = cluster.elapsed() + self.plan.chaos;
        while cluster.elapsed() < end && cluster.net.world.checks().violations().is_empty() {
            self.tend(cluster).await;
            if let Some(fault) = self.chance.pick(&FAULTS) {
                self.strike(fault, cluster).await;
            }
            SimRuntime::sleep(self.chance.millis(PAUSE_MS.0, PAUSE_MS.1)).await;
        }
    }

    /// The end of all faults: mended, everybody comes back, what was begun is finished. False if it was in vain.
    pub async fn abate(&mut self, cluster: &mut Cluster, most: Duration) -> bool {
        let end = cluster.elapsed() + most;
        cluster.net.heal();
        for sim in cluster.nodes.values() {
            sim.life.end_after(u64::MAX);
        }
        self.back_at.clear();
        while cluster.elapsed() < end && cluster.net.world.checks().violations().is_empty() {
            cluster.bury();
            for node in cluster.down() {
                cluster.restart(node).await;
            }
            self.operate(cluster).await;
            if cluster.down().is_empty() && self.surgery.is_none() {
                return true;
            }
            SimRuntime::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// What is due: the dead come back, the weather clears.
    async fn tend(&mut self, cluster: &mut Cluster) {
        cluster.bury();
        let now = cluster.elapsed();
        for node in cluster.down() {
            let at = *self
                .back_at
                .entry(node)
                .or_insert_with(|| now + self.chance.millis(DOWN_MS.0, DOWN_MS.1));
            if at <= now {
                self.back_at.remove(&node);
                if cluster.restart(node).await {
                    cluster.net.world.count("restarts");
                }
            }
        }
        if self.calm_at.is_some_and(|at| at <= now) {
            cluster.net.world.event(format_args!("calm"));
            cluster.net.heal();
            self.calm_at = None;
        }
        self.operate(cluster).await;
    }

    fn any(&mut self, cluster: &Cluster) -> Option<u16> {
        let nodes: Vec<u16> = cluster.nodes.keys().copied().collect();
        // The leader is the most interesting one.
        match cluster.leader() {
            Some(leader) if self.chance.hits(500) => Some(leader),
            _ => self.chance.pick(&nodes),
        }
    }

    fn weather(&mut self, cluster: &Cluster) {
        self.calm_at
            .get_or_insert(cluster.elapsed() + self.chance.millis(WEATHER_MS.0, WEATHER_MS.1));
    }

    async fn strike(&mut self, fault: Fault, cluster: &mut Cluster) {
        let Some(node) = self.any(cluster) else {
            return;
        };
        let nodes: Vec<u16> = cluster.nodes.keys().copied().collect();
        let others: Vec<u16> = nodes
            .iter()
            .copied()
            .filter(|other| *other != node)
            .collect();
        cluster
            .net
            .world
            .event(format_args!("fault {fault:?} {node}"));
        let world = cluster.net.world.clone();
        match fault {
            Fault::Crash => {
                world.count("crashes aimed");
                let (steps, host) = (self.chance.between(STEPS.0, STEPS.1), self.chance.hits(300));
                cluster.kill_after(node, steps, host);
            }
            Fault::CrashAll => {
                world.count("crashes aimed at all");
                for node in nodes {
                    cluster.kill_after(node, self.chance.between(STEPS.0, STEPS.1), false);
                }
            }
            Fault::Stop => {
                world.count("stops");
                cluster.stop(node).await;
            }
            Fault::Isolate => {
                world.count("cuts");
                cluster.isolate(node);
                self.weather(cluster);
            }
            Fault::OneWay => {
                world.count("cuts one way");
                let Some(other) = self.chance.pick(&others) else {
                    return;
                };
                let (from, to) = if self.chance.hits(500) {
                    (node, other)
                } else {
                    (other, node)
                };
                cluster.net.cut_one_way(from, to);
                self.weather(cluster);
            }
            Fault::Split => {
                world.count("splits");
                let side: Vec<u16> = nodes
                    .iter()
                    .copied()
                    .filter(|_| self.chance.hits(500))
                    .collect();
                for a in &side {
                    cluster
                        .net
                        .cut(*a, nodes.iter().copied().filter(|b| !side.contains(b)));
                }
                self.weather(cluster);
            }
            Fault::Noise => self.noise(cluster, &nodes),
            Fault::Reset => {
                world.count("resets");
                let ids: Vec<u64> = cluster
                    .nodes
                    .values()
                    .map(crate::cluster::SimNode::raft_id)
                    .collect();
                let all = self.chance.hits(300);
                for (n, a) in ids.iter().enumerate() {
                    for b in ids.iter().skip(n + 1) {
                        if all || self.chance.hits(300) {
                            cluster.net.reset(*a, *b);
                        }
                    }
                }
            }
            Fault::Stall => {
                world.count("disk stalls");
                let until = cluster.elapsed() + self.chance.millis(STALL_MS.0, STALL_MS.1);
                cluster.nodes[&node].mood.stall_until(until);
            }
            Fault::Transfer => self.transfer(cluster, &others),
            Fault::Campaign => {
                world.count("campaigns");
                let Some(Station { life, replica, .. }) = cluster.net.station(node) else {
                    return;
                };
                // Nobody waits for it.
                drop(life.run(async move {
                    world.event(format_args!("campaign {:?}", replica.campaign().await))
                }));
            }
            Fault::Surgery => self.begin_surgery(cluster, &nodes).await,
        }
    }

    fn noise(&mut self, cluster: &Cluster, nodes: &[u16]) {
        cluster.net.world.count("noise");
        let chance = &mut self.chance;
        let noise = Noise {
            lost: chance.between(0, 200),
            twice: chance.between(0, 300),
            slow: chance.between(0, 300),
        };
        for from in nodes {
            for to in nodes {
                if from != to && self.chance.hits(600) {
                    cluster.net.disturb(*from, *to, noise);
                }
            }
        }
        self.weather(cluster);
    }

    fn transfer(&mut self, cluster: &Cluster, others: &[u16]) {
        let Some(leader) = cluster
            .leader()
            .and_then(|leader| cluster.net.station(leader))
        else {
            return;
        };
        let Some(to) = self.chance.pick(others) else {
            return;
        };
        let world = cluster.net.world.clone();
        let Station { life, replica, .. } = leader;
        drop(life.run(async move {
            let result = replica.transfer(to).await;
            world.event(format_args!("transfer to {to}: {result:?}"));
            world.count(if result.is_ok() {
                "transfers"
            } else {
                "transfers in vain"
            });
        }));
    }

    async fn begin_surgery(&mut self, cluster: &mut Cluster, nodes: &[u16]) {
        if !self.plan.surgery || self.surgery.is_some() || !cluster.down().is_empty() {
            return;
        }
        // All are up, and all vote: whoever is cut out now leaves a majority that holds everything.
        let Some(leader) = cluster.leader() else {
            return;
        };
        let members = cluster.replica(leader).members();
        let settled = members.len() == usize::from(self.plan.nodes)
            && members.iter().all(|member| member.voter);
        let others: Vec<u16> = nodes
            .iter()
            .copied()
            .filter(|node| *node != leader)
            .collect();
        let Some(node) = self.chance.pick(&others).filter(|_| settled) else {
            return;
        };
        self.surgery = Some(if self.chance.hits(600) {
            cluster.net.world.count("disks lost");
            cluster.lose(node).await;
            Surgery::Replace(node)
        } else {
            Surgery::Remove(node)
        });
    }

    /// The operator, who asks whoever leads until it is done.
    async fn operate(&mut self, cluster: &mut Cluster) {
        let Some(surgery) = self.surgery else { return };
        let now = cluster.elapsed();
        if let Some((began, slot)) = &self.call {
            let result = *lock(slot);
            match result {
                None if now < *began + SURGERY_WAIT => return,
                Some(Some(id)) => {
                    self.call = None;
                    return self.operated(surgery, id, cluster).await;
                }
                None | Some(None) => self.call = None,
            }
        }
        let leader = cluster
            .leader()
            .and_then(|leader| cluster.net.station(leader));
        let Some(Station {
            raft_id: leader_id,
            life,
            replica,
            ..
        }) = leader
        else {
            return;
        };
        let slot = CallSlot::default();
        self.call = Some((now, slot.clone()));
        let world = cluster.net.world.clone();
        drop(life.run(async move {
            // The answer to an earlier call may have been lost.
            let member = |node: u16| {
                replica
                    .members()
                    .into_iter()
                    .find(|m| m.node.node == node)
                    .map(|m| m.raft_id)
            };
            let done = match surgery {
                Surgery::Replace(node) => replica.replace(node).await.ok(),
                Surgery::Remove(node) if member(node).is_none() => Some(raft_id(0, node)),
                // A leader does not remove itself. Once another one leads it is asked again.
                Surgery::Remove(node) if node_of(leader_id) == node => {
                    let other = replica
                        .members()
                        .into_iter()
                        .find(|m| m.voter && m.node.node != node);
                    if let Some(other) = other {
                        world.event(format_args!(
                            "before {surgery:?}: {:?}",
                            replica.transfer(other.node.node).await
                        ));
                    }
                    None
                }
                Surgery::Remove(node) => replica.remove(node).await.ok().map(|()| raft_id(0, node)),
                Surgery::Add(node) => match member(node) {
                    Some(id) => Some(id),
                    None => {
                        let address = format!("node-{node}");
                        replica
                            .add_learner(node, address.clone(), address, true)
                            .await
                            .ok()
                    }
                },
            };
            world.event(format_args!("{surgery:?} {done:?}"));
            *lock(&slot) = Some(done);
        }));
    }

    async fn operated(&mut self, surgery: Surgery, id: u64, cluster: &mut Cluster) {
        let world = cluster.net.world.clone();
        match surgery {
            Surgery::Replace(_) => {
                world.count("replacements");
                self.surgery = None;
                cluster.start_blank(id).await;
            }
            Surgery::Remove(node) => {
                world.count("removals");
                cluster.lose(node).await;
                self.surgery = Some(Surgery::Add(node));
            }
            Surgery::Add(_) => {
                world.count("additions");
                self.surgery = None;
                cluster.start_blank(id).await;
            }
        }
    }
}
