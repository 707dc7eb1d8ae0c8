//! Percentiles of few values: sorted, nearest rank. No interpolation and no buckets, so each figure is a time that was
//! measured. With fewer than a hundred values the 99th percentile is the greatest.

use std::time::Duration;

use serde::Serialize;

/// Times summed up, in milliseconds; all 0 without any.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    /// The least.
    pub min_ms: f64,
    /// The 50th percentile.
    pub median_ms: f64,
    /// The 90th percentile.
    pub p90_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The greatest.
    pub max_ms: f64,
}

impl Figures {
    /// Sums up.
    pub fn of(times: &[Duration]) -> Figures {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let at = |percent| ms(nearest_rank(&sorted, percent));
        Figures {
            min_ms: at(0),
            median_ms: at(50),
            p90_ms: at(90),
            p99_ms: at(99),
            max_ms: at(100),
        }
    }
}

/// The least value that at least `percent` % of the values don't exceed; zero without values.
fn nearest_rank(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// Milliseconds with three decimals.
pub fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(values: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        values.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn percentiles_are_measured_values_by_nearest_rank() {
        let fifty = Figures::of(&millis((1..=50).rev()));
        let wanted = Figures {
            min_ms: 1.0,
            median_ms: 25.0,
            p90_ms: 45.0,
            p99_ms: 50.0,
            max_ms: 50.0,
        };
        assert_eq!(fifty, wanted);
        let two_hundred = Figures::of(&millis(1..=200));
        assert_eq!(
            (
                two_hundred.median_ms,
                two_hundred.p99_ms,
                two_hundred.max_ms
            ),
            (100.0, 198.0, 200.0)
        );
        let two = Figures::of(&millis([7, 3]));
        assert_eq!(
            (two.min_ms, two.median_ms, two.p90_ms, two.max_ms),
            (3.0, 3.0, 7.0, 7.0)
        );
        let one = Figures::of(&millis([9]));
        assert_eq!((one.min_ms, one.median_ms, one.max_ms), (9.0, 9.0, 9.0));
        assert_eq!(Figures::of(&[]).max_ms, 0.0);
    }

    #[test]
    fn microseconds_are_kept() {
        assert_eq!(ms(Duration::from_nanos(1_234_567)), 1.235);
    }
}
