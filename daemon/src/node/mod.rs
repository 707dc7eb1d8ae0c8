//! Builds one node of all rooms and decides the order of start and stop.
//!
//! Start: directory lock and migrations → listeners bound → writer → clients and peers served → identity (from the file, or
//! by formation) → replication. A node without an identity answers `status` and waits. Stop: leadership away → clients
//! told → replication → file.
//!
//! Where to go next: `start` has the order, `formation` decides how a cluster begins, `identity` stores and uses the
//! identity, `handler` answers peers, `incarnations` recognizes copied data directories.

mod formation;
mod gossip;
mod handler;
mod identity;
mod incarnations;
mod leadership_log;
mod replication;
mod restore;
mod start;

pub use restore::restore;
pub use start::run;
