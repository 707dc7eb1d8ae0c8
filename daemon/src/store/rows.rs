//! Log entries between memory and the columns of `log`.
//!
//! `change` is JSON that a person can read: `{"blank":{}}`, `{"membership":…}` or the envelope. Secrets go to a
//! column of their own. The three forms are told apart by how they begin, which only this file writes.

use std::sync::Arc;

use rusqlite::{Connection, Result, Row};
use serde::Serialize;

use super::{LogId, LogPayload, LogRow};
use crate::change::{Change, Envelope};
use crate::state::sql::{int, uint};

const BLANK: &str = "{\"blank\":{}}";
const MEMBERSHIP: &str = "{\"membership\":";

/// Bytes that an entry takes beside its text, in memory and in the file, roughly.
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

/// The two text columns of an entry.
pub(super) struct Columns {
    pub change: String,
    pub secrets: Option<String>,
}

pub(super) fn encode(payload: &LogPayload) -> serde_json::Result<Columns> {
    Ok(match payload {
        LogPayload::Blank => Columns { change: BLANK.to_owned(), secrets: None },
        LogPayload::Membership(json) => Columns { change: format!("{MEMBERSHIP}{json}}}"), secrets: None },
        LogPayload::Change(envelope) => {
            let Envelope { v, at, actor, body, secrets } = &**envelope;
            Columns {
                change: serde_json::to_string(&Readable { v: *v, at: *at, actor: *actor, body })?,
                secrets: secrets.as_ref().map(serde_json::to_string).transpose()?,
            }
        }
    })
}

fn decode(change: &str, secrets: Option<&str>) -> serde_json::Result<LogPayload> {
    if change == BLANK {
        return Ok(LogPayload::Blank);
    }
    if let Some(json) = change.strip_prefix(MEMBERSHIP).and_then(|rest| rest.strip_suffix('}')) {
        return Ok(LogPayload::Membership(json.into()));
    }
    let mut envelope: Envelope = serde_json::from_str(change)?;
    envelope.secrets = secrets.map(serde_json::from_str).transpose()?;
    Ok(LogPayload::Change(Arc::new(envelope)))
}

/// Reads the [`COLUMNS`].
pub(super) fn read(row: &Row<'_>) -> Result<LogRow> {
    let id = LogId { index: uint(row, 0)?, term: uint(row, 1)?, leader: uint(row, 2)? };
    let secrets = row.get_ref(4)?.as_str_or_null()?;
    let payload = decode(row.get_ref(3)?.as_str()?, secrets)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, Box::new(e)))?;
    Ok(LogRow { id, payload })
}

/// Writes entries; returns their size in bytes.
pub(super) fn insert(conn: &Connection, rows: &[LogRow]) -> Result<u64> {
    let mut statement = conn
        .prepare_cached("INSERT INTO log (log_index, term, leader_id, change, secrets) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut bytes = 0;
    for row in rows {
        let columns = encode(&row.payload).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        let (index, term, leader) = (int(row.id.index), int(row.id.term), int(row.id.leader));
        statement.execute((index, term, leader, &columns.change, &columns.secrets))?;
        bytes += columns.change.len() as u64 + columns.secrets.map_or(0, |s| s.len() as u64) + ROW_OVERHEAD_BYTES;
    }
    Ok(bytes)
}

/// Bytes of the entries in `[from, to)`, as [`insert`] counts them.
pub(super) fn stored_bytes(conn: &Connection, from: u64, to: u64) -> Result<u64> {
    conn.prepare_cached(
        "SELECT coalesce(sum(octet_length(change) + coalesce(octet_length(secrets), 0) + ?3), 0)
           FROM log WHERE log_index >= ?1 AND log_index < ?2",
    )?
    .query_row((int(from), int(to), int(ROW_OVERHEAD_BYTES)), |row| uint(row, 0))
}

/// The id of the entry at `index`, if it is kept.
pub(super) fn id_at(conn: &Connection, index: u64) -> Result<Option<LogId>> {
    let mut statement = conn.prepare_cached("SELECT log_index, term, leader_id FROM log WHERE log_index = ?1")?;
    let mut rows = statement.query([int(index)])?;
    rows.next()?.map(|row| Ok(LogId { index: uint(row, 0)?, term: uint(row, 1)?, leader: uint(row, 2)? })).transpose()
}

/// Bytes that an entry takes in memory, roughly.
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
