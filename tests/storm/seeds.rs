//! Storms: a few short ones with every `cargo test`, as many and as long as asked for with `cargo xtask storm`.

#![allow(
    clippy::print_stderr,
    reason = "a line a seed for whoever waits for the long runs"
)]

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use messagebase_harness::programs;
use messagebase_harness::storm::{StormReport, Sum, Wish, run};

/// How long the faults of a storm in `cargo test` last.
const SHORT_STORM: Duration = Duration::from_secs(6);

/// Runs one seed and says all that is needed to look into a failure.
fn storm(wish: &Wish) -> StormReport {
    let report = run(programs!(), wish);
    eprintln!("{report}");
    if !report.wrong.is_empty() {
        eprintln!("{}", report.wrong.join("\n"));
        eprintln!("replay: {}", replay(wish));
    }
    if let Some(kept) = &report.kept {
        eprintln!("history, logs and data are in {}", kept.display());
    }
    report
}

fn replay(wish: &Wish) -> String {
    let nodes = wish
        .nodes
        .map_or_else(String::new, |nodes| format!(" --nodes {nodes}"));
    let release = if cfg!(debug_assertions) {
        ""
    } else {
        " --release"
    };
    format!(
        "cargo xtask storm --seeds {} --seconds {}{nodes}{release}",
        wish.seed,
        wish.lasts.as_secs()
    )
}

#[track_caller]
fn short(seed: u64, nodes: u16) {
    let report = storm(&Wish {
        seed,
        lasts: SHORT_STORM,
        nodes: Some(nodes),
        ..Wish::default()
    });
    assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
}

#[test]
fn seed_1_with_three_nodes() {
    short(1, 3);
}

#[test]
fn seed_2_with_three_nodes() {
    short(2, 3);
}

#[test]
fn seed_3_with_five_nodes() {
    short(3, 5);
}

#[test]
fn seed_4_with_three_nodes() {
    short(4, 3);
}

/// A number, or `FIRST-LAST`.
fn seeds(text: &str) -> RangeInclusive<u64> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| {
        text.trim()
            .parse()
            .unwrap_or_else(|_| panic!("{text:?} is no seed"))
    };
    number(first)..=number(last)
}

/// What `cargo xtask storm` runs, with its options in the environment.
#[test]
#[ignore = "takes as long as it is told to: cargo xtask storm --seeds 1-100 --seconds 20"]
fn seeds_from_the_environment() {
    let option = |name: &str| std::env::var(format!("MESSAGEBASE_STORM_{name}")).ok();
    let number = |text: String| {
        text.parse::<u64>()
            .unwrap_or_else(|_| panic!("{text:?} is no number"))
    };
    let seeds = seeds(&option("SEEDS").unwrap_or_else(|| "1-4".into()));
    let lasts =
        option("SECONDS").map_or(SHORT_STORM, |seconds| Duration::from_secs(number(seconds)));
    let nodes = option("NODES").map(|nodes| u16::try_from(number(nodes)).expect("a few nodes"));
    let keep = option("KEEP").is_some();
    let jobs = option("JOBS").map_or(1, number);

    let next = AtomicU64::new(*seeds.start());
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > *seeds.end() {
                        return;
                    }
                    let report = storm(&Wish {
                        seed,
                        lasts,
                        nodes,
                        keep,
                        defect: None,
                    });
                    sum.lock().expect("a storm does not panic").add(&report);
                }
            });
        }
    });
    let sum = sum.into_inner().expect("a storm does not panic");
    eprintln!("\n{sum}");
    assert!(!seeds.is_empty(), "{seeds:?} is no seed");
    assert!(sum.failed.is_empty(), "seeds that failed: {:?}", sum.failed);
}
