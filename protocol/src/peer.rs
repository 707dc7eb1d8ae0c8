//! The peer protocol: what nodes send to each other and `mbctl` to a node, over mutual TLS, in [`frame`]s. A connection
//! begins with a [`PeerHello`], answered by a [`HelloReply`]; then the dialer sends [`Call`]s and reads [`Answer`]s with the
//! same ids.
//!
//! Raft's own messages are opaque bytes here: only the daemon's `raft/` knows their shape.

mod admin;
pub mod frame;

pub use admin::{
    AdminCode, AdminError, AdminErrorKind, AdminOk, AdminReply, AdminRequest, BackupPiece,
    ChangeRow, MemberRow, NodeReport, SqlRows, UserRow,
};
use serde::{Deserialize, Serialize};

/// Version of the peer protocol; both ends must agree.
pub const PEER_PROTOCOL: u32 = 1;
/// Longest frame. An append of `raft` stays far below it; a snapshot is sent in chunks.
pub const FRAME_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Longest frame before the hello is accepted.
pub const HELLO_FRAME_MAX_BYTES: usize = 4 * 1024;
/// A chunk of a snapshot or backup file.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// The name in the SAN of a node's certificate that says which node it is.
pub fn node_san(node: u16) -> String {
    format!("node-{node}.messagebase.internal")
}
/// The name in the SAN of the admin's certificate.
pub const ADMIN_SAN: &str = "admin.messagebase.internal";

/// Which party opens a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialer {
    /// A node, by its number; checked against its certificate.
    Node {
        /// The node's number.
        node: u16,
        /// Its Raft id (generation · 65536 + number); 0 while it belongs to no cluster.
        raft_id: u64,
    },
    /// An operator's `mbctl`.
    Admin,
}

/// What a connection is for: one purpose each, so that a snapshot never delays a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Purpose {
    /// Raft messages: votes, heartbeats, appends, suspicion.
    Raft,
    /// Snapshot chunks.
    Snapshot,
    /// Clients' writes and read barriers on their way to the leader; frames are handled in order.
    Forward,
    /// Presence of sessions.
    Presence,
    /// Formation and liveness probes; allowed between nodes that share no cluster yet.
    Probe,
    /// Operators' requests.
    Admin,
}

/// First frame of the dialer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHello {
    /// [`PEER_PROTOCOL`].
    pub protocol: u32,
    /// The dialer's cluster; `None` on a blank node and for an admin.
    pub cluster_id: Option<String>,
    /// Who opens the connection.
    pub dialer: Dialer,
    /// Raft id that the dialer wants to reach; 0 for any. A node refuses frames for an id that is not in its file: they were
    /// meant for a disk that was lost.
    pub to_raft_id: u64,
    /// What the connection is for.
    pub purpose: Purpose,
    /// The dialer's incarnation; `None` from an admin.
    pub incarnation: Option<Incarnation>,
}

/// One run of a node's process. Peers remember the last one that they met. They keep out an older copy of a data directory:
/// its node may have voted or acknowledged entries since the copy was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// How often the data directory was opened, including this time.
    pub starts: u64,
    /// Random; two processes with equal `starts` are told apart by it.
    pub id: u64,
    /// Index of the last log entry when the process started.
    pub last_log_at_start: u64,
}

/// Answer to the hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelloReply {
    /// The dialer may send calls.
    Welcome {
        /// The answering node's number.
        node: u16,
        /// Its cluster.
        cluster_id: Option<String>,
        /// Its Raft id, 0 when blank.
        raft_id: u64,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// The dialer runs on an older copy of its data directory and must not take part any more.
    Stale {
        /// How that is known.
        reason: String,
    },
    /// The connection closes; the reason is for the log.
    Refused {
        /// Why.
        reason: String,
    },
}

/// A request on an open connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the dialer; unique among the unanswered ones.
    pub id: u64,
    /// What is asked.
    pub body: PeerRequest,
}

/// The answer to the [`Call`] of the same id. A streamed answer comes in several of these; the final one has `last`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The call's id.
    pub id: u64,
    /// False while more answers to the same call follow.
    pub last: bool,
    /// The answer.
    pub body: PeerReply,
}

/// The body of a [`Call`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PeerRequest {
    /// Opaque to everything but the daemon's `raft/`.
    Raft(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Soft state: which users have a session on the dialing node.
    Presence {
        /// Grows with every change on that node, starting anew with its process.
        version: u64,
        /// The whole set; `None` repeats that `version` still holds.
        online: Option<Vec<u64>>,
    },
    /// Formation: asks what the node is, for a [`ProbeReply`].
    Probe,
    /// Formation: gives an identity. Only a blank node takes it, or one that took the same before.
    Form {
        /// The new cluster's id.
        cluster_id: String,
        /// The founding nodes.
        founders: Vec<u16>,
    },
    /// `member replace` and `member add`: gives a blank node an identity; it waits for the leader's log then.
    Adopt {
        /// The cluster.
        cluster_id: String,
        /// The Raft id under which it is a learner now.
        raft_id: u64,
    },
    /// From an operator.
    Admin(AdminRequest),
}

/// The body of an [`Answer`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PeerReply {
    /// To [`PeerRequest::Raft`].
    Raft(#[serde(with = "serde_bytes")] Vec<u8>),
    /// To [`PeerRequest::Presence`], [`PeerRequest::Form`] and [`PeerRequest::Adopt`].
    Done,
    /// To [`PeerRequest::Probe`].
    Probe(ProbeReply),
    /// To [`PeerRequest::Admin`].
    Admin(AdminReply),
    /// The call could not be handled; the text is for the log.
    Failed(String),
}

/// How far a node is in the formation of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReply {
    /// Its number.
    pub node: u16,
    /// `None`: blank.
    pub cluster_id: Option<String>,
    /// Its Raft id, 0 when blank.
    pub raft_id: u64,
    /// Whether its log holds anything (then the cluster has formed).
    pub has_log: bool,
    /// The nodes of its configuration file, with which it would form a cluster.
    pub configured: Vec<u16>,
}
