//! Defects planted on purpose are found by simulation alone, by the checker or an invariant; without them the same seeds
//! are green.

use messagebase_daemon::planted::{Defect, plant};
use messagebase_sim::run::run;
use messagebase_sim::workload::Clients;

/// Seeds that are tried for each defect; the first one that finds it is printed.
const SEEDS: u64 = 40;

fn find(defect: Defect) {
    for seed in 0..SEEDS {
        let planted = plant(defect);
        let found = run(seed, &mut Clients::default());
        drop(planted);
        if let Err(failure) = found {
            let first = failure.broken.first().map_or("", String::as_str);
            #[allow(clippy::print_stdout, reason = "which seed, for people")]
            {
                println!("{} is found by seed {seed}: {first}", defect.name());
            }
            run(seed, &mut Clients::default()).unwrap_or_else(|failure| panic!("without the defect: {failure}"));
            return;
        }
    }
    panic!("{} is not found by {SEEDS} seeds", defect.name());
}

#[test]
fn a_key_that_is_not_unique_is_found() {
    find(Defect::KeyUniqueness);
}

#[test]
fn an_acknowledgement_before_the_disk_is_found() {
    find(Defect::SyncBeforeAck);
}

#[test]
fn a_stale_read_is_found() {
    find(Defect::StaleRead);
}
