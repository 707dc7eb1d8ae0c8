//! What rounds come to.

use std::fmt;

use serde::Serialize;

use super::Shape;
use crate::measure::Spread;

/// One round, or the medians of several. A send is one that was acknowledged in the measured stretch; where questions
/// were asked, it is one that was answered.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Sends a second.
    pub per_second: f64,
    /// Half of the sends took no longer, ms.
    pub p50_ms: f64,
    /// Nine of ten.
    pub p90_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// 999 of 1,000.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Processor time of all servers together per send, µs.
    pub server_cpu_us: f64,
    /// Processor time of the clients per send, µs.
    pub client_cpu_us: f64,
    /// Commits synced to disk per send, all servers together, where they count them.
    pub synced_commits: Option<f64>,
    /// Writing system calls of all servers per send, to files and sockets.
    pub write_calls: f64,
    /// Bytes written to storage per send, all servers together.
    pub storage_bytes: f64,
    /// Resident memory of the largest server after the round, MiB.
    pub memory_mib: f64,
    /// The most that it ever was, MiB.
    pub memory_peak_mib: f64,
    /// Sends, of warming up as well, that were asked again because no majority had answered in time, where they are
    /// counted.
    pub repeated: Option<u64>,
    /// The share of the machine's processors that its host gave to others meanwhile, in percent: of a round with more
    /// than a few, only ratios to a round beside it say anything.
    pub stolen_percent: f64,
    /// Disk that the largest server's data takes after the round, MiB.
    pub disk_mib: f64,
}

impl Figures {
    /// The median of each figure by itself; all repetitions.
    fn medians(rounds: &[Figures]) -> Figures {
        let of = |pick: fn(&Figures) -> f64| {
            Spread::of(&rounds.iter().map(pick).collect::<Vec<_>>()).median
        };
        let synced: Option<Vec<f64>> = rounds.iter().map(|one| one.synced_commits).collect();
        Figures {
            per_second: of(|f| f.per_second),
            p50_ms: of(|f| f.p50_ms),
            p90_ms: of(|f| f.p90_ms),
            p99_ms: of(|f| f.p99_ms),
            p999_ms: of(|f| f.p999_ms),
            max_ms: of(|f| f.max_ms),
            server_cpu_us: of(|f| f.server_cpu_us),
            client_cpu_us: of(|f| f.client_cpu_us),
            synced_commits: synced.map(|all| Spread::of(&all).median),
            write_calls: of(|f| f.write_calls),
            storage_bytes: of(|f| f.storage_bytes),
            memory_mib: of(|f| f.memory_mib),
            memory_peak_mib: of(|f| f.memory_peak_mib),
            repeated: rounds.iter().map(|one| one.repeated).sum(),
            stolen_percent: of(|f| f.stolen_percent),
            disk_mib: of(|f| f.disk_mib),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} a second, p50 {:.2} ms, p99 {:.2} ms, {:.0} µs of the servers' and {:.0} µs of the clients' CPU each, \
             {:.0} % of the processors stolen{}",
            self.per_second,
            self.p50_ms,
            self.p99_ms,
            self.server_cpu_us,
            self.client_cpu_us,
            self.stolen_percent,
            self.repeated
                .filter(|count| *count > 0)
                .map_or_else(String::new, |count| format!(", {count} sends repeated"))
        )
    }
}

/// All rounds of one shape.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// Which system.
    pub system: &'static str,
    /// Of every round.
    #[serde(flatten)]
    pub shape: Shape,
    /// The median of each figure.
    pub median: Figures,
    /// How far the rounds' throughput lies apart.
    pub per_second: Spread,
    /// How far their p99 lies apart, ms.
    pub p99_ms: Spread,
    /// One by one, in their order.
    pub rounds: Vec<Figures>,
}

impl Point {
    /// Sums up.
    pub fn new(system: &'static str, shape: Shape, rounds: Vec<Figures>) -> Point {
        let spread =
            |pick: fn(&Figures) -> f64| Spread::of(&rounds.iter().map(pick).collect::<Vec<_>>());
        Point {
            system,
            shape,
            median: Figures::medians(&rounds),
            per_second: spread(|f| f.per_second),
            p99_ms: spread(|f| f.p99_ms),
            rounds,
        }
    }
}
