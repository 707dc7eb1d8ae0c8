//! What `mbctl` asks of a node, and the answers.

use serde::{Deserialize, Serialize};

use crate::json::LogPosition;
use crate::role::NodeRole;

/// A request of an operator.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminRequest {
    /// One row of `mbctl status`. Answered from local state, at once.
    Report,
    /// Ends the process at once, as by SIGKILL. Not answered: the connection breaks.
    Kill,
    /// Graceful stop. Answered when it begins; the connection breaks when it is done.
    Stop,
    /// Transfers leadership to this node. Only the leader does; other nodes name the leader.
    Transfer {
        /// Number of the new leader.
        to: u16,
    },
    /// The replicated membership.
    MemberList,
    /// Makes a new node a learner.
    MemberAdd {
        /// Its number.
        node: u16,
        /// Where clients dial it.
        client: String,
        /// Where nodes dial it.
        peer: String,
    },
    /// Makes a learner a voter.
    MemberPromote {
        /// Its number.
        node: u16,
    },
    /// Takes a node out.
    MemberRemove {
        /// Its number.
        node: u16,
    },
    /// Gives a node that lost its disk its next generation, and makes it a voter once it caught up.
    MemberReplace {
        /// Its number.
        node: u16,
    },
    /// Accounts by name.
    UserList {
        /// A glob with `*` and `?`; `None`: all.
        pattern: Option<String>,
    },
    /// One account.
    UserShow {
        /// Its name.
        name: String,
    },
    /// Makes an account even when registration is closed.
    UserAdd {
        /// Its name.
        name: String,
        /// Its password; hashed on the node.
        password: String,
    },
    /// Locks an account and ends its sessions.
    UserLock {
        /// Its name.
        name: String,
    },
    /// Unlocks an account.
    UserUnlock {
        /// Its name.
        name: String,
    },
    /// Sets a new password and ends the sessions.
    UserResetPassword {
        /// Its name.
        name: String,
        /// The new password; hashed on the node.
        password: String,
    },
    /// Deletes an account.
    UserDelete {
        /// Its name.
        name: String,
    },
    /// Releases a reserved name.
    UserFree {
        /// The name.
        name: String,
    },
    /// Read-only SQL on this node's file, limited in time and rows.
    Sql {
        /// One SELECT.
        text: String,
    },
    /// A page of the change log of this node.
    Changes {
        /// First index; 0: from the oldest kept.
        from: u64,
        /// Greatest number of rows.
        limit: u32,
        /// Whether to wait (at most 10 s) for a row at or after `from` when there is none yet.
        wait: bool,
    },
    /// A digest of each replicated table, of one state.
    Digest {
        /// Exactly when this index is applied; `None`: at once.
        at: Option<u64>,
    },
    /// Begins a backup of this node; one at a time.
    Backup {
        /// Not before this index is applied.
        at: Option<u64>,
    },
    /// A piece of the backup. The node drops the backup with its last piece, or when none is asked for in 30 s.
    BackupPiece {
        /// From the answer to `Backup`.
        id: u64,
        /// Where the piece begins.
        offset: u64,
    },
}

impl std::fmt::Debug for AdminRequest {
    /// The kind alone: some hold passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AdminRequest::Report => "Report",
            AdminRequest::Kill => "Kill",
            AdminRequest::Stop => "Stop",
            AdminRequest::Transfer { .. } => "Transfer",
            AdminRequest::MemberList => "MemberList",
            AdminRequest::MemberAdd { .. } => "MemberAdd",
            AdminRequest::MemberPromote { .. } => "MemberPromote",
            AdminRequest::MemberRemove { .. } => "MemberRemove",
            AdminRequest::MemberReplace { .. } => "MemberReplace",
            AdminRequest::UserList { .. } => "UserList",
            AdminRequest::UserShow { .. } => "UserShow",
            AdminRequest::UserAdd { .. } => "UserAdd",
            AdminRequest::UserLock { .. } => "UserLock",
            AdminRequest::UserUnlock { .. } => "UserUnlock",
            AdminRequest::UserResetPassword { .. } => "UserResetPassword",
            AdminRequest::UserDelete { .. } => "UserDelete",
            AdminRequest::UserFree { .. } => "UserFree",
            AdminRequest::Sql { .. } => "Sql",
            AdminRequest::Changes { .. } => "Changes",
            AdminRequest::Digest { .. } => "Digest",
            AdminRequest::Backup { .. } => "Backup",
            AdminRequest::BackupPiece { .. } => "BackupPiece",
        })
    }
}

/// The answer to an [`AdminRequest`].
pub type AdminReply = Result<AdminOk, AdminError>;

/// What the caller can do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminErrorKind {
    /// Ask the node named in `leader`.
    NotLeader,
    /// No majority answered; try again later.
    NoQuorum,
    /// Refused: asking again changes nothing.
    Refused,
    /// A defect.
    Internal,
}

crate::string_enum::string_enum! {
    /// Why an operator's request was refused. `mbctl --json` shows it as `code`.
    pub enum AdminCode {
        /// Another node leads, or none.
        NotLeader = "not_leader",
        /// No majority answered in time; it may still be done.
        NoQuorum = "no_quorum",
        /// This node belongs to no cluster.
        Waiting = "waiting",
        /// The node, or the learner, has not applied enough yet.
        Behind = "behind",
        /// The node has applied more than what was to be digested.
        Passed = "passed",
        /// That node is a member.
        AlreadyAMember = "already_a_member",
        /// That node is no member.
        NotAMember = "not_a_member",
        /// That node holds an identity of another cluster.
        OtherCluster = "other_cluster",
        /// That node has not lost its data.
        NotBlank = "not_blank",
        /// That node does not answer.
        Unreachable = "unreachable",
        /// No account and no reserved name.
        NoSuchUser = "no_such_user",
        /// The name belongs to somebody or is reserved.
        NameTaken = "name_taken",
        /// The name belongs to an account, so it is not reserved.
        NameInUse = "name_in_use",
        /// Not a valid user name.
        BadName = "bad_name",
        /// A password outside the length limits.
        BadPassword = "bad_password",
        /// A bounded queue is full; nothing was done.
        Busy = "busy",
        /// The SQL failed, or is no SELECT.
        Sql = "sql",
        /// Another backup of this node is in progress.
        BackupRunning = "backup_running",
        /// The node has forgotten this backup.
        NoSuchBackup = "no_such_backup",
        /// The node could not make the backup.
        BackupFailed = "backup_failed",
        /// Refused for a reason that the message alone tells.
        Refused = "refused",
        /// A defect or a broken disk; the node's log says more.
        Internal = "internal",
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct AdminError {
    /// What the caller can do next.
    pub kind: AdminErrorKind,
    /// Why, for programs.
    pub code: AdminCode,
    /// For people: what failed and why.
    pub message: String,
    /// The next command, if there is one.
    pub hint: Option<String>,
    /// With [`AdminErrorKind::NotLeader`]: who leads, if known.
    pub leader: Option<u16>,
}

impl AdminError {
    /// Adds the next command.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Successes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum AdminOk {
    /// To every request without a result.
    Done,
    /// To `Report`.
    Report(Box<NodeReport>),
    /// To `MemberList`.
    Members(Vec<MemberRow>),
    /// To `UserList` and `UserShow`.
    Users(Vec<UserRow>),
    /// To `Sql`.
    Rows(SqlRows),
    /// To `Changes`.
    Changes(Vec<ChangeRow>),
    /// To `Digest`.
    Digest {
        /// The applied index.
        applied: u64,
        /// (table, SHA-256 in hex, rows).
        tables: Vec<(String, String, u64)>,
    },
    /// To `Backup`: the pieces can be asked for.
    BackupBegun {
        /// Its number, for the pieces.
        id: u64,
    },
    /// To `BackupPiece`.
    BackupPiece(BackupPiece),
}

/// A piece of a backup.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPiece {
    /// The size of the whole file; `None` while it is being made: ask again.
    pub total: Option<u64>,
    /// The last entry that is in the backup, once it is made.
    pub applied: u64,
    /// At most [`CHUNK_BYTES`](super::CHUNK_BYTES); fewer only at the end.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for BackupPiece {
    /// Without the bytes: they hold messages.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupPiece")
            .field("total", &self.total)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

/// One row of `mbctl status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The node's number.
    pub node: u16,
    /// Its cluster.
    pub cluster_id: Option<String>,
    /// Its Raft id, 0 when blank.
    pub raft_id: u64,
    /// What it is in its cluster.
    pub role: NodeRole,
    /// What a waiting node waits for.
    pub waiting_for: Option<String>,
    /// Current term.
    pub term: u64,
    /// Leader's number.
    pub leader: Option<u16>,
    /// Last log entry.
    pub last_log: Option<LogPosition>,
    /// Committed index.
    pub committed: Option<u64>,
    /// Applied index.
    pub applied: Option<u64>,
    /// Accounts.
    pub users: u64,
    /// Undelivered messages.
    pub queued: u64,
    /// Connected, logged-in sessions on this node.
    pub sessions: u64,
    /// Size of messagebase.db and its WAL.
    pub db_bytes: u64,
    /// Since the process started.
    pub uptime_ms: u64,
    /// Program version.
    pub version: String,
    /// Whether it can serve a linear read.
    pub ready: bool,
    /// Process id, for `kill` of a hung node on the same machine.
    pub pid: u32,
    /// The replicated membership as this node knows it.
    pub members: Vec<MemberRow>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    /// Its number.
    pub node: u16,
    /// See the glossary: 1 for a founder, greater after each replacement.
    pub generation: u64,
    /// Where clients dial it.
    pub client: String,
    /// Where nodes dial it.
    pub peer: String,
    /// Whether it votes.
    pub voter: bool,
}

/// One account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRow {
    /// The name as registered.
    pub name: String,
    /// Unix ms.
    pub created_at: u64,
    /// Messages waiting for them.
    pub queued: u64,
    /// Messages they sent.
    pub sent: u64,
    /// Messages delivered to them or waiting.
    pub received: u64,
    /// Whether the account is locked.
    pub locked: bool,
    /// Whether a session is connected anywhere.
    pub online: bool,
    /// Stored sessions.
    pub sessions: u64,
}

/// A result of SQL: values as text, `None` for NULL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlRows {
    /// Column names.
    pub columns: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<Option<String>>>,
    /// Whether more rows were cut off.
    pub more: bool,
}

/// One row of the change log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRow {
    /// Index in the log.
    pub log_index: u64,
    /// Raft term.
    pub term: u64,
    /// Number of the node that led.
    pub leader: u16,
    /// JSON without secrets.
    pub change: String,
}
