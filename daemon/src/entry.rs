//! Log entries as values: what `store` keeps, `state` applies and `raft` replicates. Their form on disk is
//! `store::log_rows`', their form between nodes `raft::frame`'s.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::change::Envelope;

/// A place in the log. Ordered by (term, leader, index): with openraft's `leader_id_adv` one term can see several
/// leaders, so an id without its leader would be ambiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId {
    /// Raft term.
    pub term: u64,
    /// Raft id of the leader (generation · 65536 + node).
    pub leader: u64,
    /// Index.
    pub index: u64,
}

/// What an entry holds. `raft::frame` has an enum of the same shape: the forms on disk and between nodes may part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPayload {
    /// A new leader's empty entry.
    Blank,
    /// A replicated change. Shared, because the tail, replication and apply hold the same allocation.
    Change(Arc<Envelope>),
    /// Raft's membership as JSON, which only `raft` reads.
    Membership(Arc<str>),
}

/// One entry of the change log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// Its place in the log.
    pub id: LogId,
    /// What it holds.
    pub payload: LogPayload,
}
