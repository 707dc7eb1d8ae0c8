//! Accounts, sessions and account keys, one at a time.

use rusqlite::{Connection, OptionalExtension, Result, Row};

use super::{Account, AccountKey, SessionRow};
use crate::state::integers::{int, uint};

/// The live account of that name.
pub fn user_by_name(conn: &Connection, folded: &str) -> Result<Option<Account>> {
    conn.prepare_cached(
        "SELECT id, name, password_hash, credential_version, locked_at IS NOT NULL FROM users WHERE name_folded = ?1",
    )?
    .query_row([folded], account)
    .optional()
}

/// The live account of that id.
pub fn user_by_id(conn: &Connection, id: u64) -> Result<Option<Account>> {
    conn.prepare_cached(
        "SELECT id, name, password_hash, credential_version, locked_at IS NOT NULL FROM users WHERE id = ?1",
    )?
    .query_row([int(id)], account)
    .optional()
}

fn account(row: &Row<'_>) -> Result<Account> {
    Ok(Account {
        id: uint(row, 0)?,
        name: row.get(1)?,
        password_hash: row.get(2)?,
        credential_version: uint(row, 3)?,
        locked: row.get(4)?,
    })
}

/// The session with that token, dead or alive: the caller looks at `expires_at`, `clock` and `locked`.
pub fn session_by_token_hash(conn: &Connection, hash: &[u8; 32]) -> Result<Option<SessionRow>> {
    conn.prepare_cached(
        "SELECT s.id, s.user_id, u.name, s.expires_at, u.locked_at IS NOT NULL, (SELECT clock FROM replicated_state)
           FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.token_hash = ?1",
    )?
    .query_row([&hash[..]], session)
    .optional()
}

/// The session of that id, dead or alive.
pub fn session_by_id(conn: &Connection, id: u64) -> Result<Option<SessionRow>> {
    conn.prepare_cached(
        "SELECT s.id, s.user_id, u.name, s.expires_at, u.locked_at IS NOT NULL, (SELECT clock FROM replicated_state)
           FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.id = ?1",
    )?
    .query_row([int(id)], session)
    .optional()
}

fn session(row: &Row<'_>) -> Result<SessionRow> {
    Ok(SessionRow {
        session: uint(row, 0)?,
        user: uint(row, 1)?,
        name: row.get(2)?,
        expires_at: uint(row, 3)?,
        locked: row.get(4)?,
        clock: uint(row, 5)?,
    })
}

/// The first answer under a key. `kind`: `register` (scope: the folded name), `password`, `delete` (scope: the
/// user's id in decimal).
pub fn account_key(
    conn: &Connection,
    kind: &str,
    scope: &str,
    key: &str,
) -> Result<Option<AccountKey>> {
    conn.prepare_cached(
        "SELECT user_id, name FROM account_keys WHERE kind = ?1 AND scope = ?2 AND key = ?3",
    )?
    .query_row((kind, scope, key), |row| {
        Ok(AccountKey {
            user: uint(row, 0)?,
            name: row.get(1)?,
        })
    })
    .optional()
}

/// Whether an account of that name was deleted under that key: the repetition of a `delete` whose session is gone.
pub fn deleted_by_key(conn: &Connection, folded: &str, key: &str) -> Result<bool> {
    conn.prepare_cached(
        "SELECT 1 FROM retired_users r
           JOIN account_keys k ON k.kind = 'delete' AND k.scope = CAST(r.id AS TEXT) AND k.key = ?2
          WHERE r.name_folded = ?1",
    )?
    .exists((folded, key))
}
