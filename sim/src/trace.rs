//! What happened in a run: a hash over every event with its virtual time, and how often each kind of thing happened.
//! Two runs of one seed have the same hash, or something in them does not follow from the seed.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher;
use std::time::Duration;

/// Set, every event is printed to standard error.
pub const TRACE_ENV: &str = "MESSAGEBASE_SIM_TRACE";

/// Events of a run.
pub struct Trace {
    /// Its keys are fixed, so the same bytes hash alike in every process.
    hash: std::hash::DefaultHasher,
    events: u64,
    print: bool,
    counts: BTreeMap<&'static str, u64>,
    /// The line being hashed; kept for its capacity.
    line: String,
}

impl Default for Trace {
    fn default() -> Self {
        let hash = std::hash::DefaultHasher::new();
        let print = std::env::var_os(TRACE_ENV).is_some();
        Trace {
            hash,
            events: 0,
            print,
            counts: BTreeMap::new(),
            line: String::new(),
        }
    }
}

impl Trace {
    /// One event.
    pub fn event(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        use fmt::Write as _;
        self.line.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.line, "{:>12} {what}", at.as_nanos());
        self.hash.write(self.line.as_bytes());
        self.hash.write_u8(b'\n');
        self.events += 1;
        if self.print {
            #[allow(
                clippy::print_stderr,
                reason = "asked for by its variable; for whoever hunts a failing seed"
            )]
            {
                eprintln!("{}", self.line);
            }
        }
    }

    /// Counts a thing of that kind, for the coverage.
    pub fn count(&mut self, kind: &'static str) {
        self.add(kind, 1);
    }

    /// Counts them.
    pub fn add(&mut self, kind: &'static str, number: u64) {
        *self.counts.entry(kind).or_default() += number;
    }

    /// The hash so far, and of how many events.
    pub fn hash(&self) -> (u64, u64) {
        (self.hash.clone().finish(), self.events)
    }

    /// How often what happened.
    pub fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }
}
