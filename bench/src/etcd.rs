//! An etcd cluster to compare with: three nodes of the operating system's package (`etcd-server`), with etcd's own
//! defaults, which sync to disk before they acknowledge, and TLS between nodes and to clients as MessageBase has it.
//!
//! - [`nodes`] starts it in a directory and takes it away again.
//! - [`grpc`] puts values into it: etcd's own protocol over HTTP/2, a connection a client as for MessageBase.
//! - `wire` is the little of protobuf that this needs.

pub mod grpc;
pub mod nodes;
mod wire;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::load::buffered::buffered;
use crate::load::drive::Worked;
use crate::load::{LoadError, Place, Say, Server, Shape, Subject};
use grpc::{Endpoint, Putter};
use nodes::Nodes;

/// Connections opened at a time.
const CONNECTING_AT_A_TIME: usize = 16;

/// etcd under load: each send puts a value under a key of its own.
pub struct Etcd {
    nodes: Nodes,
    value_bytes: usize,
    /// The next number of each client; they are never used twice.
    serials: Vec<Arc<AtomicU64>>,
}

impl Etcd {
    /// For running nodes.
    pub fn new(nodes: Nodes, value_bytes: usize) -> Etcd {
        Etcd {
            nodes,
            value_bytes,
            serials: Vec::new(),
        }
    }

    /// Stops the nodes.
    pub fn stop(self) {
        self.nodes.stop();
    }
}

impl Subject for Etcd {
    type Link = Putter;

    fn name(&self) -> &'static str {
        "etcd"
    }

    fn servers(&self) -> &[Server] {
        self.nodes.servers()
    }

    fn sync_counters(&self) -> &'static [&'static str] {
        &[
            "etcd_disk_wal_fsync_duration_seconds_count",
            "etcd_disk_backend_commit_duration_seconds_count",
        ]
    }

    async fn links(&mut self, shape: &Shape, _say: Say<'_>) -> Result<Vec<Arc<Putter>>, LoadError> {
        while self.serials.len() < shape.connections {
            self.serials.push(Arc::default());
        }
        let leader = self.nodes.leader_at().await?;
        let roads = self.nodes.roads();
        let value_bytes = self.value_bytes;
        let serials = self.serials[..shape.connections].iter().cloned();
        let deed = |at: usize, serial| {
            let node = match shape.place {
                Place::Leader => leader,
                Place::Spread => at % roads.len(),
            };
            let access: Endpoint = roads[node].clone();
            async move {
                Putter::open(&access, at, serial, value_bytes)
                    .await
                    .map(Arc::new)
            }
        };
        buffered(serials, CONNECTING_AT_A_TIME, deed, |_| {}).await
    }

    fn absorb(&mut self, _worked: Vec<Worked>) {
        // etcd's word is taken for it; only our own is put to the proof.
    }
}
