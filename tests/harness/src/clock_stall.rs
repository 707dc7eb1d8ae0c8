//! Whether the machine ran. Some promises are about time: a leader that is well keeps its place, a majority answers
//! within three seconds. A machine whose processors stand still (taken by its host, or by a hundred other tests) makes
//! the leader *not* well, and shows nothing about such a promise; a test that fails then is a timed test.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// A witness asks to be woken this often.
const EVERY: Duration = Duration::from_millis(5);
/// Later than this, and the machine stood still: a fifth of the time after which a silent leader is voted out.
const STOOD_STILL: Duration = Duration::from_millis(120);
/// So often a promise is tried before it is left unjudged.
const TRIALS: usize = 6;

/// What the threads saw, one on each processor, that note how late they are woken. They run as long as the tests do.
struct Witnesses {
    began: Instant,
    /// When the machine last stood still, in µs since then; 0: never.
    last_us: AtomicU64,
    /// For how long.
    last: Mutex<Duration>,
}

fn witnesses() -> &'static Witnesses {
    static WITNESSES: OnceLock<Witnesses> = OnceLock::new();
    WITNESSES.get_or_init(|| {
        let ours = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        for processor in (0..CpuSet::count()).filter(|at| ours.is_set(*at).unwrap_or(false)) {
            std::thread::spawn(move || look_on(processor));
        }
        Witnesses {
            began: Instant::now(),
            last_us: AtomicU64::new(0),
            last: Mutex::new(Duration::ZERO),
        }
    })
}

fn look_on(processor: usize) {
    let mut only = CpuSet::new();
    // On failure it is a witness of whichever processor it is given.
    let _ = only
        .set(processor)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
    let witnesses = witnesses();
    loop {
        let late = late_by();
        if late > STOOD_STILL {
            let now = u64::try_from(witnesses.began.elapsed().as_micros()).unwrap_or(u64::MAX);
            *witnesses.last.lock().expect("not poisoned") = late;
            witnesses.last_us.fetch_max(now, Ordering::Release);
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "how late a sleep ends is what is asked"
)]
fn late_by() -> Duration {
    let before = Instant::now();
    std::thread::sleep(EVERY);
    before.elapsed().saturating_sub(EVERY)
}

/// Looks from now on whether the machine runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch(Instant);

impl Watch {
    pub fn begin() -> Watch {
        witnesses();
        Watch(Instant::now())
    }

    /// For how long the machine stood still last, if it did since the beginning.
    pub fn stood_still(self) -> Option<Duration> {
        let witnesses = witnesses();
        let last = witnesses.last_us.load(Ordering::Acquire);
        let since = self
            .0
            .saturating_duration_since(witnesses.began)
            .as_micros();
        (last > 0 && u128::from(last) >= since)
            .then(|| *witnesses.last.lock().expect("not poisoned"))
    }
}

/// Judges a promise about time. `trial` says what was broken, if anything was; a broken promise counts only if the
/// machine ran meanwhile. What must hold on every machine, `trial` asserts itself.
///
/// # Panics
/// With what was broken.
#[track_caller]
pub fn while_the_machine_runs(mut trial: impl FnMut() -> Result<(), String>) {
    for number in 1..=TRIALS {
        let watch = Watch::begin();
        let Err(broken) = trial() else { return };
        let Some(stood) = watch.stood_still() else {
            panic!("{broken} (the machine ran)")
        };
        tell(&format!(
            "trial {number} shows nothing, the machine stood still for {stood:?}: {broken}"
        ));
    }
    tell(&format!(
        "NOT JUDGED: the machine stood still in each of {TRIALS} trials"
    ));
}

/// Past the test runner, which shows nothing of a test that passes.
fn tell(line: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "{test}: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_that_is_kept_is_tried_once() {
        let mut trials = 0;
        while_the_machine_runs(|| {
            trials += 1;
            Ok(())
        });
        assert_eq!(trials, 1);
    }

    #[test]
    fn a_promise_that_is_always_broken_fails_or_the_machine_stood_still_each_time() {
        let mut trials = 0;
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while_the_machine_runs(|| {
                trials += 1;
                Err("broken".to_owned())
            });
        }));
        assert!(judged.is_err() || trials == TRIALS, "{trials} trials");
    }
}
