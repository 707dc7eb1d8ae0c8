//! One seed, from its beginning to its verdict: a cluster forms, clients work, faults happen; then everything is
//! mended, the nodes agree within a bounded virtual time, and the workload judges what it saw.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;

use openraft_rt::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use crate::cluster::Cluster;
use crate::net::Net;
use crate::plan::{FaultInjector, RunPlan};
use crate::rng::Rng;

/// The first leader is there after this, in virtual time.
const FORMED_MOST: Duration = Duration::from_secs(10);
/// Everybody is back, and what the operator began is done.
const MENDED_MOST: Duration = Duration::from_secs(30);
/// The nodes agree once nothing is in their way. A leader waits so long (`SNAPSHOT_INSTALL`, 120 s) for the answer to a
/// snapshot's last piece, and appends nothing to that follower meanwhile: when a cut swallows the answer, as in seed
/// 261, nothing but this limit helps it.
const AGREED_MOST: Duration = Duration::from_secs(150);

/// See [`Workload::end`].
pub type Ending<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;
/// See [`Workload::judge`].
pub type Judging<'a> = Pin<Box<dyn Future<Output = Vec<String>> + 'a>>;

/// What clients do during a run.
pub trait Workload {
    /// Spawns the clients (`SimRuntime::spawn`). They find nodes through [`Net::station`] and [`Net::stations`]; what
    /// they ask of one runs within its lifetime ([`crate::node_lifetime::NodeLifetime::run`]), which answers `None` when the node dies.
    fn begin(&mut self, net: Net, rng: Rng);

    /// Begins nothing new; resolves when nothing is in flight any more. All nodes are up by then.
    fn end(&mut self) -> Ending<'_>;

    /// The nodes agree. What was promised and is not so, a sentence each.
    fn judge<'a>(&'a mut self, cluster: &'a Cluster) -> Judging<'a>;
}

/// A run in figures. Equal for equal seeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunReport {
    /// The seed.
    pub seed: u64,
    /// Hash over all events, and how many there were.
    pub trace: (u64, u64),
    /// Virtual time that passed.
    pub took: Duration,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
}

/// A run that broke a promise.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was broken, a sentence each.
    pub broken: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} broke a promise:", self.seed)?;
        for broken in &self.broken {
            writeln!(f, "  {broken}")?;
        }
        let Failure { seed, .. } = self;
        write!(
            f,
            "Hint: MESSAGEBASE_SIM_SEEDS={seed}..={seed} MESSAGEBASE_SIM_TRACE=1 \
             cargo test -p messagebase-sim seeds_keep_every_promise -- --nocapture"
        )
    }
}

/// Runs a seed.
///
/// # Errors
/// What was broken, and how to see it again.
pub fn run(seed: u64, workload: &mut dyn Workload) -> Result<RunReport, Failure> {
    let simulated = || SimRuntime::with_seed(seed).block_on(live(seed, workload));
    match std::panic::catch_unwind(AssertUnwindSafe(simulated)) {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(broken)) => Err(Failure { seed, broken }),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().cloned();
            let message =
                message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Failure {
                seed,
                broken: vec![format!("panicked: {}", message.unwrap_or_default())],
            })
        }
    }
}

async fn live(seed: u64, workload: &mut dyn Workload) -> Result<RunReport, Vec<String>> {
    let mut rng = Rng::new(seed);
    let plan = RunPlan::draw(&mut rng);
    let mut cluster = Cluster::start_with(rng.draw(), plan.nodes, plan.change_log_bytes).await;
    cluster.net.context.event(format_args!("{plan:?}"));
    let broken = story(&mut cluster, plan, rng, workload).await;
    let context = cluster.net.context.clone();
    let mut violations = context.checks().violations().to_vec();
    if let Err(why) = broken
        && !violations.contains(&why)
    {
        violations.push(why);
    }
    if violations.is_empty() {
        violations.extend(workload.judge(&cluster).await);
    }
    let took = cluster.elapsed();
    cluster.shutdown().await;
    if violations.is_empty() {
        let trace = context.trace();
        Ok(RunReport {
            seed,
            trace: trace.hash(),
            took,
            counts: trace.counts().clone(),
        })
    } else {
        Err(violations)
    }
}

async fn story(
    cluster: &mut Cluster,
    plan: RunPlan,
    mut rng: Rng,
    workload: &mut dyn Workload,
) -> Result<(), String> {
    cluster
        .try_wait("the first leader", FORMED_MOST, Cluster::leader)
        .await?;
    workload.begin(cluster.net.clone(), rng.fork(1));
    let mut injector = FaultInjector::new(plan, rng.fork(2));
    injector.inject(cluster).await;
    if !injector.recover(cluster, MENDED_MOST).await {
        return Err("the cluster could not be mended in time".into());
    }
    workload.end().await;
    cluster
        .try_wait("all to have applied the same", AGREED_MOST, agreed)
        .await?;
    let mut digests = cluster
        .nodes
        .values()
        .map(|node| (node.raft_id(), format!("{:?}", node.digest())));
    let Some((_, first)) = digests.next() else {
        return Err("no node is left".into());
    };
    match digests.find(|(_, digest)| *digest != first) {
        Some((id, other)) => Err(format!(
            "the rows of node {id:#x} differ: {other} and {first}"
        )),
        None => Ok(()),
    }
}

/// All that run follow one leader and have applied all of its log; all members run.
fn agreed(cluster: &Cluster) -> Option<()> {
    let leader = cluster.leader()?;
    let members = cluster.replica(leader).members();
    let up = members.iter().all(|m| {
        m.voter
            && cluster
                .nodes
                .get(&m.node.node)
                .is_some_and(|n| n.raft_id() == m.raft_id)
    });
    let last = cluster.replica(leader).view().last_log?.index;
    let applied = cluster
        .nodes
        .values()
        .all(|node| node.replica.view().applied == Some(last));
    (up && applied && members.len() == cluster.nodes.len()).then_some(())
}
