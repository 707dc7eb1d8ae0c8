//! Until when one request may wait for the cluster, counted from its arrival. Barrier and proposal share it, so no path
//! waits twice. Hashing is not counted: it is the node's own work, and a queue of it is not a missing quorum.

use std::future::Future;
use std::time::Duration;

use messagebase_protocol::code::Failure;
use messagebase_protocol::limits::WRITE_DEADLINE;
use tokio::time::{Instant, timeout_at};

use super::verdict;

/// With less time left nothing is proposed: the change could take effect after its verdict was given up.
const PROPOSE_MIN: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// [`WRITE_DEADLINE`] from `arrival`.
    pub fn from_arrival(arrival: Instant) -> Self {
        Deadline(arrival + WRITE_DEADLINE)
    }

    /// How long a proposal may take; `no_quorum` when less than 100 ms are left.
    pub(super) fn proposal_timeout(&self) -> Result<Duration, Failure> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left < PROPOSE_MIN {
            Err(verdict::no_quorum())
        } else {
            Ok(left)
        }
    }

    /// Waits for a barrier; `no_quorum` when it fails or the deadline passes.
    pub(super) async fn barrier<E>(
        &self,
        barrier: impl Future<Output = Result<(), E>>,
    ) -> Result<(), Failure> {
        match timeout_at(self.0, barrier).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(verdict::no_quorum()),
        }
    }

    /// Awaits work and moves the deadline by the time that it took.
    pub(super) async fn extended_by<T>(&mut self, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let result = work.await;
        self.0 += begun.elapsed();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_arrived_long_ago_is_not_proposed_any_more() {
        let now = Instant::now();
        assert!(
            Deadline::from_arrival(now)
                .proposal_timeout()
                .expect("all of it is left")
                <= WRITE_DEADLINE
        );
        let late = Deadline::from_arrival(now - (WRITE_DEADLINE - PROPOSE_MIN / 2));
        assert!(late.proposal_timeout().is_err());
        assert!(
            late.barrier(std::future::pending::<Result<(), ()>>())
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn hashing_is_not_counted() {
        const HASHING: Duration = Duration::from_millis(20);
        let mut deadline = Deadline::from_arrival(Instant::now());
        let before = deadline.0;
        let hashed = deadline
            .extended_by(tokio::time::timeout(HASHING, std::future::pending::<()>()))
            .await;
        assert!(hashed.is_err());
        assert!(deadline.0 >= before + HASHING);
    }
}
