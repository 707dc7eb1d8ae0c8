//! The read queries that `service/` needs. Each sees what its connection sees and changes nothing.
//! Names in arguments are folded (`messagebase_protocol::name::fold_name`); names in results are as registered.

use messagebase_protocol::json::{Message, MessageRecord};
use messagebase_protocol::peer::{ChangeRow, UserRow};
use rusqlite::{Connection, Result};

use crate::change::Settings;

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

/// The live account of that name.
pub fn user_by_name(_conn: &Connection, _folded: &str) -> Result<Option<Account>> {
    unimplemented!()
}

/// The live account of that id.
pub fn user_by_id(_conn: &Connection, _id: u64) -> Result<Option<Account>> {
    unimplemented!()
}

/// The session with that token, dead or alive: the caller looks at `expires_at`, `clock` and `locked`.
pub fn session_by_token_hash(_conn: &Connection, _hash: &[u8; 32]) -> Result<Option<SessionRow>> {
    unimplemented!()
}

/// The session of that id, dead or alive.
pub fn session_by_id(_conn: &Connection, _session: u64) -> Result<Option<SessionRow>> {
    unimplemented!()
}

/// Messages waiting for the user.
pub fn queued_count(_conn: &Connection, _user: u64) -> Result<u64> {
    unimplemented!()
}

/// Undelivered messages to the user with an id greater than `after`, oldest first.
pub fn inbox_page(_conn: &Connection, _user: u64, _after: u64, _limit: u32) -> Result<Page<Message>> {
    unimplemented!()
}

/// Messages to or from the user with an id greater than `after`, oldest first.
pub fn sync_page(_conn: &Connection, _user: u64, _after: u64, _limit: u32) -> Result<Page<MessageRecord>> {
    unimplemented!()
}

/// The newest `limit` messages before id `before` between the user and whoever has or had the name `with_folded`,
/// oldest first. `None`: no live account has that name and no deleted one of that name was ever talked to.
pub fn history_page(
    _conn: &Connection,
    _user: u64,
    _with_folded: &str,
    _before: Option<u64>,
    _limit: u32,
) -> Result<Option<Page<MessageRecord>>> {
    unimplemented!()
}

/// Live accounts by name whose folded name is greater than `after` and matches the glob (`*` and `?`; all else is
/// literal).
pub fn users_page(
    _conn: &Connection,
    _pattern_folded: Option<&str>,
    _after_folded: Option<&str>,
    _limit: u32,
) -> Result<Page<DirectoryRow>> {
    unimplemented!()
}

/// The first answer under a key. `kind`: `register` (scope: the folded name), `password`, `delete` (scope: the
/// user's id in decimal).
pub fn account_key(_conn: &Connection, _kind: &str, _scope: &str, _key: &str) -> Result<Option<AccountKey>> {
    unimplemented!()
}

/// Whether an account of that name was deleted under that key: the repetition of a `delete` whose session is gone.
pub fn deleted_by_key(_conn: &Connection, _folded: &str, _key: &str) -> Result<bool> {
    unimplemented!()
}

/// Accounts for the operator, by name; `online` is left false.
pub fn user_rows(_conn: &Connection, _pattern_folded: Option<&str>, _limit: u32) -> Result<Vec<UserRow>> {
    unimplemented!()
}

/// One account for the operator; `online` is left false.
pub fn user_row(_conn: &Connection, _folded: &str) -> Result<Option<UserRow>> {
    unimplemented!()
}

/// Rows of the change log from index `from` on, without secrets.
pub fn change_rows(_conn: &Connection, _from: u64, _limit: u32) -> Result<Vec<ChangeRow>> {
    unimplemented!()
}

/// Counts for `mbctl status`; cheap.
pub fn stats(_conn: &Connection) -> Result<Stats> {
    unimplemented!()
}

/// The replicated settings.
pub fn settings(_conn: &Connection) -> Result<Settings> {
    unimplemented!()
}

/// The state's clock, Unix ms.
pub fn clock(_conn: &Connection) -> Result<u64> {
    unimplemented!()
}
