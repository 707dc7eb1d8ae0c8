//! The time that one request may wait for the cluster, from its arrival: barrier and proposal share it, so that no path
//! waits twice. Hashing is not counted: it is the node's own work, and a queue of it is not a missing quorum.

use std::future::Future;
use std::time::Duration;

use messagebase_protocol::code::Failure;
use messagebase_protocol::limits::WRITE_DEADLINE;
use tokio::time::{Instant, timeout_at};

use super::verdict;

/// With less than this left nothing is proposed: the verdict would come too late, of a change that takes effect.
const PROPOSE_MIN: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    deadline: Instant,
}

impl Budget {
    /// [`WRITE_DEADLINE`] from `arrival`.
    pub fn since(arrival: Instant) -> Self {
        Budget {
            deadline: arrival + WRITE_DEADLINE,
        }
    }

    /// How long a proposal may take; `no_quorum` when it is not worth its while any more.
    pub(super) fn for_proposal(&self) -> Result<Duration, Failure> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left < PROPOSE_MIN {
            Err(verdict::no_quorum())
        } else {
            Ok(left)
        }
    }

    /// Waits for a barrier while there is time.
    pub(super) async fn barrier<E>(
        &self,
        barrier: impl Future<Output = Result<(), E>>,
    ) -> Result<(), Failure> {
        match timeout_at(self.deadline, barrier).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(verdict::no_quorum()),
        }
    }

    /// Does work that is not counted.
    pub(super) async fn uncounted<T>(&mut self, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let result = work.await;
        self.deadline += begun.elapsed();
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
            Budget::since(now)
                .for_proposal()
                .expect("all of it is left")
                <= WRITE_DEADLINE
        );
        let late = Budget::since(now - (WRITE_DEADLINE - PROPOSE_MIN / 2));
        assert!(late.for_proposal().is_err());
        assert!(
            late.barrier(std::future::pending::<Result<(), ()>>())
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn hashing_is_not_counted() {
        const HASHING: Duration = Duration::from_millis(20);
        let mut budget = Budget::since(Instant::now());
        let before = budget.deadline;
        let hashed = budget
            .uncounted(tokio::time::timeout(HASHING, std::future::pending::<()>()))
            .await;
        assert!(hashed.is_err());
        assert!(budget.deadline >= before + HASHING);
    }
}
