//! The error codes of the line protocol, and whether a refused request may have taken effect.

use serde::{Deserialize, Serialize};

crate::string_enum::string_enum! {
    /// Why a request was refused. The spelling on the wire is fixed (`docs/PROTOCOL.md`).
    pub enum Code {
        /// The line or one of its fields is malformed.
        BadRequest = "bad_request",
        /// No operation of that name.
        UnknownOp = "unknown_op",
        /// A line or body over its limit.
        TooLarge = "too_large",
        /// The operation needs a session and the connection has none.
        NotLoggedIn = "not_logged_in",
        /// Unknown user or wrong password: deliberately the same answer. Also a dead token.
        BadCredentials = "bad_credentials",
        /// Not a valid user name.
        BadName = "bad_name",
        /// A password outside the length limits.
        BadPassword = "bad_password",
        /// The name belongs to somebody or is reserved.
        NameTaken = "name_taken",
        /// No account of that name.
        NoSuchUser = "no_such_user",
        /// Right password, locked account.
        Locked = "locked",
        /// Too many failed logins or campaigns.
        RateLimited = "rate_limited",
        /// A bounded queue is full; nothing was done.
        Busy = "busy",
        /// No majority answered in time. The outcome is unknown: ask again with the same key.
        NoQuorum = "no_quorum",
        /// The leader itself answers this node, so no election is due.
        LeaderAlive = "leader_alive",
        /// Forbidden by the operator, or somebody else's account.
        NotPermitted = "not_permitted",
        /// This node's version does not know how.
        Unsupported = "unsupported",
        /// The node is shutting down or the connection is being closed.
        Closing = "closing",
        /// A defect in MessageBase; the node's log says more.
        Internal = "internal",
    }
}

/// Whether a refused request may have taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// Nothing was written, and nothing will be.
    NotDone,
    /// It may have been done: repeat it under the same key to find out.
    Unknown,
}

/// A refusal on the wire: code, a sentence for people, and what is known of the outcome.
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
    /// A refusal after which nothing was written, and nothing will be.
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
