//! Clients whose history the checker judges, through faults: a few seeds, every promise.

use crate::run::run;
use crate::workload::Clients;

const SEEDS: u64 = 12;

#[test]
fn every_promise_is_kept_through_faults() {
    let (mut attempts, mut acknowledged) = (0, 0);
    for seed in 0..SEEDS {
        let mut clients = Clients::default();
        let report = run(seed, &mut clients).unwrap_or_else(|failure| panic!("{failure}"));
        attempts += report.counts.get("attempts").copied().unwrap_or_default();
        acknowledged += report
            .counts
            .get("sends acknowledged")
            .copied()
            .unwrap_or_default();
    }
    // Else nothing was judged.
    assert!(
        acknowledged > 50 * SEEDS && attempts > acknowledged * 3 / 2,
        "{acknowledged} of {attempts}"
    );
}

#[test]
fn one_seed_is_one_history() {
    let history = || {
        let mut clients = Clients::default();
        run(3, &mut clients).unwrap_or_else(|failure| panic!("{failure}"));
        clients.history().cloned()
    };
    assert_eq!(history(), history());
}
