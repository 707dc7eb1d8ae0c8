//! The one place that polls. Deadlines are generous: they say "broken", not "slow", also on a machine whose host takes
//! nine tenths of its processors.

use std::time::{Duration, Instant};

/// For what takes milliseconds on an idle machine.
pub const SHORT: Duration = Duration::from_secs(60);
/// For what includes starting processes, elections or a snapshot.
pub const LONG: Duration = Duration::from_secs(240);
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `probe` has something, and returns it.
///
/// # Panics
/// With the reason, when `deadline` has passed.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            began.elapsed() < deadline,
            "waited {deadline:?} in vain for {what}"
        );
        #[allow(
            clippy::disallowed_methods,
            reason = "outside processes can't notify us; every other wait goes through here"
        )]
        std::thread::sleep(INTERVAL);
    }
}
