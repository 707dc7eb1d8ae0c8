//! The read queries that `service/` needs. Each sees what its connection sees and changes nothing.
//! Names in arguments are folded (`messagebase_protocol::name::fold_name`); names in results are as registered.

mod accounts;
mod directory;
mod glob;
mod messages;
mod names;
mod node;

pub use accounts::{
    account_key, deleted_by_key, session_by_id, session_by_token_hash, user_by_id, user_by_name,
};
pub use directory::{user_row, user_rows, users_page};
pub use messages::{history_page, inbox_page, queued_count, sync_page};
pub use node::{change_rows, clock, settings, stats};

/// A page of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// At most `limit`.
    pub items: Vec<T>,
    /// Whether more follow (history: precede).
    pub more: bool,
}

/// An account, with what is needed to check a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: u64,
    /// As registered.
    pub name: String,
    /// PHC string.
    pub password_hash: String,
    /// Grows with every password.
    pub credential_version: u64,
    /// By an operator.
    pub locked: bool,
}

/// A stored session. Live while `expires_at > clock` and not `locked`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Its id.
    pub session: u64,
    /// Its user.
    pub user: u64,
    /// The user's name.
    pub name: String,
    /// Unix ms.
    pub expires_at: u64,
    /// Whether the user is locked.
    pub locked: bool,
    /// The state's clock, Unix ms.
    pub clock: u64,
}

/// One line of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryRow {
    /// The account.
    pub id: u64,
    /// As registered.
    pub name: String,
}

/// Who once answered to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountKey {
    /// The account.
    pub user: u64,
    /// As registered.
    pub name: String,
}

/// For `mbctl status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Accounts.
    pub users: u64,
    /// Undelivered messages.
    pub queued: u64,
    /// Stored sessions.
    pub sessions: u64,
}

impl std::fmt::Debug for Account {
    /// Without the hash: a debug line may reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<T> Page<T> {
    /// From at most `limit + 1` rows, of which the last only says that there are more.
    fn cut(mut items: Vec<T>, limit: u32) -> Page<T> {
        let limit = limit as usize;
        let more = items.len() > limit;
        items.truncate(limit);
        Page { items, more }
    }
}
