//! A cluster of real processes that a test reads as prose: `cluster.node(2).kill()`, `cluster.cut(&[1], &[2, 3])`,
//! `cluster.wait("a leader among 2, 3", …)`.
//!
//! Sees the three programs from outside only: sockets, exit codes, output and the files they leave. It never links the
//! daemon, so a test can't pass by sharing its mistakes. Map: [`Place`] is a directory with a configuration and keys,
//! [`Cluster`] runs daemons in one, [`TestClient`] and [`Connection`] speak to them, [`Command`] and [`Talk`] run the
//! command-line tools, [`Terminal`] gives one of them a terminal, [`Rows`] reads the files, [`Proxy`] breaks the
//! network, [`Load`] takes down for the checker what it does, [`judge`] asks for its verdict, [`storm`] lets a seed choose
//! faults and what clients do meanwhile, [`while_the_machine_runs`] judges promises about time, [`wait_for`] is the only
//! place that polls.

#![deny(missing_docs)]
#![allow(clippy::expect_used, reason = "a test that can't go on fails")]
#![allow(
    clippy::print_stderr,
    reason = "the test runner shows it when a test fails, which is the only time it is written"
)]

mod client;
mod clock_stall;
mod cluster;
mod command;
mod connection;
mod judge;
mod load;
mod node;
mod place;
mod ports;
mod proxy;
mod rows;
pub mod storm;
mod terminal;
mod wait;

pub use client::{Answer, PASSWORD, Refusal, TestClient};
pub use clock_stall::while_the_machine_runs;
pub use cluster::{Cluster, ClusterBuilder};
pub use command::{Command, Ran, Talk, signal};
pub use connection::{Connection, Heard};
pub use judge::{judge, messages};
pub use load::Load;
pub use nix::sys::signal::Signal;
pub use node::Node;
pub use place::{Place, PlaceBuilder, Programs};
pub use ports::NodePorts;
pub use proxy::{DirectionState, LinkState, Proxy};
pub use rows::{Lock, Rows, TABLES_THAT_MUST_AGREE};
pub use terminal::Terminal;
pub use wait::{LONG, SHORT, wait_for};

/// Where cargo put the three programs; expands to a [`Programs`] in an integration test of the root package.
#[macro_export]
macro_rules! programs {
    () => {
        $crate::Programs {
            mbd: env!("CARGO_BIN_EXE_mbd").into(),
            mbctl: env!("CARGO_BIN_EXE_mbctl").into(),
            mbclient: env!("CARGO_BIN_EXE_mbclient").into(),
        }
    };
}
