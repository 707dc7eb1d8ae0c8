//! The simulation: several nodes in one thread and virtual time, on real SQLite files, with a network, disks and crashes
//! that follow from a seed. The same seed gives the same run. It runs `raft/`, `store/` and `state/` of the daemon; no
//! door, no TLS, no process.
//!
//! [`run`] takes a seed from its beginning to its verdict. [`plan`] draws the faults, [`net`] carries frames, [`node_lifetime`]
//! ends a node between any two steps, [`disk`] carries out its writes; [`cluster`] builds nodes and waits for
//! conditions. [`checks`] are the invariants, [`trace`] is what makes two runs comparable. [`workload`] is clients whose
//! history the checker judges.

#![allow(clippy::expect_used, reason = "a test that can't go on fails")]

pub mod checks;
pub mod cluster;
pub mod disk;
pub mod net;
pub mod node_lifetime;
pub mod plan;
pub mod rng;
pub mod run;
pub mod run_context;
pub mod trace;
pub mod workload;

#[cfg(test)]
mod tests;
