//! `mbd --restore FILE`, which `mbctl restore` runs when all disks are lost. The node becomes the only member of a new
//! cluster with the contents of the backup; the others join it blank.

use std::path::Path;

use messagebase_config::{Config, NodeConfig};
use serde::Serialize;

use super::formation::new_cluster_id;
use super::identity::{FIRST_GENERATION, member_of};
use crate::context::unix_ms;
use crate::entry::LogId;
use crate::raft::{alone, raft_id};
use crate::store::{self, RestoreError, RestoredNode};

/// What was restored; one line of JSON for `mbctl`.
#[derive(Debug, Serialize)]
pub struct Restored {
    /// The new cluster.
    pub cluster_id: String,
    /// The cluster that the backup is of.
    pub former_cluster_id: String,
    /// The node that it was taken from.
    pub taken_from: u16,
    /// When the backup was made, in Unix ms.
    pub taken_at: u64,
    /// Accounts in it.
    pub users: u64,
}

/// Makes the data directory of `node`, which must be empty, from the backup `from`. Starts nothing.
///
/// # Errors
/// As [`store::restore`].
pub fn restore(config: &Config, node: &NodeConfig, from: &Path) -> Result<Restored, RestoreError> {
    let number = node.id;
    let cluster_id = new_cluster_id()
        .map_err(|e| RestoreError::Failed("make a cluster id", format!("no randomness: {e}")))?;
    let raft_id = raft_id(FIRST_GENERATION, number);
    let identify = |last: LogId| {
        let (vote, membership) = alone(raft_id, member_of(node), last.term);
        RestoredNode {
            node: number,
            cluster_id: cluster_id.clone(),
            raft_id,
            vote,
            membership,
            now_ms: unix_ms(),
        }
    };
    let info = store::restore(from, &config.node_dir(number), identify)?;
    Ok(Restored {
        cluster_id,
        former_cluster_id: info.cluster_id,
        taken_from: info.node,
        taken_at: info.taken_at,
        users: info.users,
    })
}
