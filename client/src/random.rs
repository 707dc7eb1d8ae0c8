//! Chance: idempotency keys and jitter. The operating system's generator, because two clients must never choose the
//! same key for different messages.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const KEY_BYTES: usize = 16;
/// Of a send's key that are random.
const SEND_KEY_RANDOM_BYTES: usize = 10;
/// Milliseconds since 1970 in a send's key, as in a UUID of version 7 (RFC 9562, section 5.7): the lowest 48 bits.
const SEND_KEY_TIME_BITS: u32 = 48;

/// A fresh key: 128 random bits as 32 hexadecimal digits (a key may have 64 characters).
pub fn key() -> String {
    bytes::<KEY_BYTES>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A fresh key for a send: the time and 80 random bits as 32 hexadecimal digits. A sender sends thousands of messages:
/// with keys that grow, the nodes' index of keys grows at its end, instead of writing another page for nearly every
/// message. Nothing else rests on the time; a clock that goes back costs nothing but that.
pub fn send_key() -> String {
    send_key_at(SystemTime::now())
}

fn send_key_at(now: SystemTime) -> String {
    let millis = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let millis = millis & ((1 << SEND_KEY_TIME_BITS) - 1);
    let mut key = format!("{millis:012x}");
    for byte in bytes::<SEND_KEY_RANDOM_BYTES>() {
        // Writing to a String does not fail.
        let _ = write!(key, "{byte:02x}");
    }
    key
}

/// A random time up to (excluding) `bound`: full jitter, so that a crowd of clients that lost the same node does not
/// come back in step.
pub fn up_to(bound: Duration) -> Duration {
    let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(u64::from_le_bytes(bytes::<8>()) % nanos)
}

#[allow(clippy::expect_used, reason = "without the system's generator no key is safe: nothing can go on")]
fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has a random generator");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_are_valid() {
        let (a, b) = (key(), key());
        assert_ne!(a, b);
        assert!(messagebase_protocol::name::check_key(&a).is_ok());
    }

    #[test]
    fn keys_of_sends_differ_are_valid_and_grow_with_time() {
        let (a, b) = (send_key(), send_key());
        assert_ne!(a, b);
        assert!(messagebase_protocol::name::check_key(&a).is_ok());
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
