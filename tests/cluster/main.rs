//! What a cluster promises, shown on real processes: one promise a file. How to read a failure is in docs/TESTING.md.

#![allow(clippy::expect_used, reason = "a test that can't go on fails")]

mod chat;
mod crash;
mod example;
mod false_alarms;
mod files;
mod handing_over;
mod keys;
mod pipe;
mod quorum;
mod sessions;
mod snapshot;
mod wiped;

use messagebase_harness::{Cluster, programs};

/// A cluster that is ready to serve.
#[track_caller]
fn cluster(nodes: u16) -> Cluster {
    Cluster::start(programs!(), nodes)
}
