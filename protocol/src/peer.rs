//! The peer door: what nodes say to each other and `mbctl` to a node, over mutual TLS. Frames are a big-endian
//! `u32` length and that many bytes of postcard. A connection begins with a [`PeerHello`] answered by a
//! [`HelloReply`]; then the dialer sends [`Call`]s and reads [`Answer`]s with the same ids.
//!
//! Raft's own messages travel as opaque bytes: only the daemon's `raft/` knows their shape.

mod admin;
pub mod frame;

pub use admin::{
    AdminCode, AdminError, AdminErrorKind, AdminOk, AdminReply, AdminRequest, BackupPiece,
    ChangeRow, MemberRow, NodeReport, SqlRows, UserRow,
};
use serde::{Deserialize, Serialize};

/// Version of the peer door; both ends must agree.
pub const PEER_PROTOCOL: u32 = 1;
/// Longest frame. An append of `raft` stays far below it; a snapshot travels in chunks.
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

/// Who dials.
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
    /// Who dials.
    pub dialer: Dialer,
    /// Raft id that the dialer means to reach; 0 when it does not matter. A node refuses frames for an id that its
    /// file does not hold: they were meant for the disk that was lost.
    pub to_raft_id: u64,
    /// What for.
    pub purpose: Purpose,
    /// The dialer's incarnation; `None` from an admin.
    pub incarnation: Option<Incarnation>,
}

/// One run of a node's process. Peers remember the last incarnation that they met. So they recognize an older copy of a data
/// directory, whose node may have voted or acknowledged since, and keep it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// How often the data directory was opened, this time included.
    pub starts: u64,
    /// Random; two processes with equal `starts` are told apart by it.
    pub id: u64,
    /// Index of the last log entry when the process started.
    pub last_log_at_start: u64,
}

/// Answer to the hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelloReply {
    /// Go on.
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
    /// The dialer runs on an older copy of its data directory; it must not take part any more.
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

/// The answer to the [`Call`] of the same id. For a streaming admin request several come, the last with `last`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The call's id.
    pub id: u64,
    /// False while more answers to the same call follow.
    pub last: bool,
    /// The answer.
    pub body: PeerReply,
}

/// What may be asked.
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
    /// Formation: who are you?
    Probe,
    /// Formation: take this identity. Only a blank node, or one that already took the same, accepts.
    Form {
        /// The new cluster's id.
        cluster_id: String,
        /// The founding nodes.
        founders: Vec<u16>,
    },
    /// `member replace` and `member add`: a blank node takes this identity and waits for the leader's log.
    Adopt {
        /// The cluster.
        cluster_id: String,
        /// The Raft id under which it is a learner now.
        raft_id: u64,
    },
    /// From an operator.
    Admin(AdminRequest),
}

/// The answers.
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

/// How far a node is in the life of its cluster.
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
    /// The founders it would form with: the nodes of its configuration file.
    pub configured: Vec<u16>,
}
