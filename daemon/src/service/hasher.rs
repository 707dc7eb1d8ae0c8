//! argon2id off the async threads: so many hashes at a time, so many waiting, `busy` beyond. An unknown user costs
//! the same hash as a wrong password, so that the time of an answer does not say whether an account exists.

use std::sync::Arc;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use messagebase_config::PasswordCost;
use messagebase_protocol::code::{Code, Failure};
use tokio::sync::Semaphore;

use super::verdict;

/// Hashes that may wait for their turn.
pub const HASH_QUEUE_MAX: usize = 256;
/// 128 bits, as RFC 9106 recommends.
const SALT_BYTES: usize = 16;
/// What a client may do when the queue is full.
const BUSY_RETRY: std::time::Duration = std::time::Duration::from_millis(500);

/// The pool. Clones share it.
#[derive(Clone)]
pub struct Hasher {
    argon2: Argon2<'static>,
    /// Waiting and running hashes.
    places: Arc<Semaphore>,
    /// Running hashes: one core stays free for everything else.
    running: Arc<Semaphore>,
    /// Verified against when there is no such user.
    dummy: Arc<str>,
}

impl Hasher {
    /// Blocks for one hash. Fails on a cost that argon2 does not allow.
    pub fn new(cost: PasswordCost) -> anyhow::Result<Self> {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None)
            .map_err(|e| anyhow::anyhow!("argon2 refuses the configured cost: {e}"))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let dummy = hash_now(&argon2, "no account has this password")?.into();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let concurrency = cores.saturating_sub(1).max(1);
        Ok(Hasher {
            argon2,
            places: Arc::new(Semaphore::new(concurrency + HASH_QUEUE_MAX)),
            running: Arc::new(Semaphore::new(concurrency)),
            dummy,
        })
    }

    /// A PHC string for a new password. `busy` when the queue is full.
    pub async fn hash(&self, password: String) -> Result<String, Failure> {
        self.run(move |argon2| hash_now(argon2, &password)).await
    }

    /// Whether the password belongs to the stored hash; `None` (no such user) costs as much and is false.
    pub async fn verify(&self, password: String, stored: Option<String>) -> Result<bool, Failure> {
        let exists = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.dummy.to_string());
        let matches = self
            .run(move |argon2| {
                let stored = PasswordHash::new(&stored).map_err(|e| anyhow::anyhow!("a stored hash is broken: {e}"))?;
                Ok(argon2.verify_password(password.as_bytes(), &stored).is_ok())
            })
            .await?;
        Ok(matches && exists)
    }

    async fn run<T, F>(&self, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&Argon2<'static>) -> anyhow::Result<T> + Send + 'static,
    {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let failure = Failure::not_done(Code::Busy, "too many passwords are being checked; try again in a moment");
            return Err(failure.retry_after(BUSY_RETRY));
        };
        let turn = self.running.clone().acquire_owned().await;
        let turn = turn.map_err(|_| verdict::internal("the password pool is closed"))?;
        let argon2 = self.argon2.clone();
        let done = tokio::task::spawn_blocking(move || {
            // Released when the hash ends, also when nobody waits for it any more.
            let (_place, _turn) = (place, turn);
            work(&argon2)
        });
        match done.await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => Err(verdict::internal(&error.to_string())),
            Err(error) => Err(verdict::internal(&format!("hashing a password failed: {error}"))),
        }
    }
}

fn hash_now(argon2: &Argon2<'_>, password: &str) -> anyhow::Result<String> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
    let salt = SaltString::encode_b64(&salt).map_err(|e| anyhow::anyhow!("salt: {e}"))?;
    let hash = argon2.hash_password(password.as_bytes(), &salt).map_err(|e| anyhow::anyhow!("argon2: {e}"))?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far below what a configuration may say: these tests are not about cost.
    const CHEAP: PasswordCost = PasswordCost { memory_kib: 8, passes: 1, lanes: 1 };

    #[tokio::test]
    async fn a_hash_verifies_its_password_alone() {
        let hasher = Hasher::new(CHEAP).expect("allowed cost");
        let stored = hasher.hash("correct horse".into()).await.expect("room");
        assert!(stored.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{stored}");
        assert!(hasher.verify("correct horse".into(), Some(stored.clone())).await.expect("room"));
        assert!(!hasher.verify("wrong horse".into(), Some(stored)).await.expect("room"));
    }

    #[tokio::test]
    async fn nobody_logs_in_with_the_dummys_password() {
        let hasher = Hasher::new(CHEAP).expect("allowed cost");
        assert!(!hasher.verify("no account has this password".into(), None).await.expect("room"));
    }

    #[tokio::test]
    async fn a_full_queue_is_busy() {
        let hasher = Hasher::new(CHEAP).expect("allowed cost");
        let all = u32::try_from(hasher.places.available_permits()).expect("small");
        let held = hasher.places.clone().acquire_many_owned(all).await.expect("open");
        let failure = hasher.hash("correct horse".into()).await.expect_err("full");
        assert_eq!(failure.code, Code::Busy);
        drop(held);
        assert!(hasher.hash("correct horse".into()).await.is_ok());
    }
}
