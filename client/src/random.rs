//! Random idempotency keys and jitter. Keys come from the operating system's generator, because two clients must never
//! choose the same key for different messages. For the keys of sends it is asked for many bytes at once: a call for
//! each key would cost as much as the rest of the key.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Random bits of a send's key, the lowest ones.
const SEND_KEY_RANDOM_BITS: u32 = 80;
/// Milliseconds since 1970 in a send's key, as in a UUID of version 7 (RFC 9562, section 5.7): the lowest 48 bits.
const SEND_KEY_TIME_BITS: u32 = 48;
/// Bytes that the system is asked for at once; it gives up to 256 without interruption (getrandom(2)).
const POOL_BYTES: usize = 256;

thread_local! {
    /// For the keys of sends: bytes that none was given yet. A copy of a running virtual machine is given the same ones,
    /// most likely not in the same millisecond.
    static POOL: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A fresh key: 128 random bits as 32 hexadecimal digits (a key may have 64 characters).
pub fn key() -> String {
    format!("{:032x}", u128::from_le_bytes(fresh()))
}

/// A fresh key for a send: the time and 80 random bits as 32 hexadecimal digits. A sender sends thousands of messages:
/// with keys that grow, the nodes' index of keys grows at its end, instead of writing another page for nearly every
/// message. Nothing relies on the time: a clock that goes back costs only that.
pub fn send_key() -> String {
    send_key_at(SystemTime::now())
}

fn send_key_at(now: SystemTime) -> String {
    let millis = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    let millis = millis & ((1 << SEND_KEY_TIME_BITS) - 1);
    let random = u128::from_le_bytes(pooled()) & ((1 << SEND_KEY_RANDOM_BITS) - 1);
    format!("{:032x}", (millis << SEND_KEY_RANDOM_BITS) | random)
}

/// A random time up to (excluding) `bound`: full jitter, so that a crowd of clients that lost the same node does not
/// come back in step.
pub fn up_to(bound: Duration) -> Duration {
    let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(u64::from_le_bytes(fresh()) % nanos)
}

#[allow(
    clippy::expect_used,
    reason = "without the system's generator no key is safe: nothing can go on"
)]
fn fresh<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has a random generator");
    bytes
}

fn pooled<const N: usize>() -> [u8; N] {
    POOL.with_borrow_mut(|pool| {
        if pool.len() < N {
            *pool = fresh::<POOL_BYTES>().to_vec();
        }
        let mut bytes = [0; N];
        let rest = pool.len() - N;
        bytes.copy_from_slice(&pool[rest..]);
        // Bytes that were used are not used again.
        pool.truncate(rest);
        bytes
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_differ_and_are_valid() {
        let (a, b) = (key(), key());
        assert_ne!(a, b);
        assert!(messagebase_protocol::name::check_key(&a).is_ok());
    }

    #[test]
    fn keys_of_sends_differ_are_valid_and_grow_with_time() {
        // As many as empty the pool several times, of one moment.
        let keys: HashSet<String> = (0..10 * POOL_BYTES)
            .map(|_| send_key_at(UNIX_EPOCH))
            .collect();
        assert_eq!(keys.len(), 10 * POOL_BYTES);
        assert!(messagebase_protocol::name::check_key(&send_key()).is_ok());
        let at = |millis| send_key_at(UNIX_EPOCH + Duration::from_millis(millis));
        assert!(at(0) < at(1) && at(999) < at(1_000) && at((1 << 41) - 1) < at(1 << 41));
        assert!(at(1_000).starts_with("0000000003e8") && at(1_000).len() == 32);
        assert_eq!(send_key_at(UNIX_EPOCH - Duration::from_millis(5)).len(), 32);
    }

    #[test]
    fn jitter_stays_below_its_bound() {
        for _ in 0..1000 {
            assert!(up_to(Duration::from_millis(5)) < Duration::from_millis(5));
        }
        assert_eq!(up_to(Duration::ZERO), Duration::ZERO);
    }
}
