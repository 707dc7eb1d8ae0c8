//! Pages of messages. Names are those of live or deleted accounts, never NULL.

use std::collections::BTreeSet;

use messagebase_protocol::json::{Message, MessageRecord};
use rusqlite::{Connection, OptionalExtension, Result};

use super::Page;
use super::names::Names;
use crate::state::index::{Index, List, Memtable};
use crate::state::integers::{int, opt_uint, uint};

/// Messages waiting for the user.
pub fn queued_count(conn: &Connection, user: u64) -> Result<u64> {
    let count = conn
        .prepare_cached("SELECT queued_messages FROM mailboxes WHERE user_id = ?1")?
        .query_row([int(user)], |row| uint(row, 0))
        .optional()?;
    Ok(count.unwrap_or(0))
}

/// Undelivered messages to the user with an id greater than `after`, oldest first.
pub fn inbox_page(
    conn: &Connection,
    memtable: &Memtable,
    user: u64,
    after: u64,
    limit: u32,
) -> Result<Page<Message>> {
    let delivered_through = conn
        .prepare_cached("SELECT delivered_through FROM mailboxes WHERE user_id = ?1")?
        .query_row([int(user)], |row| uint(row, 0))
        .optional()?;
    // No mailbox: the account is gone, and what was queued to it.
    let Some(delivered_through) = delivered_through else {
        return Ok(Page::cut(Vec::new(), limit));
    };
    let index = Index::of(conn, memtable)?;
    let next = |after, at_most| index.list(List::to(user), after, u64::MAX, at_most);
    let records = visible(conn, after.max(delivered_through), limit as usize + 1, next)?;
    let message = |m: MessageRecord| Message {
        id: m.id,
        from: m.from,
        to: m.to,
        body: m.body,
        sent_at: m.sent_at,
    };
    Ok(Page::cut(records.into_iter().map(message).collect(), limit))
}

/// Messages to or from the user with an id greater than `after`, oldest first.
pub fn sync_page(
    conn: &Connection,
    memtable: &Memtable,
    user: u64,
    after: u64,
    limit: u32,
) -> Result<Page<MessageRecord>> {
    let index = Index::of(conn, memtable)?;
    let next = |after, at_most| {
        // A message to oneself is in both lists.
        let mut ids: BTreeSet<u64> = index
            .list(List::to(user), after, u64::MAX, at_most)?
            .into_iter()
            .collect();
        ids.extend(index.list(List::from(user), after, u64::MAX, at_most)?);
        Ok(ids.into_iter().take(at_most).collect())
    };
    Ok(Page::cut(
        visible(conn, after, limit as usize + 1, next)?,
        limit,
    ))
}

/// The first `wanted` of the messages that `next` lists, given the id before and how many. The index may name some
/// that this transaction does not see.
fn visible(
    conn: &Connection,
    mut last: u64,
    wanted: usize,
    next: impl Fn(u64, usize) -> Result<Vec<u64>>,
) -> Result<Vec<MessageRecord>> {
    let mut names = Names::of(conn);
    let mut found = Vec::new();
    while found.len() < wanted {
        let at_most = wanted - found.len();
        let ids = next(last, at_most)?;
        found.extend(by_ids(conn, &mut names, &ids)?);
        match ids.last() {
            Some(newest) if ids.len() == at_most => last = *newest,
            _ => break,
        }
    }
    Ok(found)
}

/// Those of the messages that are there.
fn by_ids(conn: &Connection, names: &mut Names<'_>, ids: &[u64]) -> Result<Vec<MessageRecord>> {
    let mut statement = conn.prepare_cached(
        "SELECT sender_id, recipient_id, body, sent_at, delivered_at FROM messages WHERE id = ?1",
    )?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let mut rows = statement.query([int(*id)])?;
        if let Some(row) = rows.next()? {
            found.push(MessageRecord {
                id: *id,
                from: names.name(uint(row, 0)?)?,
                to: names.name(uint(row, 1)?)?,
                body: row.get(2)?,
                sent_at: uint(row, 3)?,
                delivered_at: opt_uint(row, 4)?,
            });
        }
    }
    Ok(found)
}

/// The newest `limit` messages before id `before` between the user and the account that has or had the name `with_folded`,
/// oldest first. `None`: no live account has that name and no deleted one of that name was ever talked to.
pub fn history_page(
    conn: &Connection,
    memtable: &Memtable,
    user: u64,
    with_folded: &str,
    before: Option<u64>,
    limit: u32,
) -> Result<Option<Page<MessageRecord>>> {
    let index = Index::of(conn, memtable)?;
    let others = partners(conn, &index, user, with_folded)?;
    if others.is_empty() {
        return Ok(None);
    }
    let wanted = limit as usize + 1;
    let mut before = before.unwrap_or(u64::MAX);
    let mut names = Names::of(conn);
    // Newest first.
    let mut found = Vec::new();
    while found.len() < wanted {
        let at_most = wanted - found.len();
        let mut ids = BTreeSet::new();
        for other in &others {
            ids.extend(index.between(user, *other, before, at_most)?);
        }
        let ids: Vec<u64> = ids.into_iter().rev().take(at_most).collect();
        found.extend(by_ids(conn, &mut names, &ids)?);
        match ids.last() {
            Some(oldest) if ids.len() == at_most => before = *oldest,
            _ => break,
        }
    }
    let mut page = Page::cut(found, limit);
    page.items.reverse();
    Ok(Some(page))
}

/// The live account of that name, and the deleted ones of that name with which the user has messages.
fn partners(conn: &Connection, index: &Index<'_>, user: u64, folded: &str) -> Result<Vec<u64>> {
    let ids = |sql: &str| -> Result<Vec<u64>> {
        conn.prepare_cached(sql)?
            .query_map([folded], |row| uint(row, 0))?
            .collect()
    };
    let mut partners = ids("SELECT id FROM users WHERE name_folded = ?1")?;
    for id in ids("SELECT id FROM retired_users WHERE name_folded = ?1")? {
        if talked(conn, index, user, id)? {
            partners.push(id);
        }
    }
    Ok(partners)
}

/// Whether there is a message between the two: the index may name some that are gone, on one node longer than on another.
fn talked(conn: &Connection, index: &Index<'_>, user: u64, other: u64) -> Result<bool> {
    const AT_A_TIME: usize = 16;
    let mut is_there = conn.prepare_cached("SELECT 1 FROM messages WHERE id = ?1")?;
    let mut before = u64::MAX;
    loop {
        let ids = index.between(user, other, before, AT_A_TIME)?;
        for id in &ids {
            if is_there.exists([int(*id)])? {
                return Ok(true);
            }
        }
        match ids.last() {
            Some(oldest) if ids.len() == AT_A_TIME => before = *oldest,
            _ => return Ok(false),
        }
    }
}
