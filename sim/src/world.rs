//! What everything in one run shares: the clock, the trace, the invariants. Cheap to clone.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use openraft_rt::Instant;
use openraft_rt_sim::SimInstant;

use crate::checks::Checks;
use crate::life::lock;
use crate::trace::Trace;

/// One run.
#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    began: SimInstant,
    trace: Mutex<Trace>,
    checks: Mutex<Checks>,
}

impl World {
    /// Begins now, inside the simulated runtime.
    pub fn new() -> World {
        let shared = Shared {
            began: SimInstant::now(),
            trace: Mutex::default(),
            checks: Mutex::default(),
        };
        World(Arc::new(shared))
    }

    /// Virtual time since it began.
    pub fn elapsed(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// An event of the trace.
    pub fn event(&self, what: fmt::Arguments<'_>) {
        lock(&self.0.trace).event(self.elapsed(), what);
    }

    /// One more of a kind, for the coverage.
    pub fn count(&self, kind: &'static str) {
        lock(&self.0.trace).count(kind);
    }

    /// The trace.
    pub fn trace(&self) -> MutexGuard<'_, Trace> {
        lock(&self.0.trace)
    }

    /// The invariants. Never held across an await.
    pub fn checks(&self) -> MutexGuard<'_, Checks> {
        lock(&self.0.checks)
    }

    /// A promise was broken.
    pub fn violated(&self, what: String) {
        self.event(format_args!("VIOLATED {what}"));
        self.checks().violated(what);
    }
}

impl Default for World {
    fn default() -> Self {
        World::new()
    }
}
