//! The replicated change and its outcome: the log format. FROZEN: files and peers of every later version read these
//! bytes. New kinds are added at the end, nothing is renamed, removed or reordered (postcard counts variants and
//! fields); a change of meaning needs a new [`LOG_VERSION`]. `tests` hold golden bytes.
//!
//! Never a wire type of the line protocol and never a row: conversions live in `service/` and `state/`.
//!
//! In the file an envelope is JSON that a person can read (`change_log.change`); secrets (password hashes, token
//! hashes) are kept apart in [`Secrets`], in a column of their own, so that no reading of the change log shows them.

use serde::{Deserialize, Serialize};

/// The version this program proposes. The leader proposes one only when all members report it; an unknown one stops
/// the node, it is never skipped.
pub const LOG_VERSION: u16 = 1;

/// What is agreed on, one log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`LOG_VERSION`] of the proposer.
    pub v: u16,
    /// The leader's stamp, Unix ms. The state keeps `clock = max(at, clock + 1)` and uses only that.
    pub at: u64,
    /// The session that asked, if one did. Apply answers `NotLoggedIn` when it is gone, expired or its user locked.
    pub actor: Option<u64>,
    /// What is to change.
    pub body: Change,
    /// Never part of the JSON column.
    #[serde(default)]
    pub secrets: Option<Secrets>,
}

/// What must not be read in the change log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Secrets {
    /// PHC string (`$argon2id$…`) of the new password.
    pub password_hash: Option<String>,
    /// SHA-256 of the new session's token.
    pub token_hash: Option<[u8; 32]>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

/// The kinds of change. User ids are row ids in `users`; names travel as typed, state folds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Makes an account; `Secrets::password_hash` holds the hash.
    Register {
        /// As typed.
        name: String,
        /// Idempotency key, scoped to the name; empty for an operator's `user add`, which is not keyed.
        key: String,
        /// An operator may register while registration is closed.
        by_operator: bool,
    },
    /// Begins a session; `Secrets::token_hash` identifies it, and makes a repetition harmless.
    Login {
        /// Whose password was verified.
        user: u64,
        /// The `credential_version` whose hash was verified.
        credential_version: u64,
    },
    /// Ends the acting session. Of a dead session: no change, same answer.
    Logout {},
    /// Replaces the password; the user's other sessions end.
    Password {
        /// Whose.
        user: u64,
        /// The `credential_version` whose hash was verified against the old password.
        credential_version: u64,
        /// Idempotency key, scoped to the user.
        key: String,
    },
    /// Deletes the acting session's account.
    Delete {
        /// Whose; must be the actor's user.
        user: u64,
        /// The verified `credential_version`; `None` from the pipe dialect, which asks for no password.
        credential_version: Option<u64>,
        /// Idempotency key, scoped to the user.
        key: String,
    },
    /// Sends a message.
    Send {
        /// The sender.
        user: u64,
        /// Recipient's name as typed.
        to: String,
        /// The message.
        body: String,
        /// Idempotency key, scoped to the sender.
        key: String,
    },
    /// Messages to `user` up to `through` are delivered.
    Ack {
        /// The recipient.
        user: u64,
        /// Must be the id of a message to them.
        through: u64,
    },
    /// Ends the sessions that have expired by the state's clock. Proposed by the leader.
    ExpireSessions {},
    /// Deletes messages delivered more than `Settings::delivered_days` ago, at most this many. Proposed by the leader.
    ForgetDelivered {
        /// Greatest number of rows in one change, so that no transaction is long.
        at_most: u32,
    },
    /// Replaces the replicated settings. Proposed by a leader whose configuration says otherwise.
    Settings(Settings),
    /// Operator: locks an account and ends its sessions.
    Lock {
        /// Its name.
        name: String,
    },
    /// Operator: unlocks an account.
    Unlock {
        /// Its name.
        name: String,
    },
    /// Operator: sets a password (`Secrets::password_hash`) and ends the account's sessions.
    ResetPassword {
        /// Its name.
        name: String,
    },
    /// Operator: deletes an account.
    Remove {
        /// Its name.
        name: String,
    },
    /// Operator: releases the reserved name of a deleted account.
    FreeName {
        /// The name.
        name: String,
    },
}

/// Limits and terms that apply must see alike on every node, whatever each node's file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Whether anybody may register.
    pub registration_open: bool,
    /// Lifetime of a session, days.
    pub session_days: u32,
    /// Sessions a user may have; the oldest ends when one more begins.
    pub sessions_per_user: u32,
    /// Undelivered messages a user may have waiting.
    pub queued_messages_per_user: u32,
    /// Bytes of bodies a user may have waiting.
    pub queued_bytes_per_user: u64,
    /// Days that delivered messages are kept; 0: for ever.
    pub delivered_days: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            registration_open: true,
            session_days: 30,
            sessions_per_user: 16,
            queued_messages_per_user: 10_000,
            queued_bytes_per_user: 64 * 1024 * 1024,
            delivered_days: 0,
        }
    }
}

/// What applying a change came to; travels from the leader to the node that forwarded it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// To `Register`, also to its repetition.
    Registered {
        /// The new account.
        user: u64,
        /// The name as first registered.
        name: String,
    },
    /// To `Login`.
    LoggedIn {
        /// The session's id.
        session: u64,
        /// Its user.
        user: u64,
        /// The name as registered.
        name: String,
        /// Unix ms by the state's clock.
        expires_at: u64,
    },
    /// To `Send`, also to its repetition.
    Sent {
        /// The message.
        id: u64,
        /// Unix ms by the state's clock.
        sent_at: u64,
        /// Whether the key had been used before.
        duplicate: bool,
        /// The recipient's id; `None` when they are gone meanwhile.
        recipient: Option<u64>,
    },
    /// To everything that has nothing to say.
    Done,
    /// A user's error: nothing was changed (but the clock).
    Refused(Refusal),
    /// A constraint or logic error inside apply: rolled back, logged with an alarm on every node.
    Rejected,
}

/// Why apply refused a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// The acting session is gone, expired or its user locked.
    NotLoggedIn,
    /// The account is gone or its credentials moved since they were verified.
    BadCredentials,
    /// The account is locked.
    Locked,
    /// The name belongs to somebody or is reserved.
    NameTaken,
    /// No account of that name.
    NoSuchUser,
    /// The key was used with another recipient or body.
    KeyReused,
    /// `through` is no id of a message to this user.
    NoSuchMessage,
    /// The recipient's queue is full.
    QueueFull,
    /// Registration is closed, or it is somebody else's account.
    NotPermitted,
    /// `FreeName`: the name is in use, not reserved.
    NameInUse,
}

#[cfg(test)]
mod tests;
