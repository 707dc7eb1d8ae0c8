//! One storm from start to verdict. Everything has a deadline: a cluster or a client that hangs becomes a report with its
//! seed, never a hung test.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use messagebase_checker::{History, Recorder};

use crate::cluster::Cluster;
use crate::place::Programs;
use crate::storm::context::StormContext;
use crate::storm::faults::{Conductor, Diary, pause_until};
use crate::storm::plan::{Behavior, ClientPlan, StormPlan, Wish};
use crate::storm::report::{Spell, StormReport, acknowledged_writes, count, worst_recovery};
use crate::storm::shipped_client::ShippedClient;
use crate::storm::storm_client::StormClient;
use crate::storm::verdict::{self, examine};

/// What is under way when everything is healed is done by then, or the cluster does not serve.
const PATIENCE: Duration = Duration::from_secs(60);
/// A client notices that patience is over within one answer and one dial.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// Failed logins are part of the storm; being locked out by them is not.
const FAILED_LOGINS: u64 = 100_000;
/// Small enough that who was away comes back by a snapshot.
const SHORT_CHANGE_LOG_BYTES: u64 = 150_000;

/// Lets the storm of a seed happen.
pub fn run(programs: Programs, wish: &Wish) -> StormReport {
    let plan = StormPlan::of(wish);
    let mut report = StormReport {
        seed: plan.seed,
        nodes: plan.nodes,
        clients: plan.clients.len(),
        lasts: plan.lasts,
        ..StormReport::default()
    };
    let mut builder = Cluster::with(programs, plan.nodes)
        .proxied()
        .limit("failed_logins_per_name", FAILED_LOGINS)
        .limit("failed_logins_per_address", FAILED_LOGINS);
    if plan.seed.is_multiple_of(3) {
        builder = builder.limit("change_log_bytes", SHORT_CHANGE_LOG_BYTES);
    }
    if let Some(defect) = &wish.defect {
        builder = builder.env("MESSAGEBASE_PLANTED", defect);
    }
    // In threads of their own: a panic in there becomes part of the report.
    let started = std::thread::spawn(move || builder.start()).join();
    let Ok(cluster) = started.map(Arc::new) else {
        report
            .wrong
            .push("the cluster did not form; its nodes' logs stand above".into());
        return report;
    };
    let began = Instant::now();
    let clock = move || u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let recorder = Recorder::with_clock(clock);
    let names: BTreeSet<String> = plan
        .clients
        .iter()
        .map(|client| client.user.clone())
        .collect();
    let context = Arc::new(StormContext::new(
        Arc::clone(&cluster),
        recorder.clone(),
        names.into_iter().collect(),
    ));

    let visits = start_clients(&plan, &context);
    wait_for_clients(&context, visits.len(), &mut report.wrong);
    let mut diary = Conductor::new(&cluster, &recorder).conduct(&plan);
    let end_us = clock();
    context.end(Instant::now() + PATIENCE);
    let finishes = gather(visits, &mut report.wrong);
    report
        .wrong
        .extend(finishes.into_iter().filter_map(|finish| finish().err()));
    report.wrong.extend(context.take_wrong());
    report.wrong.append(&mut diary.wrong);

    let history = judge(&cluster, &context, &mut report.wrong);
    (report.operations, report.outcomes) = count(&history);
    let spells = well_spells(&diary, plan.nodes, began, end_us);
    report.worst_recovery = worst_recovery(&acknowledged_writes(&history), &spells);
    report.failovers = failovers(&cluster);
    report.faults.clone_from(&diary.counts);
    if wish.keep || !report.wrong.is_empty() {
        report.kept = keep(&cluster, &plan, &diary, &history, &report.wrong);
    }
    report
}

/// The last thing that a client does, once nobody writes any more.
type Finish = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// Starts the clients, each in a thread that ends with the storm.
fn start_clients(plan: &StormPlan, context: &Arc<StormContext>) -> Vec<JoinHandle<Finish>> {
    let start = |(number, planned): (usize, &ClientPlan)| {
        let (context, planned) = (Arc::clone(context), planned.clone());
        std::thread::spawn(move || -> Finish {
            if planned.behavior == Behavior::Shipped {
                let mut client = ShippedClient::new(&context, number, &planned);
                client.visit();
                return Box::new(|| client.finish());
            }
            let mut client = StormClient::new(context, number, &planned);
            client.visit(planned.behavior);
            Box::new(|| client.finish())
        })
    };
    plan.clients.iter().enumerate().map(start).collect()
}

/// Waits until every client was served once.
fn wait_for_clients(context: &StormContext, expected: usize, wrong: &mut Vec<String>) {
    let until = Instant::now() + PATIENCE;
    while context.there() < expected {
        if Instant::now() >= until {
            return wrong.push(format!(
                "only {} of {expected} clients were served before the storm",
                context.there()
            ));
        }
        pause_until(Instant::now() + Duration::from_millis(10));
    }
}

/// Waits for the clients to end; those that don't are left behind and told.
fn gather(visits: Vec<JoinHandle<Finish>>, wrong: &mut Vec<String>) -> Vec<Finish> {
    let until = Instant::now() + PATIENCE + LAST_WORDS;
    let mut finishes = Vec::new();
    for visit in visits {
        while !visit.is_finished() && Instant::now() < until {
            pause_until(Instant::now() + Duration::from_millis(10));
        }
        if !visit.is_finished() {
            wrong.push(
                "a client hangs: it has not ended although all its waits have deadlines".into(),
            );
            continue;
        }
        match visit.join() {
            Ok(finish) => finishes.push(finish),
            Err(panic) => wrong.push(format!("a client panicked: {}", text_of(&*panic))),
        }
    }
    finishes
}

/// Examines the healed cluster. When that can't be done, the history so far is kept.
fn judge(cluster: &Arc<Cluster>, context: &Arc<StormContext>, wrong: &mut Vec<String>) -> History {
    let (there, recorder, accounts) = (
        Arc::clone(cluster),
        context.recorder.clone(),
        context.accounts(),
    );
    let examined = std::thread::spawn(move || examine(&there, &recorder, &accounts)).join();
    match examined {
        Ok(findings) => {
            wrong.extend(findings.wrong);
            findings.history
        }
        Err(panic) => {
            wrong.push(format!(
                "the healed cluster could not be examined: {}",
                text_of(&*panic)
            ));
            context.recorder.finish()
        }
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

/// When a majority was well.
fn well_spells(diary: &Diary, nodes: u16, began: Instant, end_us: u64) -> Vec<Spell> {
    let us = |at: Instant| {
        u64::try_from(at.saturating_duration_since(began).as_micros()).unwrap_or(u64::MAX)
    };
    let majority = usize::from(nodes / 2) + 1;
    let mut spells: Vec<Spell> = Vec::new();
    for (n, health) in diary.health.iter().enumerate() {
        let to = diary.health.get(n + 1).map_or(end_us, |next| us(next.from));
        let from = us(health.from);
        if health.well.len() < majority {
            continue;
        }
        match spells.last_mut() {
            Some((_, end)) if *end == from => *end = to,
            _ => spells.push((from, to)),
        }
    }
    spells
}

/// Leaders that the nodes' logs name, but for the first.
fn failovers(cluster: &Cluster) -> u64 {
    let mut led = BTreeSet::new();
    for n in cluster.numbers() {
        for line in cluster.node(n).log().lines() {
            let Some((before, term)) = line.rsplit_once(" leads in term ") else {
                continue;
            };
            let leader = match before.rsplit_once("node ").map(|(_, number)| number) {
                Some(number) => number.parse().unwrap_or(n),
                None => n,
            };
            led.insert((term.trim().to_owned(), leader));
        }
    }
    u64::try_from(led.len().saturating_sub(1)).unwrap_or(0)
}

/// Keeps what is needed to understand a failure: data directories, logs, history, plan, what was done and what is wrong.
fn keep(
    cluster: &Cluster,
    plan: &StormPlan,
    diary: &Diary,
    history: &History,
    wrong: &[String],
) -> Option<PathBuf> {
    cluster.kill_all();
    let mut story = format!("{plan}\nwhat was done:\n");
    for line in &diary.lines {
        let _ = writeln!(story, "  {line}");
    }
    let _ = writeln!(story, "\nwhat is wrong:\n{}", wrong.join("\n"));
    cluster.write("storm.txt", &story);
    let _ = verdict::write(history, &cluster.path().join("history.jsonl"));
    let to = std::env::temp_dir().join(format!(
        "messagebase-storm-seed-{}-{}",
        plan.seed,
        std::process::id()
    ));
    std::fs::rename(cluster.path(), &to).ok().map(|()| to)
}
