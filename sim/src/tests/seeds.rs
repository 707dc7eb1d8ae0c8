//! Many seeds, each a run of its own with faults, crashes and clients; every invariant holds at every step of each.
//!
//! `MESSAGEBASE_SIM_SEEDS=a..b` (or `a..=b`) runs others than the usual ones.

#![allow(
    clippy::print_stdout,
    reason = "the coverage and the command that runs a seed again, for people"
)]

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::run::{Failure, RunReport, run};
use crate::workload::Clients;

/// The seeds that are run when nobody says otherwise.
const SEEDS: Range<u64> = 0..500;
/// Says otherwise.
const SEEDS_ENV: &str = "MESSAGEBASE_SIM_SEEDS";
/// One of this number of seeds is run a second time.
const TWICE_EVERY: u64 = 25;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var(SEEDS_ENV) else {
        return SEEDS;
    };
    let parsed = text.split_once("..").and_then(|(from, to)| {
        let from: u64 = from.parse().ok()?;
        let (to, last) = to.strip_prefix('=').map_or((to, 0), |to| (to, 1));
        Some(from..to.parse::<u64>().ok()? + last)
    });
    parsed.unwrap_or_else(|| panic!("{SEEDS_ENV}={text} is no range; say 0..500 or 7..=7"))
}

fn once(seed: u64) -> Result<RunReport, Failure> {
    run(seed, &mut Clients::default())
}

/// Now and then twice: a seed is one run.
fn checked(seed: u64) -> Result<RunReport, Failure> {
    let first = once(seed)?;
    if seed.is_multiple_of(TWICE_EVERY) {
        let second = once(seed)?;
        if first != second {
            let (one, another) = (first.trace, second.trace);
            return Err(Failure {
                seed,
                broken: vec![format!("it is two runs: {one:x?} and {another:x?}")],
            });
        }
    }
    Ok(first)
}

fn all(seeds: &Range<u64>) -> (Vec<RunReport>, Vec<Failure>) {
    let next = AtomicU64::new(seeds.start);
    let results = Mutex::new((Vec::new(), Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= seeds.end {
                return;
            }
            let result = checked(seed);
            let mut results = results.lock().expect("no thread panics with it");
            match result {
                Ok(report) => results.0.push(report),
                Err(failure) => {
                    println!("{failure}");
                    results.1.push(failure);
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    results.into_inner().expect("no thread panicked with it")
}

#[test]
fn seeds_keep_every_promise() {
    let seeds = seeds();
    let began = std::time::Instant::now();
    let (reports, failures) = all(&seeds);
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for report in &reports {
        for (kind, count) in &report.counts {
            let (sum, runs) = counts.entry(kind).or_default();
            *sum += count;
            *runs += 1;
        }
    }
    let virtual_time: std::time::Duration = reports.iter().map(|report| report.took).sum();
    println!(
        "{} seeds in {:?}, {virtual_time:?} of virtual time",
        reports.len(),
        began.elapsed()
    );
    for (kind, (sum, runs)) in &counts {
        println!("{sum:>10} {kind} (in {runs} runs)");
    }
    assert!(!seeds.is_empty(), "{seeds:?} is no seed");
    // Faults that never bite prove nothing.
    for kind in [
        "deaths",
        "elections won",
        "leases dropped",
        "snapshots installed",
        "sends acknowledged",
    ] {
        let bit = counts.get(kind).is_some_and(|(sum, _)| *sum > 0);
        assert!(bit || seeds != SEEDS, "no {kind} in {seeds:?}");
    }
    assert!(
        failures.is_empty(),
        "{} of {seeds:?} failed:\n{}",
        failures.len(),
        failures[0]
    );
}

#[test]
fn a_seed_is_one_run_and_another_seed_is_another() {
    let report = |seed| once(seed).unwrap_or_else(|failure| panic!("{failure}"));
    let (first, second) = (report(1), report(2));
    assert_eq!(first, report(1));
    assert_ne!(first.trace, second.trace);
}
