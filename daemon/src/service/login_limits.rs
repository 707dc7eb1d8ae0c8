//! Limits on failed logins per minute, by name and by address. Only failures count: a client that logs in often and
//! correctly is never limited. Local to a node and bounded in memory. The time is passed in.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use messagebase_config::Limits;
use messagebase_protocol::code::{Code, Failure};
use parking_lot::Mutex;

/// The window in which failures are counted, from the first one on.
const WINDOW: Duration = Duration::from_secs(60);
/// Names and addresses remembered at a time; the oldest is forgotten for one more.
const TRACKED_MAX: usize = 65_536;

/// Failures by one kind of key.
#[derive(Debug)]
struct Counts<K> {
    limit: u32,
    failures: HashMap<K, (Instant, u32)>,
    /// Keys by the beginning of their window, which is also the order in which they expire.
    order: VecDeque<(Instant, K)>,
}

impl<K: Hash + Eq + Clone> Counts<K> {
    fn new(limit: u32) -> Self {
        Counts {
            limit,
            failures: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// How long until this key may fail again; `None` while it may.
    fn blocked_for(&mut self, key: &K, now: Instant) -> Option<Duration> {
        self.expire(now);
        let (since, count) = self.failures.get(key)?;
        (*count >= self.limit).then(|| WINDOW.saturating_sub(now.saturating_duration_since(*since)))
    }

    fn failed(&mut self, key: K, now: Instant) {
        self.expire(now);
        if let Some((_, count)) = self.failures.get_mut(&key) {
            *count = count.saturating_add(1);
            return;
        }
        if self.failures.len() >= TRACKED_MAX {
            self.forget_oldest();
        }
        self.order.push_back((now, key.clone()));
        self.failures.insert(key, (now, 1));
    }

    fn expire(&mut self, now: Instant) {
        while self
            .order
            .front()
            .is_some_and(|(since, _)| now.saturating_duration_since(*since) >= WINDOW)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.failures.remove(&key);
        }
    }
}

/// Failures of this node's connections.
#[derive(Debug)]
pub(super) struct LoginLimits {
    counts: Mutex<(Counts<String>, Counts<IpAddr>)>,
}

impl LoginLimits {
    pub(super) fn new(limits: &Limits) -> Self {
        let counts = (
            Counts::new(limits.failed_logins_per_name),
            Counts::new(limits.failed_logins_per_address),
        );
        LoginLimits {
            counts: Mutex::new(counts),
        }
    }

    /// Refuses, before any hashing, a name or address that failed too often.
    pub(super) fn check(
        &self,
        folded: &str,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Result<(), Failure> {
        let mut counts = self.counts.lock();
        let by_name = counts.0.blocked_for(&folded.to_owned(), now);
        let by_address = address.and_then(|address| counts.1.blocked_for(&network(address), now));
        match by_name.max(by_address) {
            None => Ok(()),
            Some(wait) => {
                let failure =
                    Failure::not_done(Code::RateLimited, "too many failed logins; try again later");
                Err(failure.retry_after(wait))
            }
        }
    }

    /// Counts a failure.
    pub(super) fn failed(&self, folded: &str, address: Option<IpAddr>, now: Instant) {
        super::metrics::login_failed();
        let mut counts = self.counts.lock();
        counts.0.failed(folded.to_owned(), now);
        if let Some(address) = address {
            counts.1.failed(network(address), now);
        }
    }
}

/// The address as it is counted. Who owns one IPv6 address owns its /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_none() => {
            IpAddr::V6((u128::from(v6) >> 64 << 64).into())
        }
        other => other.to_canonical(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> LoginLimits {
        LoginLimits {
            counts: Mutex::new((Counts::new(2), Counts::new(3))),
        }
    }

    const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));

    #[test]
    fn a_name_is_held_up_until_its_minute_is_over() {
        let limits = limits();
        let start = Instant::now();
        limits.failed("ann", None, start);
        assert!(limits.check("ann", None, start).is_ok());
        limits.failed("ann", None, start + Duration::from_secs(10));
        let failure = limits
            .check("ann", None, start + Duration::from_secs(20))
            .expect_err("limited");
        assert_eq!(
            (failure.code, failure.retry_after_ms),
            (Code::RateLimited, Some(40_000))
        );
        assert!(
            limits
                .check("bob", None, start + Duration::from_secs(20))
                .is_ok()
        );
        assert!(limits.check("ann", None, start + WINDOW).is_ok());
    }

    #[test]
    fn an_address_is_held_up_whatever_names_it_tries() {
        let limits = limits();
        let start = Instant::now();
        for name in ["a", "b", "c"] {
            assert!(limits.check(name, HERE, start).is_ok());
            limits.failed(name, HERE, start);
        }
        assert_eq!(
            limits.check("d", HERE, start).expect_err("limited").code,
            Code::RateLimited
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut counts = Counts::new(1);
        let start = Instant::now();
        for name in 0..=TRACKED_MAX {
            counts.failed(name, start);
        }
        assert_eq!(
            (counts.failures.len(), counts.order.len()),
            (TRACKED_MAX, TRACKED_MAX)
        );
        assert!(
            counts.blocked_for(&0, start).is_none(),
            "the oldest was forgotten"
        );
    }
}
