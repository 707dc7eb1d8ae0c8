//! The checker is checked: daemons with a defect on purpose, in real processes, are found out.
//!
//! One program, twice: with `MESSAGEBASE_PLANTED=DEFECT` it is `mbd` with that defect, composed of the daemon's library;
//! otherwise it runs the scenarios, which start it as their daemon. So no other program contains a defect. It has its own
//! `main` and therefore reads the arguments of a test program itself: `cargo test --test planted [FILTER]`. With
//! `--ignored` it runs a whole storm for each defect instead, which is not sure to find it.

#![allow(clippy::expect_used, reason = "a test that can't go on fails")]
#![allow(clippy::print_stdout, reason = "the results, as of other tests")]

mod defects;
mod scenarios;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use messagebase_harness::storm::{Wish, run};
use messagebase_harness::{Programs, programs};

use defects::Defect;

/// Makes this program a daemon, with the defect of that name.
const VARIABLE: &str = "MESSAGEBASE_PLANTED";
/// Arguments of test programs that are followed by a value.
const WITH_VALUE: [&str; 3] = ["--test-threads", "--skip", "--format"];
/// How long the faults of a storm last.
const STORM: Duration = Duration::from_secs(20);

type Test = (String, Box<dyn Fn() + Sync + Send>);

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(VARIABLE) {
        let defect = Defect::named(&name).unwrap_or_else(|| panic!("{name} names no defect"));
        return messagebase_daemon::cli::main(defect.hooks());
    }
    let mut filters = Vec::new();
    let mut ignored = false;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        ignored |= word == "--ignored";
        if WITH_VALUE.contains(&word.as_str()) {
            words.next();
        } else if !word.starts_with('-') {
            filters.push(word);
        }
    }
    let mut tests: Vec<Test> = if ignored { storms() } else { scenarios::all() };
    tests.retain(|(name, _)| {
        filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
    });
    run_all(&tests)
}

/// The three programs, with this one as the daemon.
fn defective() -> Programs {
    let mbd = std::env::current_exe().expect("this program has a path");
    Programs { mbd, ..programs!() }
}

/// A storm of one seed for each defect.
fn storms() -> Vec<Test> {
    let storm = |defect: Defect| -> Test {
        let wish = Wish {
            seed: 1,
            lasts: STORM,
            defect: Some(defect.name().to_owned()),
            ..Wish::default()
        };
        let test = move || {
            let report = run(defective(), &wish);
            println!("{report}\n{}", report.wrong.join("\n"));
            assert!(!report.wrong.is_empty(), "the storm did not find it");
        };
        (format!("a_storm_finds_{}", defect.name()), Box::new(test))
    };
    Defect::ALL.into_iter().map(storm).collect()
}

/// As many at a time as there are processors; a panic is a failure.
fn run_all(tests: &[Test]) -> ExitCode {
    println!("\nrunning {} tests", tests.len());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((name, test)) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
            let ended = std::thread::scope(|scope| {
                let thread = std::thread::Builder::new().name(name.clone());
                let spawned = thread.spawn_scoped(scope, test);
                spawned.expect("the system has a thread").join()
            });
            let result = if ended.is_ok() { "ok" } else { "FAILED" };
            println!("test {name} ... {result}");
            if ended.is_err() {
                failed.lock().expect("nothing panics").push(name.as_str());
            }
        }
    };
    let at_a_time = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().expect("nothing panics");
    let passed = tests.len() - failed.len();
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed {failed:?}",
        failed.len()
    );
    ExitCode::from(u8::from(!failed.is_empty()))
}
