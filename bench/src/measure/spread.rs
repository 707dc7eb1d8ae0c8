//! Several runs in two figures: the median, and how far they lie apart.

use serde::Serialize;

/// The median of finite values; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Median, least and greatest of several runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the runs lie above it.
    pub median: f64,
    /// Of the runs.
    pub least: f64,
    /// Of the runs.
    pub greatest: f64,
}

impl Spread {
    /// Of at least one value; else all zero.
    pub fn of(values: &[f64]) -> Spread {
        let least = values.iter().copied().reduce(f64::min).unwrap_or(0.0);
        let greatest = values.iter().copied().reduce(f64::max).unwrap_or(0.0);
        Spread {
            median: median(values),
            least,
            greatest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(
            Spread::of(&[3.0, 1.0, 2.0]),
            Spread {
                median: 2.0,
                least: 1.0,
                greatest: 3.0
            }
        );
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
