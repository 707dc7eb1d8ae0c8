//! `mbbench`: measures a cluster through the client library, as any program would see it.
//!
//! - [`cli`] is the grammar; [`command`] has a file for each benchmark, which makes its cluster and prints its figures.
//! - [`temp_cluster`] starts and kills nodes of a cluster that exists for one command; [`bench_cluster`] is that, or the
//!   configured one.
//!
//! What follows measures, and starts and kills no node itself:
//!
//! - [`failover`] - the time from a fault to the next acknowledged send.
//! - [`connections`] - what idle sessions hold of a node's memory, and how soon a message reaches any of them.
//! - [`logins`] - sends beside a storm of logins.
//! - [`growth`] - what questions and sends cost a cluster that holds millions of messages, beside one that holds few.
//! - [`load`] - throughput and latency of sends, closed loop and pipelined, and the proof that none was lost.
//! - [`etcd`] - an etcd cluster under the same load, to compare with.
//! - [`measure`] - what the operating system and the nodes' counters say meanwhile.

#![deny(missing_docs)]

pub mod bench_cluster;
pub mod cli;
pub mod command;
pub mod connections;
pub mod etcd;
pub mod failover;
pub mod growth;
pub mod load;
pub mod logins;
pub mod measure;
pub mod temp_cluster;

use std::process::ExitCode;

use crate::cli::Cli;

/// Parses the arguments, runs the benchmark and returns how it ended.
pub fn main() -> ExitCode {
    messagebase_ctl::program::run("mbbench", |cli: &Cli| cli.json, command::run)
}
