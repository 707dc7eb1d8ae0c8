//! The figures of a storm, and of several.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use messagebase_checker::{Answer, Call, History};

/// A spell of time, µs since the history began.
pub(super) type Spell = (u64, u64);

/// How many times something happened, by name.
pub type Counts = BTreeMap<&'static str, u64>;

/// What one storm was like and whether all promises held.
#[derive(Debug, Default)]
pub struct StormReport {
    /// Which.
    pub seed: u64,
    /// Of the cluster.
    pub nodes: u16,
    /// Of the storm.
    pub clients: usize,
    /// How long faults lasted.
    pub lasts: Duration,
    /// Requests by operation.
    pub operations: Counts,
    /// Requests by what was answered: `ok`, `not done`, `unknown`, `no answer`.
    pub outcomes: Counts,
    /// Faults by kind.
    pub faults: Counts,
    /// How many times another (term, leader) led.
    pub failovers: u64,
    /// The longest time without an acknowledged write while a majority was well; see `worst_recovery`.
    pub worst_recovery: Duration,
    /// What must not be, for people; empty when all promises held.
    pub wrong: Vec<String>,
    /// Where the evidence of a failed run is.
    pub kept: Option<PathBuf>,
}

/// Several storms together.
#[derive(Debug, Default)]
pub struct Sum {
    /// How many storms.
    pub storms: u64,
    /// Together.
    pub operations: Counts,
    /// Together.
    pub outcomes: Counts,
    /// Together.
    pub faults: Counts,
    /// Together.
    pub failovers: u64,
    /// The worst of all, and its seed.
    pub worst_recovery: (Duration, u64),
    /// Seeds in which a promise did not hold.
    pub failed: Vec<u64>,
}

impl Sum {
    /// One storm more.
    pub fn add(&mut self, report: &StormReport) {
        self.storms += 1;
        for (sum, counts) in [
            (&mut self.operations, &report.operations),
            (&mut self.outcomes, &report.outcomes),
            (&mut self.faults, &report.faults),
        ] {
            counts
                .iter()
                .for_each(|(name, count)| *sum.entry(name).or_default() += count);
        }
        self.failovers += report.failovers;
        self.worst_recovery = self
            .worst_recovery
            .max((report.worst_recovery, report.seed));
        if !report.wrong.is_empty() {
            self.failed.push(report.seed);
        }
    }
}

fn total(counts: &Counts) -> u64 {
    counts.values().sum()
}

fn listed(counts: &Counts) -> String {
    counts
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect::<Vec<_>>()
        .join(", ")
}

impl fmt::Display for StormReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.wrong.is_empty() {
            "good"
        } else {
            "FAILED"
        };
        write!(
            f,
            "seed {}: {verdict}; {} nodes, {} clients, {} s; {} operations ({}); {} faults; {} failovers; worst recovery {} ms",
            self.seed,
            self.nodes,
            self.clients,
            self.lasts.as_secs(),
            total(&self.operations),
            listed(&self.outcomes),
            total(&self.faults),
            self.failovers,
            self.worst_recovery.as_millis(),
        )
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} storms, {} failed {:?}",
            self.storms,
            self.failed.len(),
            self.failed
        )?;
        writeln!(
            f,
            "operations: {}: {}",
            total(&self.operations),
            listed(&self.operations)
        )?;
        writeln!(f, "outcomes:   {}", listed(&self.outcomes))?;
        writeln!(
            f,
            "faults:     {}: {}",
            total(&self.faults),
            listed(&self.faults)
        )?;
        let (worst, seed) = self.worst_recovery;
        writeln!(f, "failovers:  {}", self.failovers)?;
        write!(f, "worst recovery: {} ms (seed {seed})", worst.as_millis())
    }
}

/// Counts requests by operation and by outcome.
pub(super) fn count(history: &History) -> (Counts, Counts) {
    let (mut operations, mut outcomes) = (Counts::new(), Counts::new());
    for attempt in &history.attempts {
        *operations.entry(attempt.call.request().0).or_default() += 1;
        let outcome = match &attempt.answer {
            Answer::Ok(_) => "ok",
            answer if answer.not_done().is_some() => "not done",
            Answer::Refused { .. } => "unknown",
            Answer::Nothing => "no answer",
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    (operations, outcomes)
}

/// When writes were acknowledged, µs, in order.
pub(super) fn acknowledged_writes(history: &History) -> Vec<u64> {
    let writes = |call: &Call| !call.is_read() && !matches!(call, Call::Resume { .. });
    let acknowledged = history
        .attempts
        .iter()
        .filter(|a| writes(&a.call) && a.answer.ok().is_some());
    let mut times: Vec<u64> = acknowledged
        .filter_map(|a| a.completed.map(|moment| moment.us))
        .collect();
    times.sort_unstable();
    times
}

/// The longest time without any acknowledged write within the spells in which a majority of the nodes was well: running
/// (from the moment the process was started), not frozen, and connected to each other. Each node has a client that always
/// has a write under way or about to be (a few ms between an answer and the next write), so this is how long the cluster
/// as a whole did not serve although it could have: elections, starting processes, and the clients' own way to a node.
/// It is measured from outside, with everything else that the machine does in it. A spell that ends before the next
/// acknowledgement counts as far as it goes.
pub(super) fn worst_recovery(acknowledged: &[u64], spells: &[Spell]) -> Duration {
    let longest = spells.iter().map(|(from, to)| {
        let within = acknowledged
            .iter()
            .copied()
            .filter(|at| from < at && at < to);
        let marks: Vec<u64> = std::iter::once(*from).chain(within).chain([*to]).collect();
        marks
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or(0)
    });
    Duration::from_micros(longest.max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::worst_recovery;

    #[test]
    fn only_the_silence_while_a_majority_was_well_counts() {
        let acknowledged = [10, 20, 70, 400, 410];
        let us = Duration::from_micros;
        assert_eq!(worst_recovery(&acknowledged, &[(0, 420)]), us(330));
        assert_eq!(
            worst_recovery(&acknowledged, &[(0, 80), (380, 420)]),
            us(50)
        );
        assert_eq!(
            worst_recovery(&acknowledged, &[(100, 300)]),
            us(200),
            "nothing came in all of it"
        );
        assert_eq!(worst_recovery(&acknowledged, &[]), us(0));
    }
}
