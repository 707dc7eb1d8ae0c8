//! `mbctl`: what an operator does to a cluster, and what it prints for people and for scripts.

#![allow(clippy::expect_used, reason = "a test that can't go on fails")]

mod backup;
mod bench;
mod init;
mod running;

use messagebase_harness::{Place, programs};

/// A configuration with keys for this many nodes; nothing runs.
#[track_caller]
fn place(nodes: u16) -> Place {
    Place::with(programs!(), nodes).make()
}
