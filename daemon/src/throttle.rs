//! Rate limits: [`RateLimit`] for actions, [`LogThrottle`] for repeated log lines. The time is passed in. Limits on failed
//! logins have windows by name and address: see `service/login_limits`.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The same line is not logged again within this time.
const QUIET: Duration = Duration::from_secs(30);
/// Lines remembered; beyond it all are forgotten and may be logged again.
const REMEMBERED_MAX: usize = 256;

/// At most `limit` acts in a sliding window.
#[derive(Debug)]
pub(crate) struct RateLimit {
    limit: usize,
    window: Duration,
    /// The last acts, at most `limit` of them.
    acts: Mutex<VecDeque<Instant>>,
}

impl RateLimit {
    pub(crate) fn new(limit: usize, window: Duration) -> Self {
        RateLimit {
            limit,
            window,
            acts: Mutex::default(),
        }
    }

    /// Counts an act, or says after how long one more is allowed.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Duration> {
        let mut acts = self.acts.lock();
        while acts
            .front()
            .is_some_and(|act| now.saturating_duration_since(*act) >= self.window)
        {
            acts.pop_front();
        }
        match acts.front() {
            Some(oldest) if acts.len() >= self.limit => Err(self
                .window
                .saturating_sub(now.saturating_duration_since(*oldest))),
            _ => {
                acts.push_back(now);
                Ok(())
            }
        }
    }
}

/// Lets each line through once in [`QUIET`]. A node that was replaced or blanked dials, and is dialed, many times a second.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    logged: Mutex<HashMap<String, Instant>>,
}

impl LogThrottle {
    /// Whether this line is to be logged (again).
    pub(crate) fn admit(&self, line: &str, now: Instant) -> bool {
        let mut logged = self.logged.lock();
        if logged
            .get(line)
            .is_some_and(|at| now.saturating_duration_since(*at) < QUIET)
        {
            return false;
        }
        if logged.len() >= REMEMBERED_MAX {
            logged.clear();
        }
        logged.insert(line.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides() {
        let window = RateLimit::new(2, Duration::from_secs(10));
        let start = Instant::now();
        assert_eq!(window.admit(start), Ok(()));
        assert_eq!(window.admit(start + Duration::from_secs(4)), Ok(()));
        assert_eq!(
            window.admit(start + Duration::from_secs(6)),
            Err(Duration::from_secs(4))
        );
        assert_eq!(window.admit(start + Duration::from_secs(10)), Ok(()));
    }

    #[test]
    fn the_same_line_is_logged_once_in_a_while_and_another_at_once() {
        let (throttle, start) = (LogThrottle::default(), Instant::now());
        assert!(throttle.admit("node 3: stale", start));
        assert!(!throttle.admit("node 3: stale", start + QUIET / 2));
        assert!(throttle.admit("node 2: stale", start + QUIET / 2));
        assert!(throttle.admit("node 3: stale", start + QUIET));
    }
}
