//! How a replica behaves, and what openraft is told of it.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use super::api::ReplicaError;
use crate::change::Settings;

/// Wall clock, Unix ms; read on the leader alone, to stamp changes.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Installing the last piece of a snapshot, as openraft counts it. Our network has limits of its own.
const INSTALL_TIMEOUT_MS: u64 = 120_000;
/// Entries in one append, and in one write of the log.
const APPEND_ENTRIES: u64 = 2_000;

/// How a replica behaves.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// This node's Raft id, as in its file.
    pub raft_id: u64,
    /// As in its file; snapshots of other clusters are refused.
    pub cluster_id: String,
    /// Bytes of change log kept for followers that were away.
    pub change_log_bytes: u64,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout.
    pub election_max: Duration,
    /// This node's settings; proposed when it leads and the replicated ones differ.
    pub settings: Settings,
}

impl ReplicaConfig {
    /// With the product's timing: heartbeats every 50 ms, elections after 300 to 600 ms.
    pub fn new(
        raft_id: u64,
        cluster_id: String,
        change_log_bytes: u64,
        settings: Settings,
    ) -> Self {
        ReplicaConfig {
            raft_id,
            cluster_id,
            change_log_bytes,
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            settings,
        }
    }

    /// # Errors
    /// When the timing is contradictory.
    pub(super) fn for_openraft(&self) -> Result<Config, ReplicaError> {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let raft = Config {
            cluster_name: self.cluster_id.clone(),
            heartbeat_interval: ms(self.heartbeat),
            election_timeout_min: ms(self.election_min),
            election_timeout_max: ms(self.election_max),
            install_snapshot_timeout: INSTALL_TIMEOUT_MS,
            max_payload_entries: APPEND_ENTRIES,
            max_append_entries: Some(APPEND_ENTRIES),
            // `log_retention` purges by bytes.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            enable_pre_vote: Some(true),
            // A restarted leader that kept leading would serve reads from a state behind its own commits.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        raft.validate()
            .map_err(|e| ReplicaError(format!("the timing of replication makes no sense: {e}")))
    }
}
