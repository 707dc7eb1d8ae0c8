//! argon2id off the async threads, with a bounded number running and queued; beyond that, `busy`. An unknown user costs
//! the same hash as a wrong password, so the time of an answer does not say whether an account exists.
//!
//! `argon2_worker` hashes; `threads` run the workers.

mod argon2_worker;
mod threads;

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use messagebase_config::PasswordCost;
use messagebase_protocol::code::{Code, Failure};
use tokio::sync::{Semaphore, oneshot};

use super::verdict;
use argon2_worker::Argon2Worker;
use threads::Threads;

/// Hashes that may wait for their turn.
pub const HASH_QUEUE_MAX: usize = 256;
/// What a client may do when the queue is full.
const BUSY_RETRY: std::time::Duration = std::time::Duration::from_millis(500);

/// The pool. Clones share it.
#[derive(Clone)]
pub struct Hasher {
    /// One permit for each waiting or running hash.
    places: Arc<Semaphore>,
    /// One core stays free for everything else.
    threads: Arc<Threads>,
    /// Verified against when there is no such user.
    dummy: Arc<str>,
}

impl Hasher {
    /// Blocks for one hash. Fails on a cost that argon2 does not allow, or without threads.
    pub fn new(cost: PasswordCost) -> anyhow::Result<Self> {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None)
            .map_err(|e| anyhow::anyhow!("argon2 refuses the configured cost: {e}"))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let dummy = Argon2Worker::new(argon2.clone())
            .hash("no account has this password")?
            .into();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let concurrency = cores.saturating_sub(1).max(1);
        let threads = Threads::start(concurrency, &argon2)
            .map_err(|e| anyhow::anyhow!("there is no thread to hash passwords on: {e}"))?;
        Ok(Hasher {
            places: Arc::new(Semaphore::new(concurrency + HASH_QUEUE_MAX)),
            threads: Arc::new(threads),
            dummy,
        })
    }

    /// A PHC string for a new password. `busy` when the queue is full.
    pub async fn hash(&self, password: String) -> Result<String, Failure> {
        self.run(move |worker| worker.hash(&password)).await
    }

    /// Whether the password belongs to the stored hash; `None` (no such user) costs as much and is false.
    pub async fn verify(&self, password: String, stored: Option<String>) -> Result<bool, Failure> {
        let exists = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.dummy.to_string());
        Ok(self
            .run(move |worker| worker.verify(&password, &stored))
            .await?
            && exists)
    }

    async fn run<T, F>(&self, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&mut Argon2Worker) -> anyhow::Result<T> + Send + 'static,
    {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let failure = Failure::not_done(
                Code::Busy,
                "too many passwords are being checked; try again in a moment",
            );
            return Err(failure.retry_after(BUSY_RETRY));
        };
        let (answer, answered) = oneshot::channel();
        self.threads.give(Box::new(move |worker| {
            // A caller that has hung up costs no hash.
            let result = (!answer.is_closed()).then(|| work(worker));
            // Before the answer: a caller that has it finds the place free again.
            drop(place);
            if let Some(result) = result {
                let _ = answer.send(result);
            }
        }));
        match answered.await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => Err(verdict::internal(&error.to_string())),
            Err(_) => Err(verdict::internal("hashing a password failed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far below what a configuration may say: these tests are not about cost.
    const CHEAP: PasswordCost = PasswordCost {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };

    #[tokio::test]
    async fn a_hash_verifies_its_password_alone() {
        let hasher = Hasher::new(CHEAP).expect("allowed cost");
        let stored = hasher.hash("correct horse".into()).await.expect("room");
        assert!(
            stored.starts_with("$argon2id$v=19$m=8,t=1,p=1$"),
            "{stored}"
        );
        assert!(
            hasher
                .verify("correct horse".into(), Some(stored.clone()))
                .await
                .expect("room")
        );
        assert!(
            !hasher
                .verify("wrong horse".into(), Some(stored))
                .await
                .expect("room")
        );
    }

    #[tokio::test]
    async fn nobody_logs_in_with_the_dummys_password() {
        let hasher = Hasher::new(CHEAP).expect("allowed cost");
        assert!(
            !hasher
                .verify("no account has this password".into(), None)
                .await
                .expect("room")
        );
    }

    #[tokio::test]
    async fn a_full_queue_is_busy() {
        let hasher = Hasher::new(CHEAP).expect("allowed cost");
        let all = u32::try_from(hasher.places.available_permits()).expect("small");
        let held = hasher
            .places
            .clone()
            .acquire_many_owned(all)
            .await
            .expect("open");
        let failure = hasher.hash("correct horse".into()).await.expect_err("full");
        assert_eq!(failure.code, Code::Busy);
        drop(held);
        assert!(hasher.hash("correct horse".into()).await.is_ok());
    }

    #[tokio::test]
    async fn who_hung_up_costs_no_hash_and_a_panic_no_thread() {
        let hasher = Hasher::new(CHEAP).expect("allowed cost");
        let places = hasher.places.available_permits();
        let (open, gate) = std::sync::mpsc::sync_channel::<()>(1);
        let gate = Arc::new(std::sync::Mutex::new(gate));
        for _ in 0..places - HASH_QUEUE_MAX {
            let gate = gate.clone();
            // An error is what it waits for: the sender is gone.
            hasher
                .threads
                .give(Box::new(move |_| drop(gate.lock().map(|gate| gate.recv()))));
        }
        let hashed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = hashed.clone();
        let abandoned = hasher.verify("correct horse".into(), None);
        let marked = hasher.run(move |_| {
            seen.store(true, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        });
        // Polled once, so queued behind the gate; then dropped.
        let queued = async { tokio::join!(abandoned, marked) };
        assert!(
            tokio::time::timeout(std::time::Duration::ZERO, queued)
                .await
                .is_err()
        );
        let panicking = hasher.run(|_| -> anyhow::Result<()> { panic!("on purpose") });
        let opened = async { drop(open) };
        let (failed, ()) = tokio::join!(panicking, opened);
        assert_eq!(failed.expect_err("it panicked").code, Code::Internal);
        assert!(!hashed.load(std::sync::atomic::Ordering::Relaxed));
        assert!(hasher.hash("correct horse".into()).await.is_ok());
        assert_eq!(hasher.places.available_permits(), places);
    }
}
