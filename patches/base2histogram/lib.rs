//! Stands in for the crate `base2histogram` 0.2.3, with which openraft keeps statistics of itself.
//!
//! The first histogram that is made there computes the tables of all sixteen widths, 26 MiB
//! (`src/histogram/scale/log_scale.rs`, `LOG_SCALES`), a third of a node's memory. openraft makes one per node
//! (`core/shared_replicate_batch.rs`), but without its feature `runtime-stats`, which MessageBase does not use, nothing
//! can read it. So here is what openraft needs to compile, and it keeps nothing.
//!
//! To go as soon as a `base2histogram` makes the tables of a width when that width is first used.

use std::fmt::{Display, Formatter, Result};
use std::marker::PhantomData;

/// Holds nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()>(PhantomData<T>);

impl<T> Histogram<T> {
    /// An empty one, as it will stay.
    pub fn new() -> Self {
        Histogram(PhantomData)
    }

    /// Forgets the value.
    pub fn record(&mut self, _value: u64) {}

    /// Forgets the values.
    pub fn record_n(&mut self, _value: u64, _count: u64) {}

    /// Of no samples.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats::default()
    }
}

/// Of no samples: all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl Display for PercentileStats {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "[samples: {}]", self.samples)
    }
}

/// An empty chart.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// See the type.
    pub fn new() -> Self {
        AsciiChart
    }

    /// Adds nothing.
    pub fn add<T>(self, _name: &str, _histogram: Histogram<T>) -> Self {
        self
    }
}
