//! Rows that the next send will most likely need again: sessions, recipients and mailboxes. They are kept from one
//! transaction to the next, because reading them from SQLite cost more than all writes of a send.
//!
//! **Invariant:** the cache holds what the open transaction would read, except that `changed` mailboxes are newer than
//! their rows and written back before COMMIT ([`RowCache::write_back`]). Accounts and sessions are cached only between
//! changes that send and acknowledge; every other change begins and ends without them ([`RowCache::forget_accounts`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Result, Row};

use super::hash::HashMap;
use super::integers::{int, uint};

/// Rows of a kind that are cached. With more, all of them are dropped and read again as they are needed.
const CACHED_MAX: usize = 32_768;

/// A live session of an account that is not locked.
#[derive(Debug, Clone)]
pub(super) struct CachedSession {
    pub user: u64,
    pub name: Arc<str>,
    pub expires_at: u64,
}

/// A live account as recipient.
#[derive(Debug, Clone)]
pub(super) struct Recipient {
    pub user: u64,
    pub name: Arc<str>,
}

/// A row of `mailboxes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mailbox {
    pub queued_messages: u64,
    pub queued_bytes: u64,
    pub delivered_through: u64,
    pub sent: u64,
    pub received: u64,
}

/// The cached rows.
#[derive(Default)]
pub(super) struct RowCache {
    sessions: HashMap<u64, CachedSession>,
    recipients: HashMap<Box<str>, Recipient>,
    mailboxes: HashMap<u64, Mailbox>,
    /// Users whose mailbox is newer than its row, in the order of the table, in which they are written.
    changed: BTreeSet<u64>,
}

impl RowCache {
    /// The session if it is in the table and its account is not locked; it may have expired.
    pub fn session(&mut self, tx: &Connection, session: u64) -> Result<Option<CachedSession>> {
        if let Some(held) = self.sessions.get(&session) {
            return Ok(Some(held.clone()));
        }
        let mut statement = tx.prepare_cached(
            "SELECT u.id, u.name, s.expires_at FROM sessions s JOIN users u ON u.id = s.user_id
              WHERE s.id = ?1 AND u.locked_at IS NULL",
        )?;
        let session_row = |row: &Row<'_>| {
            Ok(CachedSession {
                user: uint(row, 0)?,
                name: text(row, 1)?,
                expires_at: uint(row, 2)?,
            })
        };
        let found = statement
            .query_row([int(session)], session_row)
            .optional()?;
        if let Some(found) = &found {
            make_room(&mut self.sessions);
            self.sessions.insert(session, found.clone());
        }
        Ok(found)
    }

    /// The live account of that folded name.
    pub fn recipient(&mut self, tx: &Connection, folded: &str) -> Result<Option<Recipient>> {
        if let Some(held) = self.recipients.get(folded) {
            return Ok(Some(held.clone()));
        }
        let mut statement =
            tx.prepare_cached("SELECT id, name FROM users WHERE name_folded = ?1")?;
        let recipient = |row: &Row<'_>| {
            Ok(Recipient {
                user: uint(row, 0)?,
                name: text(row, 1)?,
            })
        };
        let found = statement.query_row([folded], recipient).optional()?;
        if let Some(found) = &found {
            make_room(&mut self.recipients);
            self.recipients.insert(folded.into(), found.clone());
        }
        Ok(found)
    }

    /// The account's mailbox; `None`: the account is gone.
    pub fn mailbox(&mut self, tx: &Connection, user: u64) -> Result<Option<Mailbox>> {
        if let Some(held) = self.mailboxes.get(&user) {
            return Ok(Some(*held));
        }
        let mut statement = tx.prepare_cached(
            "SELECT queued_messages, queued_bytes, delivered_through, sent, received FROM mailboxes WHERE user_id = ?1",
        )?;
        let found = statement.query_row([int(user)], mailbox).optional()?;
        if let Some(found) = found {
            self.mailboxes.insert(user, found);
        }
        Ok(found)
    }

    /// Changes the mailbox of a live account. A change does this last, because nothing rolls it back alone.
    pub fn set_mailbox(&mut self, user: u64, mailbox: Mailbox) {
        self.mailboxes.insert(user, mailbox);
        self.changed.insert(user);
    }

    /// The mailbox's row is deleted.
    pub fn drop_mailbox(&mut self, user: u64) {
        self.mailboxes.remove(&user);
        self.changed.remove(&user);
    }

    /// Writes the changed mailboxes.
    pub fn write_back(&mut self, tx: &Connection) -> Result<()> {
        let mut statement = tx.prepare_cached(
            "UPDATE mailboxes SET queued_messages = ?2, queued_bytes = ?3, delivered_through = ?4, sent = ?5, received = ?6
              WHERE user_id = ?1",
        )?;
        for user in &self.changed {
            if let Some(m) = self.mailboxes.get(user) {
                statement.execute((
                    int(*user),
                    int(m.queued_messages),
                    int(m.queued_bytes),
                    int(m.delivered_through),
                    int(m.sent),
                    int(m.received),
                ))?;
            }
        }
        self.changed.clear();
        // Only here, because some were newer than their rows before. One transaction adds a few thousand at most.
        if self.mailboxes.len() > CACHED_MAX {
            self.mailboxes.clear();
        }
        Ok(())
    }

    /// Accounts or sessions may change.
    pub fn forget_accounts(&mut self) {
        self.sessions.clear();
        self.recipients.clear();
    }

    /// The transaction was rolled back, or a snapshot replaced the rows.
    pub fn forget(&mut self) {
        *self = RowCache::default();
    }
}

fn mailbox(row: &Row<'_>) -> Result<Mailbox> {
    Ok(Mailbox {
        queued_messages: uint(row, 0)?,
        queued_bytes: uint(row, 1)?,
        delivered_through: uint(row, 2)?,
        sent: uint(row, 3)?,
        received: uint(row, 4)?,
    })
}

fn text(row: &Row<'_>, column: usize) -> Result<Arc<str>> {
    Ok(row.get_ref(column)?.as_str()?.into())
}

fn make_room<K, V>(held: &mut HashMap<K, V>) {
    if held.len() >= CACHED_MAX {
        held.clear();
    }
}
