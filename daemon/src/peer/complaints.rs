//! Says the same of the same peer once in a while, not at every attempt: a node that was replaced or blanked is dialed,
//! and dials, many times a second.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The same complaint about the same peer is not repeated within this time.
const QUIET: Duration = Duration::from_secs(30);
/// Complaints remembered; beyond it all are forgotten and may be said again.
const REMEMBERED_MAX: usize = 256;

/// What was said, and when. The lock is held for a look.
#[derive(Debug, Default)]
pub struct Complaints {
    said: Mutex<HashMap<String, Instant>>,
}

impl Complaints {
    /// Whether it is time to say this (again).
    pub fn is_due(&self, complaint: &str, now: Instant) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said
            .get(complaint)
            .is_some_and(|at| now.saturating_duration_since(*at) < QUIET)
        {
            return false;
        }
        if said.len() >= REMEMBERED_MAX {
            said.clear();
        }
        said.insert(complaint.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_in_a_while_and_another_at_once() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        assert!(complaints.is_due("node 3: stale", start));
        assert!(!complaints.is_due("node 3: stale", start + QUIET / 2));
        assert!(complaints.is_due("node 2: stale", start + QUIET / 2));
        assert!(complaints.is_due("node 3: stale", start + QUIET));
    }
}
