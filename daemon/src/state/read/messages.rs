//! Pages of messages. Names are those of live or deleted accounts, never NULL.

use messagebase_protocol::json::{Message, MessageRecord};
use rusqlite::{Connection, OptionalExtension, Result, Row};

use super::Page;
use crate::state::sql::{int, opt_uint, uint};

/// Columns of a message `m` with both names.
const COLUMNS: &str = "m.id,
        coalesce((SELECT name FROM users WHERE id = m.sender_id),
                 (SELECT name FROM retired_users WHERE id = m.sender_id), 'user ' || m.sender_id),
        coalesce((SELECT name FROM users WHERE id = m.recipient_id),
                 (SELECT name FROM retired_users WHERE id = m.recipient_id), 'user ' || m.recipient_id),
        m.body, m.sent_at, m.delivered_at";

/// Messages waiting for the user.
pub fn queued_count(conn: &Connection, user: u64) -> Result<u64> {
    let count = conn
        .prepare_cached("SELECT queued_messages FROM mailboxes WHERE user_id = ?1")?
        .query_row([int(user)], |row| uint(row, 0))
        .optional()?;
    Ok(count.unwrap_or(0))
}

/// The greatest id of a message to the user; 0: there is none.
pub fn newest_message(conn: &Connection, user: u64) -> Result<u64> {
    conn.prepare_cached("SELECT coalesce(max(id), 0) FROM messages WHERE recipient_id = ?1")?
        .query_row([int(user)], |row| uint(row, 0))
}

/// Undelivered messages to the user with an id greater than `after`, oldest first.
pub fn inbox_page(conn: &Connection, user: u64, after: u64, limit: u32) -> Result<Page<Message>> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM messages m
          WHERE m.recipient_id = ?1 AND m.id > ?2 AND m.delivered_at IS NULL ORDER BY m.id LIMIT ?3"
    ))?;
    let rows = statement.query_map((int(user), int(after), i64::from(limit) + 1), |row| {
        let record = record(row)?;
        Ok(Message { id: record.id, from: record.from, to: record.to, body: record.body, sent_at: record.sent_at })
    })?;
    Ok(Page::cut(rows.collect::<Result<_>>()?, limit))
}

/// Messages to or from the user with an id greater than `after`, oldest first.
pub fn sync_page(conn: &Connection, user: u64, after: u64, limit: u32) -> Result<Page<MessageRecord>> {
    // Each side by its own index; UNION keeps a message to oneself single.
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM (
           SELECT id AS wanted FROM (SELECT id FROM messages WHERE sender_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3)
           UNION
           SELECT id FROM (SELECT id FROM messages WHERE recipient_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3)
           ORDER BY 1 LIMIT ?3
         ) JOIN messages m ON m.id = wanted ORDER BY m.id"
    ))?;
    let rows = statement.query_map((int(user), int(after), i64::from(limit) + 1), record)?;
    Ok(Page::cut(rows.collect::<Result<_>>()?, limit))
}

/// The newest `limit` messages before id `before` between the user and whoever has or had the name `with_folded`,
/// oldest first. `None`: no live account has that name and no deleted one of that name was ever talked to.
pub fn history_page(
    conn: &Connection,
    user: u64,
    with_folded: &str,
    before: Option<u64>,
    limit: u32,
) -> Result<Option<Page<MessageRecord>>> {
    let others = partners(conn, user, with_folded)?;
    if others.is_empty() {
        return Ok(None);
    }
    let before = int(before.unwrap_or(u64::MAX));
    let mut one_way = conn.prepare_cached(
        "SELECT id FROM messages WHERE sender_id = ?1 AND recipient_id = ?2 AND id < ?3 ORDER BY id DESC LIMIT ?4",
    )?;
    let mut ids: Vec<u64> = Vec::new();
    for other in others {
        let mut ways = vec![(user, other)];
        if other != user {
            ways.push((other, user));
        }
        for (sender, recipient) in ways {
            let found =
                one_way.query_map((int(sender), int(recipient), before, i64::from(limit) + 1), |row| uint(row, 0))?;
            for id in found {
                ids.push(id?);
            }
        }
    }
    ids.sort_unstable_by(|a, b| b.cmp(a));
    let mut page = Page::cut(ids, limit);
    page.items.reverse();
    let mut by_id = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM messages m WHERE m.id = ?1"))?;
    let items = page.items.into_iter().map(|id| by_id.query_row([int(id)], record)).collect::<Result<_>>()?;
    Ok(Some(Page { items, more: page.more }))
}

/// The live account of that name, and the deleted ones of that name with which the user has messages.
fn partners(conn: &Connection, user: u64, folded: &str) -> Result<Vec<u64>> {
    let mut statement = conn.prepare_cached(
        "SELECT id FROM users WHERE name_folded = ?2
         UNION ALL
         SELECT id FROM retired_users r WHERE name_folded = ?2 AND (
           EXISTS (SELECT 1 FROM messages WHERE sender_id = ?1 AND recipient_id = r.id)
           OR EXISTS (SELECT 1 FROM messages WHERE sender_id = r.id AND recipient_id = ?1))",
    )?;
    let rows = statement.query_map((int(user), folded), |row| uint(row, 0))?;
    rows.collect()
}

fn record(row: &Row<'_>) -> Result<MessageRecord> {
    Ok(MessageRecord {
        id: uint(row, 0)?,
        from: row.get(1)?,
        to: row.get(2)?,
        body: row.get(3)?,
        sent_at: uint(row, 4)?,
        delivered_at: opt_uint(row, 5)?,
    })
}
