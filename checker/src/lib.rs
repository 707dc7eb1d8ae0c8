//! Judges histories: what clients asked and were told, against what they were promised. Pure: values in, violations
//! out, so that runs of real processes and simulations are judged by the same code.
//!
//! [`Recorder`] takes down what happens while it happens; the result is a [`History`], which can be kept as JSON lines
//! and read again. [`check`] judges one: no [`Violation`] means that nothing in it contradicts the promises. What is
//! proved and what is not: docs/TESTING.md, "The checker".

#![deny(missing_docs)]

mod check;
mod history;

pub use check::{Violation, check, report};
pub use history::{
    Answer, Attempt, Call, Event, FaultRecord, History, KeptUp, Mailbox, Message, Moment, Open,
    Outcome, ReadError, Record, Recorder, RecordingClient, RecordingConnection, Reply, Rows, Shown,
};
