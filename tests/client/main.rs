//! `mbclient` as a script and as a person at a terminal meet it.

#![allow(clippy::expect_used, reason = "a test that can't go on fails")]

mod interactive;
mod scripted;

use messagebase_harness::{Cluster, programs};

/// A cluster with these accounts.
#[track_caller]
fn cluster_with(nodes: u16, users: &[&str]) -> Cluster {
    let cluster = Cluster::start(programs!(), nodes);
    users
        .iter()
        .for_each(|user| cluster.client(1).register(user));
    cluster
}
