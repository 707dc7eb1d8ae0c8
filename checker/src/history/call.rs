//! What a client asks.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One request. Names are as typed, keys and bodies as sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(
    missing_docs,
    reason = "the fields are those of the line protocol; `linear: false` is `consistency: local`"
)]
pub enum Call {
    /// Makes an account.
    Register {
        user: String,
        password: String,
        key: String,
    },
    /// Begins a session.
    Login { user: String, password: String },
    /// Takes a session up again.
    Resume { token: String, linear: bool },
    /// Ends the session.
    Logout,
    /// Changes the password; ends the user's other sessions.
    Password {
        old: String,
        new: String,
        key: String,
    },
    /// Deletes the account.
    Delete { password: String, key: String },
    /// Sends a message. Bodies that differ from each other let the checker say which message is which.
    Send {
        to: String,
        body: String,
        key: String,
    },
    /// Undelivered messages to the user.
    Inbox {
        after: u64,
        limit: Option<u32>,
        linear: bool,
    },
    /// Messages up to this id are delivered.
    Ack { through: u64 },
    /// Messages to or from the user.
    Sync {
        after: u64,
        limit: Option<u32>,
        linear: bool,
    },
    /// Messages between two.
    History {
        with: String,
        before: Option<u64>,
        limit: Option<u32>,
        linear: bool,
    },
    /// The directory.
    Users {
        pattern: Option<String>,
        after: Option<String>,
        limit: Option<u32>,
        linear: bool,
    },
    /// The operator releases the name of a deleted account.
    Free { user: String },
}

impl Call {
    /// The operation's name and fields on the wire; what an attempt records is then what was sent.
    /// `free` is `mbctl user free` and no operation of the line protocol.
    pub fn request(&self) -> (&'static str, Value) {
        let consistency = |linear: bool| if linear { "linear" } else { "local" };
        match self {
            Call::Register {
                user,
                password,
                key,
            } => (
                "register",
                json!({"user": user, "password": password, "key": key}),
            ),
            Call::Login { user, password } => {
                ("login", json!({"user": user, "password": password}))
            }
            Call::Resume { token, linear } => (
                "resume",
                json!({"token": token, "consistency": consistency(*linear)}),
            ),
            Call::Logout => ("logout", json!({})),
            Call::Password { old, new, key } => {
                ("password", json!({"old": old, "new": new, "key": key}))
            }
            Call::Delete { password, key } => ("delete", json!({"password": password, "key": key})),
            Call::Send { to, body, key } => ("send", json!({"to": to, "body": body, "key": key})),
            Call::Inbox {
                after,
                limit,
                linear,
            } => (
                "inbox",
                json!({"after": after, "limit": limit, "consistency": consistency(*linear)}),
            ),
            Call::Ack { through } => ("ack", json!({"through": through})),
            Call::Sync {
                after,
                limit,
                linear,
            } => (
                "sync",
                json!({"after": after, "limit": limit, "consistency": consistency(*linear)}),
            ),
            Call::History {
                with,
                before,
                limit,
                linear,
            } => (
                "history",
                json!({"with": with, "before": before, "limit": limit, "consistency": consistency(*linear)}),
            ),
            Call::Users {
                pattern,
                after,
                limit,
                linear,
            } => (
                "users",
                json!({"pattern": pattern, "after": after, "limit": limit, "consistency": consistency(*linear)}),
            ),
            Call::Free { user } => ("free", json!({"user": user})),
        }
    }

    /// The key, if this kind of request has one.
    pub fn key(&self) -> Option<&str> {
        match self {
            Call::Register { key, .. }
            | Call::Password { key, .. }
            | Call::Delete { key, .. }
            | Call::Send { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Whether it only reads.
    pub fn is_read(&self) -> bool {
        matches!(
            self,
            Call::Inbox { .. } | Call::Sync { .. } | Call::History { .. } | Call::Users { .. }
        )
    }
}
