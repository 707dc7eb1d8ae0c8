//! What openraft is parameterized with.

use serde::{Deserialize, Serialize};

/// A Raft id is `generation · RAFT_ID_GENERATION + node number`; a generation is never used twice.
pub const RAFT_ID_GENERATION: u64 = 65_536;

/// The Raft id of a node in its n-th life.
pub fn raft_id(generation: u64, node: u16) -> u64 {
    generation * RAFT_ID_GENERATION + u64::from(node)
}

/// The number of the node that a Raft id belongs to.
pub fn node_of(raft_id: u64) -> u16 {
    (raft_id % RAFT_ID_GENERATION) as u16
}

/// What the membership says about a node. Part of the log format: fields are only added, with a default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub node: u16,
    /// Where clients dial it.
    pub client: String,
    /// Where nodes dial it.
    pub peer: String,
    /// A learner that becomes a voter by itself, whoever leads, once it has caught up.
    #[serde(default)]
    pub promote: bool,
}
