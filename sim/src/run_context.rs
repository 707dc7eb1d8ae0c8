//! What all parts of one run share: the clock, the trace and the invariants. Cheap to clone.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use openraft_rt::Instant;
use openraft_rt_sim::SimInstant;

use crate::checks::Checks;
use crate::node_lifetime::lock;
use crate::trace::Trace;

/// The context of one run.
#[derive(Clone)]
pub struct RunContext(Arc<Shared>);

struct Shared {
    began: SimInstant,
    trace: Mutex<Trace>,
    checks: Mutex<Checks>,
}

impl RunContext {
    /// Begins now, inside the simulated runtime.
    pub fn new() -> RunContext {
        let shared = Shared {
            began: SimInstant::now(),
            trace: Mutex::default(),
            checks: Mutex::default(),
        };
        RunContext(Arc::new(shared))
    }

    /// Virtual time since it began.
    pub fn elapsed(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// Adds an event to the trace.
    pub fn event(&self, what: fmt::Arguments<'_>) {
        lock(&self.0.trace).event(self.elapsed(), what);
    }

    /// Counts one more of a kind, for the coverage.
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

    /// Records a broken promise.
    pub fn violated(&self, what: String) {
        self.event(format_args!("VIOLATED {what}"));
        self.checks().violated(what);
    }
}

impl Default for RunContext {
    fn default() -> Self {
        RunContext::new()
    }
}
