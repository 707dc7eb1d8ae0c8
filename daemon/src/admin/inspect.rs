//! Looking inside: SQL, the change log, digests. All on read-only connections with a limit on time and rows.

use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::peer::{AdminError, AdminOk, AdminReply, ChangeRow, SqlRows};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::{internal, refused};
use crate::node::Shared;
use crate::store::LogId;

/// Rows of one SQL answer.
const SQL_ROWS_MAX: usize = 10_000;
/// Bytes of one SQL answer, so that it fits a frame.
const SQL_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Time for one SQL statement.
const SQL_TIME_MAX: Duration = Duration::from_secs(5);
/// Virtual-machine steps between two looks at the clock.
const SQL_STEPS_A_LOOK: i32 = 1_000;
/// Rows of one page of the change log.
const CHANGES_MAX: u32 = 1_000;
/// How long `changes --follow` waits for a change before it is told to ask again.
const CHANGES_WAIT: Duration = Duration::from_secs(10);
/// How long a digest waits for its index to be applied.
const DIGEST_WAIT: Duration = Duration::from_secs(10);

/// One SELECT on this node's file.
pub async fn sql(shared: &Arc<Shared>, text: String) -> AdminReply {
    let file = shared.store.snapshot_dir().with_file_name("messagebase.db");
    let ran = tokio::task::spawn_blocking(move || select(&file, &text)).await.map_err(internal)?;
    ran.map(AdminOk::Rows).map_err(|e| AdminError {
        hint: Some("one SELECT; the tables are described in docs/OPERATING.md".into()),
        ..refused("sql", e.to_string())
    })
}

fn select(file: &std::path::Path, text: &str) -> rusqlite::Result<SqlRows> {
    // A connection of its own: the authorizer and the limits must not stay on one of the pool.
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(SQL_TIME_MAX)?;
    let end = std::time::Instant::now() + SQL_TIME_MAX;
    connection.progress_handler(SQL_STEPS_A_LOOK, Some(move || std::time::Instant::now() > end))?;
    connection.authorizer(Some(authorize))?;
    let mut statement = connection.prepare(text)?;
    let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let mut found = SqlRows { columns, rows: Vec::new(), more: false };
    let mut bytes = 0;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if found.rows.len() == SQL_ROWS_MAX || bytes > SQL_BYTES_MAX {
            found.more = true;
            break;
        }
        let values =
            (0..found.columns.len()).map(|i| row.get_ref(i).map(as_text)).collect::<rusqlite::Result<Vec<_>>>()?;
        bytes += values.iter().flatten().map(String::len).sum::<usize>();
        found.rows.push(values);
    }
    Ok(found)
}

/// Only reading. The file is opened read-only as well; this keeps ATTACH and PRAGMA away, which could reach others.
fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Function { function_name } if function_name != "load_extension" => Authorization::Allow,
        _ => Authorization::Deny,
    }
}

fn as_text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Some(bytes.iter().map(|b| format!("{b:02x}")).collect()),
    }
}

/// A page of the change log, waiting for a first row if asked to.
pub async fn changes(shared: &Arc<Shared>, from: u64, limit: u32, wait: bool) -> AdminReply {
    let limit = limit.clamp(1, CHANGES_MAX);
    let end = Instant::now() + CHANGES_WAIT;
    let mut applied = shared.store.applied();
    loop {
        applied.mark_unchanged();
        let page =
            shared.store.readers().run(move |conn| page_of_changes(conn, from, limit)).await.map_err(internal)?;
        if !page.is_empty() || !wait {
            return Ok(AdminOk::Changes(page));
        }
        let more = tokio::time::timeout_at(end, applied.changed()).await;
        if !matches!(more, Ok(Ok(()))) {
            return Ok(AdminOk::Changes(Vec::new()));
        }
    }
}

fn page_of_changes(conn: &Connection, from: u64, limit: u32) -> rusqlite::Result<Vec<ChangeRow>> {
    let mut statement = conn.prepare_cached(
        "SELECT log_index, term, leader, change FROM change_log WHERE log_index >= ?1 ORDER BY log_index LIMIT ?2",
    )?;
    let rows = statement.query_map((i64::try_from(from).unwrap_or(i64::MAX), limit), |row| {
        Ok(ChangeRow {
            log_index: row.get::<_, i64>(0)?.unsigned_abs(),
            term: row.get::<_, i64>(1)?.unsigned_abs(),
            leader: row.get(2)?,
            change: row.get(3)?,
        })
    })?;
    rows.collect()
}

async fn reach(applied: &mut watch::Receiver<Option<LogId>>, index: u64) {
    // An error means that the store is closing; the digest that follows says so.
    let _ = applied.wait_for(|id: &Option<LogId>| id.is_some_and(|id| id.index >= index)).await.map(drop);
}

/// Digests of the replicated tables once `at` is applied; refused when the node is past it already.
pub async fn digest(shared: &Arc<Shared>, at: Option<u64>) -> AdminReply {
    if let Some(at) = at {
        let mut applied = shared.store.applied();
        let reached = timeout(DIGEST_WAIT, reach(&mut applied, at)).await;
        if reached.is_err() {
            return Err(refused("behind", format!("node {} has not applied index {at} in time", shared.node)));
        }
    }
    let taken = shared.store.readers().run(|conn| {
        let read = conn.unchecked_transaction()?;
        let applied: Option<i64> = read.query_row("SELECT applied_index FROM node_state", [], |row| row.get(0))?;
        let tables = crate::store::digest(&read)?;
        Ok((applied.unwrap_or(0).unsigned_abs(), tables))
    });
    let (applied, tables) = taken.await.map_err(internal)?;
    if let Some(at) = at.filter(|at| applied > *at) {
        return Err(refused("passed", format!("node {} is at index {applied} already, past {at}", shared.node)));
    }
    let tables = tables.into_iter().map(|table| (table.table, table.sha256, table.rows)).collect();
    Ok(AdminOk::Digest { applied, tables })
}
