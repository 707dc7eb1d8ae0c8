//! Chance: idempotency keys and jitter. The operating system's generator, because two clients must never choose the
//! same key for different messages.

use std::time::Duration;

const KEY_BYTES: usize = 16;

/// A fresh key: 128 random bits as 32 hexadecimal digits (a key may have 64 characters).
pub fn key() -> String {
    bytes::<KEY_BYTES>().iter().map(|byte| format!("{byte:02x}")).collect()
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
    fn jitter_stays_below_its_bound() {
        for _ in 0..1000 {
            assert!(up_to(Duration::from_millis(5)) < Duration::from_millis(5));
        }
        assert_eq!(up_to(Duration::ZERO), Duration::ZERO);
    }
}
