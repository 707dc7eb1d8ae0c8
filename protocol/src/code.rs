//! The error codes of the line protocol and what each says about the outcome.

use serde::{Deserialize, Serialize};

/// Why a request was refused. The spelling on the wire is fixed (`docs/PROTOCOL.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The line or one of its fields is malformed.
    BadRequest,
    /// No operation of that name.
    UnknownOp,
    /// A line or body over its limit.
    TooLarge,
    /// The operation needs a session and the connection has none.
    NotLoggedIn,
    /// Unknown user or wrong password: deliberately the same answer. Also a dead token.
    BadCredentials,
    /// Not a valid user name.
    BadName,
    /// A password outside the length limits.
    BadPassword,
    /// The name belongs to somebody or is reserved.
    NameTaken,
    /// No account of that name.
    NoSuchUser,
    /// Right password, locked account.
    Locked,
    /// Too many failed logins or campaigns.
    RateLimited,
    /// A bounded queue is full; nothing was done.
    Busy,
    /// No majority answered in time. The outcome is unknown: ask again with the same key.
    NoQuorum,
    /// The leader itself answers this node, so no election is due.
    LeaderAlive,
    /// Forbidden by the operator, or somebody else's account.
    NotPermitted,
    /// This node's version does not know how.
    Unsupported,
    /// The node is shutting down or the connection is being closed.
    Closing,
    /// A defect in MessageBase; the node's log says more.
    Internal,
}

/// Whether a refused request may have taken effect all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// Nothing was and nothing will be written.
    NotDone,
    /// It may have been done: repeat it under the same key to find out.
    Unknown,
}

impl Code {
    /// Every code, in the order of the documentation.
    pub const ALL: [Code; 18] = [
        Code::BadRequest,
        Code::UnknownOp,
        Code::TooLarge,
        Code::NotLoggedIn,
        Code::BadCredentials,
        Code::BadName,
        Code::BadPassword,
        Code::NameTaken,
        Code::NoSuchUser,
        Code::Locked,
        Code::RateLimited,
        Code::Busy,
        Code::NoQuorum,
        Code::LeaderAlive,
        Code::NotPermitted,
        Code::Unsupported,
        Code::Closing,
        Code::Internal,
    ];

    /// The spelling on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::BadRequest => "bad_request",
            Code::UnknownOp => "unknown_op",
            Code::TooLarge => "too_large",
            Code::NotLoggedIn => "not_logged_in",
            Code::BadCredentials => "bad_credentials",
            Code::BadName => "bad_name",
            Code::BadPassword => "bad_password",
            Code::NameTaken => "name_taken",
            Code::NoSuchUser => "no_such_user",
            Code::Locked => "locked",
            Code::RateLimited => "rate_limited",
            Code::Busy => "busy",
            Code::NoQuorum => "no_quorum",
            Code::LeaderAlive => "leader_alive",
            Code::NotPermitted => "not_permitted",
            Code::Unsupported => "unsupported",
            Code::Closing => "closing",
            Code::Internal => "internal",
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal as it goes over the wire: code, a sentence for people, and what is known of the outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// What went wrong.
    pub code: Code,
    /// For people: what failed, why, and what to do.
    pub message: String,
    /// Whether it may have taken effect.
    #[serde(rename = "outcome")]
    pub certainty: Certainty,
    /// When to try again, in milliseconds, where the node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// A refusal after which nothing was and nothing will be written.
    pub fn not_done(code: Code, message: impl Into<String>) -> Self {
        Failure {
            code,
            message: message.into(),
            certainty: Certainty::NotDone,
            retry_after_ms: None,
        }
    }

    /// A refusal after which the request may have taken effect.
    pub fn unknown(code: Code, message: impl Into<String>) -> Self {
        Failure {
            code,
            message: message.into(),
            certainty: Certainty::Unknown,
            retry_after_ms: None,
        }
    }

    /// Adds when to try again.
    #[must_use]
    pub fn retry_after(mut self, after: std::time::Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        self
    }
}
