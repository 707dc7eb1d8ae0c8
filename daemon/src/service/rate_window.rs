//! At most so many acts in a sliding window.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Remembers the instants of the last acts, at most `limit` of them.
#[derive(Debug)]
pub(crate) struct RateWindow {
    limit: usize,
    window: Duration,
    acts: Mutex<VecDeque<Instant>>,
}

impl RateWindow {
    pub(crate) fn new(limit: usize, window: Duration) -> Self {
        RateWindow {
            limit,
            window,
            acts: Mutex::default(),
        }
    }

    /// Counts an act, or says after how long one more is allowed.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Duration> {
        let mut acts = self.acts.lock().unwrap_or_else(PoisonError::into_inner);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides() {
        let window = RateWindow::new(2, Duration::from_secs(10));
        let start = Instant::now();
        assert_eq!(window.admit(start), Ok(()));
        assert_eq!(window.admit(start + Duration::from_secs(4)), Ok(()));
        assert_eq!(
            window.admit(start + Duration::from_secs(6)),
            Err(Duration::from_secs(4))
        );
        assert_eq!(window.admit(start + Duration::from_secs(10)), Ok(()));
    }
}
