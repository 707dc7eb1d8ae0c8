//! The load: a task for each call that may be outstanding, all of them calling one after another until told to stop.
//! It knows no protocol; a [`Link`] does.

use std::future::Future;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

/// A send that nobody acknowledged for this long is a failure of the measurement.
pub(super) const SEND_PATIENCE: Duration = Duration::from_secs(30);
/// Answers are waited for this long after the end; then the connection counts as failed.
const LAST_ANSWERS: Duration = SEND_PATIENCE.saturating_add(Duration::from_secs(15));
/// Latencies are kept to three digits.
const DIGITS: u8 = 3;
/// Longer ones count as this, µs: a minute, and a send is given up long before.
const LATENCY_MAX_US: u64 = 60_000_000;

/// What was acknowledged: which of the link's sends, and under which number the server keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The link's number for it.
    pub serial: u64,
    /// The server's.
    pub id: u64,
}

/// One connection of one client.
pub trait Link: Send + Sync + 'static {
    /// Sends one value that was never sent before and waits until it is acknowledged; or asks one thing, which leaves
    /// no receipt. May be called again before it has returned.
    fn call(&self) -> impl Future<Output = Result<Option<Receipt>, String>> + Send;
}

/// Stages of a load; it begins at 0, warming up.
const MEASURING: u8 = 1;
const OVER: u8 = 2;

#[derive(Default)]
struct Shared {
    stage: AtomicU8,
    answered: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// What one task did.
#[derive(Debug, Default)]
pub struct Worked {
    /// The connection's place.
    pub link: usize,
    /// All that was acknowledged, warm-up included.
    pub receipts: Vec<Receipt>,
    /// Of what was answered in the measured stretch, µs.
    latencies: Vec<u32>,
}

/// Latencies of a stretch.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// Of these, µs.
    pub(crate) fn of(micros: impl Iterator<Item = u32>) -> Latencies {
        // Proof for the expect: the bounds are in order and three digits are among those that the histogram knows.
        #[allow(clippy::expect_used)]
        let mut histogram =
            Histogram::new_with_bounds(1, LATENCY_MAX_US, DIGITS).expect("bounds that exist");
        for micros in micros {
            histogram.saturating_record(u64::from(micros));
        }
        Latencies(histogram)
    }

    /// How many.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Milliseconds at a quantile between 0 and 1.
    #[allow(
        clippy::cast_precision_loss,
        reason = "a latency in µs is far below 2^52"
    )]
    pub fn ms_at(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// Load that has come to its end.
pub struct Done {
    /// A task each.
    pub worked: Vec<Worked>,
    /// Of the measured stretch.
    pub latencies: Latencies,
    /// Tasks that stopped because a call failed.
    pub failed: usize,
    /// Why the first of them did.
    pub first_failure: Option<String>,
}

/// Load that is running. Dropping it stops it.
pub struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<Worked>,
}

impl Load {
    /// Begins at once.
    pub fn start<L: Link>(links: &[Arc<L>], outstanding: usize) -> Load {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for (at, link) in links.iter().enumerate() {
            for _ in 0..outstanding {
                tasks.spawn(work(at, link.clone(), shared.clone()));
            }
        }
        Load { shared, tasks }
    }

    /// Lets time pass and tells now and then how many calls a second were answered since it told last. Returns
    /// early when one has failed.
    pub async fn pass(&self, time: Duration, tell_every: Duration, mut tell: impl FnMut(f64)) {
        let end = tokio::time::Instant::now() + time;
        let (mut told_at, mut told) = (Instant::now(), self.answered());
        while tokio::time::Instant::now() < end && self.failures() == 0 {
            tokio::time::sleep_until(end.min(tokio::time::Instant::now() + tell_every)).await;
            let (now, count) = (Instant::now(), self.answered());
            #[allow(
                clippy::cast_precision_loss,
                reason = "a count of sends is far below 2^52"
            )]
            tell((count - told) as f64 / (now - told_at).as_secs_f64().max(0.001));
            (told_at, told) = (now, count);
        }
    }

    /// Calls answered up to now.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    fn failures(&self) -> usize {
        self.shared
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Begins the measured stretch.
    pub fn begin(&self) -> Instant {
        self.shared.stage.store(MEASURING, Ordering::Relaxed);
        Instant::now()
    }

    /// Ends it, and the load with it; how long it was.
    pub fn end(&self, begun: Instant) -> Duration {
        self.shared.stage.store(OVER, Ordering::Relaxed);
        begun.elapsed()
    }

    /// Waits for the last answers.
    pub async fn finish(mut self) -> Done {
        self.shared.stage.store(OVER, Ordering::Relaxed);
        let mut worked = Vec::with_capacity(self.tasks.len());
        let all = async {
            while let Some(one) = self.tasks.join_next().await {
                worked.extend(one);
            }
        };
        let late = tokio::time::timeout(LAST_ANSWERS, all).await.is_err();
        let mut failures = std::mem::take(
            &mut *self
                .shared
                .failures
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        if late {
            failures.push(format!(
                "no answer {} s after the end",
                LAST_ANSWERS.as_secs()
            ));
        }
        let latencies = Latencies::of(worked.iter().flat_map(|one| one.latencies.iter().copied()));
        let failed = failures.len();
        Done {
            worked,
            latencies,
            failed,
            first_failure: failures.into_iter().next(),
        }
    }
}

async fn work<L: Link>(at: usize, link: Arc<L>, shared: Arc<Shared>) -> Worked {
    let mut worked = Worked {
        link: at,
        ..Worked::default()
    };
    while shared.stage.load(Ordering::Relaxed) != OVER {
        let began = Instant::now();
        match link.call().await {
            Ok(receipt) => {
                if shared.stage.load(Ordering::Relaxed) == MEASURING {
                    worked
                        .latencies
                        .push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
                shared.answered.fetch_add(1, Ordering::Relaxed);
                worked.receipts.extend(receipt);
            }
            Err(why) => {
                shared
                    .failures
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(why);
                break;
            }
        }
    }
    worked
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers at once; fails from a serial number on.
    struct Fake {
        next: AtomicU64,
        fails_at: u64,
    }

    impl Link for Fake {
        async fn call(&self) -> Result<Option<Receipt>, String> {
            tokio::task::yield_now().await;
            let serial = self.next.fetch_add(1, Ordering::Relaxed);
            if serial >= self.fails_at {
                Err(format!("no {serial}"))
            } else {
                Ok(Some(Receipt { serial, id: serial }))
            }
        }
    }

    fn fakes(fails_at: u64) -> Vec<Arc<Fake>> {
        (0..3)
            .map(|_| {
                Arc::new(Fake {
                    next: AtomicU64::new(0),
                    fails_at,
                })
            })
            .collect()
    }

    #[test]
    fn a_latency_comes_back_in_milliseconds() {
        let latencies = Latencies::of([1_000, 2_000, 3_000, u32::MAX].into_iter());
        let near = |ms: f64, wanted: f64| (ms / wanted - 1.0).abs() < 0.002;
        assert!(near(latencies.ms_at(0.5), 2.0), "{}", latencies.ms_at(0.5));
        assert!(
            near(latencies.ms_at(1.0), 60_000.0),
            "longer than the bound is the bound"
        );
    }

    #[tokio::test]
    async fn only_the_measured_stretch_counts_and_every_receipt_is_kept() {
        let links = fakes(u64::MAX);
        let load = Load::start(&links, 2);
        while load.answered() < 10 {
            tokio::task::yield_now().await;
        }
        let begun = load.begin();
        while load.answered() < 20 {
            tokio::task::yield_now().await;
        }
        load.end(begun);
        let done = load.finish().await;
        assert_eq!((done.failed, done.worked.len()), (0, 6));
        let kept: u64 = done
            .worked
            .iter()
            .map(|one| one.receipts.len() as u64)
            .sum();
        let sent: u64 = links
            .iter()
            .map(|link| link.next.load(Ordering::Relaxed))
            .sum();
        assert_eq!(kept, sent);
        assert!(
            !done.latencies.is_empty() && done.latencies.len() < kept,
            "the warm-up is not measured"
        );
    }

    #[tokio::test]
    async fn a_failure_ends_the_stretch_and_is_told() {
        let load = Load::start(&fakes(5), 1);
        load.pass(Duration::from_secs(60), Duration::from_millis(1), |_| {})
            .await;
        let done = load.finish().await;
        assert!(done.failed >= 1);
        assert_eq!(done.first_failure.as_deref(), Some("no 5"));
    }
}
