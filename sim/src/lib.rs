//! The simulation: several nodes in one thread and virtual time, on real SQLite files, with a network that obeys.
//! The same seed gives the same run. It runs `raft/` and `store/` of the daemon, no door, no TLS, no process.
//!
//! [`net`] carries frames; [`cluster`] builds nodes and waits for conditions.

pub mod cluster;
pub mod net;
