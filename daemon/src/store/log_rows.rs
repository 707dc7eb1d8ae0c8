//! Conversion of log entries to and from the columns of `log`.
//!
//! `change` is readable JSON: `{"blank":{}}`, `{"membership":…}` or the envelope. Secrets have a column of their own,
//! so that operators can look at `change`. The three forms differ in how they begin; only this file writes them.

use std::sync::Arc;

use rusqlite::{Connection, Result, Row};
use serde::Serialize;

use crate::change::{Change, Envelope};
use crate::entry::{LogId, LogPayload, LogRow};
use crate::state::integers::{int, opt_uint, uint};

const BLANK: &str = "{\"blank\":{}}";
const MEMBERSHIP: &str = "{\"membership\":";

/// Bytes of an entry beside its text, in memory and in the file, roughly.
const ROW_OVERHEAD_BYTES: u64 = 96;

/// The columns that [`read`] expects, in its order.
pub(super) const COLUMNS: &str = "log_index, term, leader_id, change, secrets";

/// [`Envelope`] without its secrets.
#[derive(Serialize)]
struct Readable<'a> {
    v: u16,
    at: u64,
    actor: Option<u64>,
    body: &'a Change,
}

/// Writes the column `change` into `text`, which is empty.
fn write_change(payload: &LogPayload, text: &mut Vec<u8>) -> serde_json::Result<()> {
    match payload {
        LogPayload::Blank => text.extend_from_slice(BLANK.as_bytes()),
        LogPayload::Membership(json) => {
            for part in [MEMBERSHIP, json, "}"] {
                text.extend_from_slice(part.as_bytes());
            }
        }
        LogPayload::Change(envelope) => {
            let Envelope {
                v,
                at,
                actor,
                body,
                secrets: _,
            } = &**envelope;
            serde_json::to_writer(
                text,
                &Readable {
                    v: *v,
                    at: *at,
                    actor: *actor,
                    body,
                },
            )?;
        }
    }
    Ok(())
}

/// The column `secrets`.
fn secrets_of(payload: &LogPayload) -> serde_json::Result<Option<String>> {
    match payload {
        LogPayload::Change(envelope) => envelope
            .secrets
            .as_ref()
            .map(serde_json::to_string)
            .transpose(),
        LogPayload::Blank | LogPayload::Membership(_) => Ok(None),
    }
}

fn decode(change: &str, secrets: Option<&str>) -> serde_json::Result<LogPayload> {
    if change == BLANK {
        return Ok(LogPayload::Blank);
    }
    if let Some(json) = change
        .strip_prefix(MEMBERSHIP)
        .and_then(|rest| rest.strip_suffix('}'))
    {
        return Ok(LogPayload::Membership(json.into()));
    }
    let mut envelope: Envelope = serde_json::from_str(change)?;
    envelope.secrets = secrets.map(serde_json::from_str).transpose()?;
    Ok(LogPayload::Change(Arc::new(envelope)))
}

/// Reads the [`COLUMNS`].
pub(super) fn read(row: &Row<'_>) -> Result<LogRow> {
    let id = LogId {
        index: uint(row, 0)?,
        term: uint(row, 1)?,
        leader: uint(row, 2)?,
    };
    let secrets = row.get_ref(4)?.as_str_or_null()?;
    let payload = decode(row.get_ref(3)?.as_str()?, secrets).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, Box::new(e))
    })?;
    Ok(LogRow { id, payload })
}

/// Writes entries to one of the log's tables; returns their size in bytes.
pub(super) fn insert(conn: &Connection, table: &str, rows: &[LogRow]) -> Result<u64> {
    let mut statement = conn.prepare_cached(&format!(
        "INSERT INTO {table} ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5)"
    ))?;
    let unwritable = |e: serde_json::Error| rusqlite::Error::ToSqlConversionFailure(Box::new(e));
    let mut bytes = 0;
    // One buffer for all rows, so that it grows once.
    let mut change = Vec::new();
    for row in rows {
        change.clear();
        write_change(&row.payload, &mut change).map_err(unwritable)?;
        let secrets = secrets_of(&row.payload).map_err(unwritable)?;
        let (index, term, leader) = (int(row.id.index), int(row.id.term), int(row.id.leader));
        statement.execute((index, term, leader, std::str::from_utf8(&change)?, &secrets))?;
        bytes += change.len() as u64 + secrets.map_or(0, |s| s.len() as u64) + ROW_OVERHEAD_BYTES;
    }
    Ok(bytes)
}

/// The first and the last entry of one of the log's tables.
pub(super) fn ends(conn: &Connection, table: &str) -> Result<Option<(u64, u64)>> {
    let ends = format!(
        "SELECT (SELECT min(log_index) FROM {table}), (SELECT max(log_index) FROM {table})"
    );
    conn.query_row(
        &ends,
        [],
        |row| Ok(opt_uint(row, 0)?.zip(opt_uint(row, 1)?)),
    )
}

/// Bytes of a table's entries in `[from, to)`, as [`insert`] counts them.
pub(super) fn stored_bytes(conn: &Connection, table: &str, from: u64, to: u64) -> Result<u64> {
    conn.prepare_cached(&format!(
        "SELECT coalesce(sum(octet_length(change) + coalesce(octet_length(secrets), 0) + ?3), 0)
           FROM {table} WHERE log_index >= ?1 AND log_index < ?2"
    ))?
    .query_row((int(from), int(to), int(ROW_OVERHEAD_BYTES)), |row| {
        uint(row, 0)
    })
}

/// The id of the entry at `index`, if it is kept.
pub(super) fn id_at(conn: &Connection, index: u64) -> Result<Option<LogId>> {
    let mut statement =
        conn.prepare_cached("SELECT log_index, term, leader_id FROM log WHERE log_index = ?1")?;
    let mut rows = statement.query([int(index)])?;
    rows.next()?
        .map(|row| {
            Ok(LogId {
                index: uint(row, 0)?,
                term: uint(row, 1)?,
                leader: uint(row, 2)?,
            })
        })
        .transpose()
}

/// Bytes of an entry in memory, roughly.
pub(super) fn memory_bytes(row: &LogRow) -> usize {
    let text = match &row.payload {
        LogPayload::Blank => 0,
        LogPayload::Membership(json) => json.len(),
        LogPayload::Change(envelope) => match &envelope.body {
            Change::Send { to, body, key, .. } => to.len() + body.len() + key.len(),
            _ => 256,
        },
    };
    text + ROW_OVERHEAD_BYTES as usize
}
