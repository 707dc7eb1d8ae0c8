//! Deterministic apply and the queries on what it wrote. Apply sees a transaction and `change` alone; it is the only
//! authority: the checks of `service/` before proposing are a courtesy.
//!
//! **Invariant:** apply uses no clock, no randomness and no I/O except its transaction. Every node that applies the same
//! entries holds the same rows.
//!
//! Where to go next: [`Machine`] applies; [`Counters`] is what all aggregates share; `user`, `session`, `message` and
//! `operator` each carry out the changes of one aggregate, with the rows that `row_cache` holds; [`read`] queries the result;
//! [`index`] finds messages; [`effect`] is what live sessions are told.

mod change_context;
mod counters;
pub mod effect;
mod hash;
pub mod index;
pub(crate) mod integers;
mod machine;
mod message;
mod operator;
pub mod read;
mod row_cache;
mod session;
mod user;

#[cfg(test)]
mod tests;

pub use counters::Counters;
pub(crate) use counters::log_id;
pub use machine::Machine;

use crate::change::{LOG_VERSION, Outcome};
use crate::state::effect::Effect;

/// What applying one entry came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// For the proposer.
    pub outcome: Outcome,
    /// For live sessions, once the transaction is committed.
    pub effects: Vec<Effect>,
}

/// Why the node must stop: going on would skip an entry or lose one.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Written by a newer mbd.
    #[error(
        "entry {index} has log version {found}, this mbd knows {LOG_VERSION}; run the newer mbd on this node"
    )]
    UnknownVersion {
        /// Where it stands.
        index: u64,
        /// Its version.
        found: u16,
    },
    /// Not a successor of what is applied.
    #[error("entry {index} cannot be applied after entry {applied}")]
    OutOfOrder {
        /// Where it stands.
        index: u64,
        /// Last applied index.
        applied: u64,
    },
    /// Disk, corruption, memory.
    #[error("failed to apply entry {index}: {source}")]
    Sqlite {
        /// Where it stands.
        index: u64,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}
