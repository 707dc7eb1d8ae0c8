//! Faults and operators' calls of a run, drawn from the seed. The cluster can always recover in the end: at most one
//! node at a time has lost its disk or is outside of the membership.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use messagebase_daemon::raft::{node_of, raft_id};
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use crate::cluster::Cluster;
use crate::net::{Noise, SimReplica, Station};
use crate::node_lifetime::lock;
use crate::rng::Rng;
use crate::run_context::RunContext;

/// Pause between two faults, ms.
const PAUSE_MS: (u64, u64) = (5, 220);
/// Steps until a crash; most seconds of a leader have a few thousand.
const STEPS: (u64, u64) = (0, 1_500);
/// How long a node stays down, ms.
const DOWN_MS: (u64, u64) = (10, 1_200);
/// How long a link fault lasts, ms.
const LINK_FAULT_MS: (u64, u64) = (100, 1_500);
/// How long a disk stalls, ms.
const STALL_MS: (u64, u64) = (40, 500);
/// How long an operator's call may take before another leader is asked.
const OPERATOR_WAIT: Duration = Duration::from_secs(3);

/// The parameters of a run.
#[derive(Debug, Clone)]
pub struct RunPlan {
    /// Founders.
    pub nodes: u16,
    /// Small ones make snapshots necessary.
    pub change_log_bytes: u64,
    /// How long faults happen, in virtual time.
    pub chaos: Duration,
    /// Whether the membership is changed too.
    pub membership_change: bool,
}

impl RunPlan {
    /// Draws the parameters.
    pub fn draw(rng: &mut Rng) -> RunPlan {
        RunPlan {
            nodes: rng.pick(&[3, 3, 3, 4, 5]).unwrap_or(3),
            change_log_bytes: rng
                .pick(&[6 * 1024, 16 * 1024, 1024 * 1024])
                .unwrap_or(16 * 1024),
            chaos: rng.millis(1_500, 3_000),
            membership_change: rng.hits(400),
        }
    }
}

/// A change of the membership in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MembershipChange {
    /// The node lost its disk and is to be replaced.
    Replace(u16),
    /// The node is to be removed.
    Remove(u16),
    /// The node was removed and is to be added again.
    Add(u16),
}

/// Draws the faults of a run, one after the other.
pub struct FaultInjector {
    rng: Rng,
    plan: RunPlan,
    /// When nodes that are down come back, in virtual time.
    back_at: BTreeMap<u16, Duration>,
    heal_at: Option<Duration>,
    membership_change: Option<MembershipChange>,
    /// The operator's call in progress: when it began, and its result.
    call: Option<(Duration, CallSlot)>,
}

type CallSlot = Arc<Mutex<Option<Option<u64>>>>;

#[derive(Debug, Clone, Copy)]
enum FaultKind {
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
    MembershipChange,
}

/// Drawn in proportion to how often each is listed.
const FAULTS: [FaultKind; 32] = {
    use FaultKind::{
        Campaign, Crash, CrashAll, Isolate, MembershipChange, Noise, OneWay, Reset, Split, Stall,
        Stop, Transfer,
    };
    [
        Crash,
        Crash,
        Crash,
        Crash,
        Crash,
        Crash,
        Crash,
        Crash,
        Crash,
        CrashAll,
        Stop,
        Isolate,
        Isolate,
        Isolate,
        OneWay,
        OneWay,
        OneWay,
        Split,
        Split,
        Noise,
        Noise,
        Noise,
        Reset,
        Reset,
        Stall,
        Stall,
        Transfer,
        Transfer,
        Campaign,
        Campaign,
        MembershipChange,
        MembershipChange,
    ]
};

impl FaultInjector {
    /// An injector for one run.
    pub fn new(plan: RunPlan, rng: Rng) -> FaultInjector {
        FaultInjector {
            rng,
            plan,
            back_at: BTreeMap::new(),
            heal_at: None,
            membership_change: None,
            call: None,
        }
    }

    /// Injects faults until the plan's time is over or an invariant is broken.
    pub async fn inject(&mut self, cluster: &mut Cluster) {
        let end = cluster.elapsed() + self.plan.chaos;
        while cluster.elapsed() < end && cluster.net.context.checks().violations().is_empty() {
            self.end_due_faults(cluster).await;
            if let Some(fault) = self.rng.pick(&FAULTS) {
                self.apply(fault, cluster).await;
            }
            SimRuntime::sleep(self.rng.millis(PAUSE_MS.0, PAUSE_MS.1)).await;
        }
    }

    /// Ends all faults, restarts all nodes and completes the membership change. False if this takes longer than `most`.
    pub async fn recover(&mut self, cluster: &mut Cluster, most: Duration) -> bool {
        let end = cluster.elapsed() + most;
        cluster.net.heal();
        for sim in cluster.nodes.values() {
            sim.lifetime.end_after(u64::MAX);
        }
        self.back_at.clear();
        while cluster.elapsed() < end && cluster.net.context.checks().violations().is_empty() {
            cluster.bury();
            for node in cluster.down() {
                cluster.restart(node).await;
            }
            self.operate(cluster).await;
            if cluster.down().is_empty() && self.membership_change.is_none() {
                return true;
            }
            SimRuntime::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Restarts nodes and heals links whose time has come.
    async fn end_due_faults(&mut self, cluster: &mut Cluster) {
        cluster.bury();
        let now = cluster.elapsed();
        for node in cluster.down() {
            let at = *self
                .back_at
                .entry(node)
                .or_insert_with(|| now + self.rng.millis(DOWN_MS.0, DOWN_MS.1));
            if at <= now {
                self.back_at.remove(&node);
                if cluster.restart(node).await {
                    cluster.net.context.count("restarts");
                }
            }
        }
        if self.heal_at.is_some_and(|at| at <= now) {
            cluster.net.context.event(format_args!("calm"));
            cluster.net.heal();
            self.heal_at = None;
        }
        self.operate(cluster).await;
    }

    fn any(&mut self, cluster: &Cluster) -> Option<u16> {
        let nodes: Vec<u16> = cluster.nodes.keys().copied().collect();
        // The leader is the most interesting one.
        match cluster.leader() {
            Some(leader) if self.rng.hits(500) => Some(leader),
            _ => self.rng.pick(&nodes),
        }
    }

    fn schedule_healing(&mut self, cluster: &Cluster) {
        self.heal_at
            .get_or_insert(cluster.elapsed() + self.rng.millis(LINK_FAULT_MS.0, LINK_FAULT_MS.1));
    }

    async fn apply(&mut self, fault: FaultKind, cluster: &mut Cluster) {
        let Some(node) = self.any(cluster) else {
            return;
        };
        let nodes: Vec<u16> = cluster.nodes.keys().copied().collect();
        let mut others = nodes.clone();
        others.retain(|other| *other != node);
        let context = cluster.net.context.clone();
        context.event(format_args!("fault {fault:?} {node}"));
        match fault {
            FaultKind::Crash => {
                context.count("crashes aimed");
                let (steps, host) = (self.rng.between(STEPS.0, STEPS.1), self.rng.hits(300));
                cluster.kill_after(node, steps, host);
            }
            FaultKind::CrashAll => {
                context.count("crashes aimed at all");
                for node in nodes {
                    cluster.kill_after(node, self.rng.between(STEPS.0, STEPS.1), false);
                }
            }
            FaultKind::Stop => {
                context.count("stops");
                cluster.stop(node).await;
            }
            FaultKind::Isolate => {
                context.count("cuts");
                cluster.isolate(node);
                self.schedule_healing(cluster);
            }
            FaultKind::OneWay => {
                context.count("cuts one way");
                let Some(other) = self.rng.pick(&others) else {
                    return;
                };
                let (from, to) = if self.rng.hits(500) {
                    (node, other)
                } else {
                    (other, node)
                };
                cluster.net.cut_one_way(from, to);
                self.schedule_healing(cluster);
            }
            FaultKind::Split => self.split(cluster, &nodes),
            FaultKind::Noise => self.noise(cluster, &nodes),
            FaultKind::Reset => self.reset(cluster),
            FaultKind::Stall => {
                context.count("disk stalls");
                let until = cluster.elapsed() + self.rng.millis(STALL_MS.0, STALL_MS.1);
                cluster.nodes[&node].mood.stall_until(until);
            }
            FaultKind::Transfer => self.transfer(cluster, &others),
            FaultKind::Campaign => {
                context.count("campaigns");
                let Some(Station {
                    lifetime, replica, ..
                }) = cluster.net.station(node)
                else {
                    return;
                };
                // Nobody waits for it.
                drop(lifetime.run(async move {
                    context.event(format_args!("campaign {:?}", replica.campaign().await))
                }));
            }
            FaultKind::MembershipChange => self.begin_membership_change(cluster, &nodes).await,
        }
    }

    fn split(&mut self, cluster: &Cluster, nodes: &[u16]) {
        cluster.net.context.count("splits");
        let side: Vec<u16> = nodes
            .iter()
            .copied()
            .filter(|_| self.rng.hits(500))
            .collect();
        for a in &side {
            let others = nodes.iter().copied().filter(|b| !side.contains(b));
            cluster.net.cut(*a, others);
        }
        self.schedule_healing(cluster);
    }

    fn reset(&mut self, cluster: &Cluster) {
        cluster.net.context.count("resets");
        let nodes = cluster.nodes.values();
        let ids: Vec<u64> = nodes.map(crate::cluster::SimNode::raft_id).collect();
        let all = self.rng.hits(300);
        for (n, a) in ids.iter().enumerate() {
            for b in ids.iter().skip(n + 1) {
                if all || self.rng.hits(300) {
                    cluster.net.reset(*a, *b);
                }
            }
        }
    }

    fn noise(&mut self, cluster: &Cluster, nodes: &[u16]) {
        cluster.net.context.count("noise");
        let rng = &mut self.rng;
        let noise = Noise {
            lost: rng.between(0, 200),
            twice: rng.between(0, 300),
            slow: rng.between(0, 300),
        };
        for from in nodes {
            for to in nodes {
                if from != to && self.rng.hits(600) {
                    cluster.net.disturb(*from, *to, noise);
                }
            }
        }
        self.schedule_healing(cluster);
    }

    fn transfer(&mut self, cluster: &Cluster, others: &[u16]) {
        let Some(leader) = cluster
            .leader()
            .and_then(|leader| cluster.net.station(leader))
        else {
            return;
        };
        let Some(to) = self.rng.pick(others) else {
            return;
        };
        let context = cluster.net.context.clone();
        let Station {
            lifetime, replica, ..
        } = leader;
        drop(lifetime.run(async move {
            let result = replica.transfer(to).await;
            context.event(format_args!("transfer to {to}: {result:?}"));
            context.count(if result.is_ok() {
                "transfers"
            } else {
                "transfers in vain"
            });
        }));
    }

    async fn begin_membership_change(&mut self, cluster: &mut Cluster, nodes: &[u16]) {
        if !self.plan.membership_change
            || self.membership_change.is_some()
            || !cluster.down().is_empty()
        {
            return;
        }
        // All are up, and all vote: any node that is cut out now leaves a majority that holds everything.
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
        let Some(node) = self.rng.pick(&others).filter(|_| settled) else {
            return;
        };
        self.membership_change = Some(if self.rng.hits(600) {
            cluster.net.context.count("disks lost");
            cluster.lose(node).await;
            MembershipChange::Replace(node)
        } else {
            MembershipChange::Remove(node)
        });
    }

    /// The operator, who asks the leader until it is done.
    async fn operate(&mut self, cluster: &mut Cluster) {
        let Some(membership_change) = self.membership_change else {
            return;
        };
        let now = cluster.elapsed();
        if let Some((began, slot)) = &self.call {
            let result = *lock(slot);
            match result {
                None if now < *began + OPERATOR_WAIT => return,
                Some(Some(id)) => {
                    self.call = None;
                    return self.operated(membership_change, id, cluster).await;
                }
                None | Some(None) => self.call = None,
            }
        }
        let leader = cluster
            .leader()
            .and_then(|leader| cluster.net.station(leader));
        let Some(Station {
            raft_id: leader_id,
            lifetime,
            replica,
            ..
        }) = leader
        else {
            return;
        };
        let slot = CallSlot::default();
        self.call = Some((now, slot.clone()));
        let context = cluster.net.context.clone();
        drop(lifetime.run(async move {
            let done = ask_leader(&replica, leader_id, membership_change, &context).await;
            context.event(format_args!("{membership_change:?} {done:?}"));
            *lock(&slot) = Some(done);
        }));
    }

    async fn operated(
        &mut self,
        membership_change: MembershipChange,
        id: u64,
        cluster: &mut Cluster,
    ) {
        let context = cluster.net.context.clone();
        match membership_change {
            MembershipChange::Replace(_) => {
                context.count("replacements");
                self.membership_change = None;
                cluster.start_blank(id).await;
            }
            MembershipChange::Remove(node) => {
                context.count("removals");
                cluster.lose(node).await;
                self.membership_change = Some(MembershipChange::Add(node));
            }
            MembershipChange::Add(_) => {
                context.count("additions");
                self.membership_change = None;
                cluster.start_blank(id).await;
            }
        }
    }
}

/// One call of the operator to the node that leads. The Raft id that the change was about once it is done.
async fn ask_leader(
    replica: &SimReplica,
    leader_id: u64,
    membership_change: MembershipChange,
    context: &RunContext,
) -> Option<u64> {
    // The answer to an earlier call may have been lost.
    let member = |node: u16| {
        replica
            .members()
            .into_iter()
            .find(|m| m.node.node == node)
            .map(|m| m.raft_id)
    };
    match membership_change {
        MembershipChange::Replace(node) => replica.replace(node).await.ok(),
        MembershipChange::Remove(node) if member(node).is_none() => Some(raft_id(0, node)),
        // A leader does not remove itself. Once another one leads it is asked again.
        MembershipChange::Remove(node) if node_of(leader_id) == node => {
            let other = replica
                .members()
                .into_iter()
                .find(|m| m.voter && m.node.node != node);
            if let Some(other) = other {
                context.event(format_args!(
                    "before {membership_change:?}: {:?}",
                    replica.transfer(other.node.node).await
                ));
            }
            None
        }
        MembershipChange::Remove(node) => {
            replica.remove(node).await.ok().map(|()| raft_id(0, node))
        }
        MembershipChange::Add(node) => match member(node) {
            Some(id) => Some(id),
            None => {
                let address = format!("node-{node}");
                replica
                    .add_learner(node, address.clone(), address, true)
                    .await
                    .ok()
            }
        },
    }
}
