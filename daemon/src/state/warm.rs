//! Rows that the next send will most likely ask for again: who acts, who receives, whose mailbox is counted. Kept from
//! one transaction to the next, because asking SQLite for them cost more than everything that a send writes.
//!
//! **Invariant:** what is held is what the open transaction would read, but for mailboxes that are `changed`, which
//! are newer and written back before COMMIT ([`Warm::write_back`]). Accounts and sessions are held only between changes
//! that do nothing but send and acknowledge; every other change begins and ends with none ([`Warm::forget_people`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Result, Row};

use super::hash::HashMap;
use super::sql::{int, uint};

/// Rows of a kind that are held; with more, all of them are given up and read again as they are needed.
const HELD_MAX: usize = 32_768;

/// A live session of an account that is not locked.
#[derive(Debug, Clone)]
pub(super) struct Holder {
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

/// See the file.
#[derive(Default)]
pub(super) struct Warm {
    sessions: HashMap<u64, Holder>,
    recipients: HashMap<Box<str>, Recipient>,
    mailboxes: HashMap<u64, Mailbox>,
    /// Whose mailbox is newer than its row. In order, so that the rows are written in the table's.
    changed: BTreeSet<u64>,
}

impl Warm {
    /// The session if it is in the table and its account is not locked; it may have expired.
    pub fn session(&mut self, tx: &Connection, session: u64) -> Result<Option<Holder>> {
        if let Some(held) = self.sessions.get(&session) {
            return Ok(Some(held.clone()));
        }
        let mut statement = tx.prepare_cached(
            "SELECT u.id, u.name, s.expires_at FROM sessions s JOIN users u ON u.id = s.user_id
              WHERE s.id = ?1 AND u.locked_at IS NULL",
        )?;
        let holder = |row: &Row<'_>| {
            Ok(Holder {
                user: uint(row, 0)?,
                name: text(row, 1)?,
                expires_at: uint(row, 2)?,
            })
        };
        let found = statement.query_row([int(session)], holder).optional()?;
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

    /// Changes a mailbox that there is. Among the last things that a change does: nothing takes it back alone.
    pub fn set_mailbox(&mut self, user: u64, mailbox: Mailbox) {
        self.mailboxes.insert(user, mailbox);
        self.changed.insert(user);
    }

    /// The mailbox's row goes.
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
        // Only here: before, some are newer than their rows. One transaction adds a few thousand at most.
        if self.mailboxes.len() > HELD_MAX {
            self.mailboxes.clear();
        }
        Ok(())
    }

    /// Accounts or sessions may change.
    pub fn forget_people(&mut self) {
        self.sessions.clear();
        self.recipients.clear();
    }

    /// The transaction's rows went back to what they were, or are others altogether.
    pub fn forget(&mut self) {
        *self = Warm::default();
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
    if held.len() >= HELD_MAX {
        held.clear();
    }
}
