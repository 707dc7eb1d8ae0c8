//! Replies and events, as the node writes them and the client reads them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::code::Failure;
use crate::role::NodeRole;

/// The `ok` of an operation without a result (`logout`, `password`, `delete`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// The `ok` of `hello`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Program and version, for people.
    pub server: String,
    /// Version of the line protocol.
    pub protocol: u32,
    /// The cluster's name for people.
    pub cluster: String,
    /// The cluster's identity; null on a node that belongs to none yet.
    pub cluster_id: Option<String>,
    /// This node's number.
    pub node: u16,
}

/// The `ok` of `register`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The name as registered.
    pub user: String,
}

/// The `ok` of `login`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedIn {
    /// The name as registered.
    pub user: String,
    /// Resumes the session on any node. Secret.
    pub token: String,
    /// Messages waiting in the inbox.
    pub queued: u64,
}

/// The `ok` of `resume`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// The name as registered.
    pub user: String,
    /// Messages waiting in the inbox.
    pub queued: u64,
    /// False when the session was only checked against this node's own state.
    pub linear: bool,
}

/// One line of `users`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntry {
    /// The name as registered.
    pub name: String,
    /// Whether a session of theirs is connected to any node; soft state, right within 3 s.
    pub online: bool,
}

/// The `ok` of `users`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// By name.
    pub users: Vec<DirectoryEntry>,
    /// Whether more follow after the last name.
    pub more: bool,
}

/// The `ok` of `send`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The message's id.
    pub id: u64,
    /// Replicated time of the send, Unix ms.
    pub sent_at: u64,
    /// Whether the key was used before: this repeats the first answer.
    pub duplicate: bool,
    /// Whether the recipient is connected somewhere.
    pub online: bool,
}

/// A message as `inbox` and events carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Ids only grow.
    pub id: u64,
    /// Sender's name.
    pub from: String,
    /// Recipient's name.
    pub to: String,
    /// At most 16,384 bytes of UTF-8 without NUL.
    pub body: String,
    /// Unix ms.
    pub sent_at: u64,
}

/// A message as `sync` and `history` carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRecord {
    /// Ids only grow.
    pub id: u64,
    /// Sender's name.
    pub from: String,
    /// Recipient's name.
    pub to: String,
    /// At most 16,384 bytes of UTF-8 without NUL.
    pub body: String,
    /// Unix ms.
    pub sent_at: u64,
    /// Unix ms; null while queued.
    pub delivered_at: Option<u64>,
}

/// The `ok` of `inbox`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbox {
    /// Oldest first.
    pub messages: Vec<Message>,
    /// Whether more follow after the last id.
    pub more: bool,
}

/// The `ok` of `sync` and `history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// Oldest first.
    pub messages: Vec<MessageRecord>,
    /// `sync`: more follow after the last id. `history`: more precede the first.
    pub more: bool,
}

/// The `ok` of `ack`.
pub type Ack = Empty;

/// A position in the change log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// Raft term; positions are ordered by term, then leader, then index.
    pub term: u64,
    /// Number of the node that led.
    pub leader: u16,
    /// Index in the log.
    pub index: u64,
}

/// One member in `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// The node's number.
    pub node: u16,
    /// Where clients dial it.
    pub client: String,
    /// Whether it votes.
    pub voter: bool,
}

/// Where the replication of a node stands, as it knows at once. The default is a node that belongs to no cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// What the node is in its cluster.
    pub role: NodeRole,
    /// Current Raft term.
    pub term: u64,
    /// Number of the leader this node follows; null if it knows none.
    pub leader: Option<u16>,
    /// Its last log entry; null on an empty log.
    pub last_log: Option<LogPosition>,
    /// Greatest index known to be committed; null before the first.
    pub committed: Option<u64>,
    /// Greatest applied index; null before the first.
    pub applied: Option<u64>,
    /// The replicated membership as this node knows it.
    pub members: Vec<MemberInfo>,
    /// Whether it can serve a linear read now: it knows a leader and has heard of it lately.
    pub ready: bool,
}

/// The `ok` of `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// This node's number.
    pub node: u16,
    /// The cluster's name for people.
    pub cluster: String,
    /// The cluster's identity; null on a node that belongs to none yet.
    pub cluster_id: Option<String>,
    /// Program version.
    pub version: String,
    /// Its fields are fields of the status.
    #[serde(flatten)]
    pub replica: ReplicaView,
    /// Since the process started.
    pub uptime_ms: u64,
}

/// The `ok` of `campaign`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Campaign {
    /// Number of the winner.
    pub leader: u16,
}

/// The `ok` of `ping`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Whether the node can serve a linear read now.
    pub ready: bool,
    /// Greatest applied index; null before the first.
    pub applied: Option<u64>,
}

crate::string_enum::string_enum! {
    /// Why a node closes a connection.
    pub enum ClosingReason {
        /// The client sent nothing for too long.
        Idle = "idle",
        /// The client did not read fast enough; `inbox` and `sync` have what it missed.
        Slow = "slow",
        /// The node installed a snapshot and can't tell what the session missed: `sync` has it.
        Resync = "resync",
        /// The node is stopping.
        Shutdown = "shutdown",
        /// The session was ended.
        Logout = "logout",
        /// The operator locked the account.
        Locked = "locked",
        /// The account was deleted.
        Deleted = "deleted",
    }
}

/// What a node sends without a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// To the recipient, and to the sender's other sessions.
    Message {
        /// The message.
        message: Message,
    },
    /// To the sender: messages to `by` up to `through` were delivered.
    Delivered {
        /// Greatest delivered id among the sender's messages.
        through: u64,
        /// The recipient.
        by: String,
    },
    /// The connection closes after this line.
    Closing {
        /// Why.
        reason: ClosingReason,
    },
}

/// A reply line as a client reads it; the client parses `ok` once it knows which request it answers.
#[derive(Debug, Deserialize)]
pub struct ReplyLine {
    /// Null when the node could not read the request's id.
    pub id: Option<u64>,
    /// Present on success.
    #[serde(default)]
    pub ok: Option<Box<RawValue>>,
    /// Present on refusal.
    #[serde(default)]
    pub error: Option<Failure>,
}

/// A reply line as the node builds it.
#[derive(Debug, Serialize)]
pub struct Reply<'a, T: Serialize> {
    /// The request's id, null if it could not be read.
    pub id: Option<u64>,
    /// Success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ok: Option<&'a T>,
    /// Refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a Failure>,
}

/// A line as a client reads it.
#[derive(Debug)]
pub enum Incoming {
    /// The answer to a request.
    Reply(ReplyLine),
    /// See [`Event`].
    Event(Event),
}

/// Parses one line of a node, without its newline. An event of an unknown kind is an error that the caller may skip.
pub fn parse_incoming(line: &str) -> Result<Incoming, serde_json::Error> {
    #[derive(Deserialize)]
    struct Probe<'a> {
        #[serde(borrow, default)]
        event: Option<&'a RawValue>,
    }
    let probe: Probe<'_> = serde_json::from_str(line)?;
    if probe.event.is_some() {
        serde_json::from_str(line).map(Incoming::Event)
    } else {
        serde_json::from_str(line).map(Incoming::Reply)
    }
}

/// The line of a success, including its `\n`.
pub fn encode_ok<T: Serialize>(id: u64, ok: &T) -> String {
    encode(&Reply {
        id: Some(id),
        ok: Some(ok),
        error: None,
    })
}

/// The line of a refusal, including its `\n`.
pub fn encode_failure(id: Option<u64>, failure: &Failure) -> String {
    encode(&Reply::<Empty> {
        id,
        ok: None,
        error: Some(failure),
    })
}

/// The line of an event, including its `\n`.
pub fn encode_event(event: &Event) -> String {
    encode(event)
}

fn encode<T: Serialize>(value: &T) -> String {
    #[allow(clippy::expect_used, reason = "proven")]
    // Proof: every type above consists of strings, integers, booleans and lists of these.
    let mut line = serde_json::to_string(value).expect("a reply is plain JSON");
    line.push('\n');
    line
}
