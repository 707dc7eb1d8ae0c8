//! Inspects the node: SQL, the change log, digests. On read-only connections only, limited in time and rows.

use std::time::Duration;

use messagebase_protocol::peer::{AdminCode, AdminOk, AdminReply};
use tokio::time::{Instant, timeout};

use super::refusal::{internal, refused};
use crate::context::NodeContext;
use crate::entry::LogId;
use crate::state::read::change_rows;
use crate::watch;

/// Rows of one SQL answer.
const SQL_ROWS_MAX: u32 = 10_000;
/// Rows of one page of the change log.
const CHANGES_MAX: u32 = 1_000;
/// How long `changes --follow` waits for a change before it is told to ask again.
const CHANGES_WAIT: Duration = Duration::from_secs(10);
/// How long a digest may take: it reads every row.
const DIGEST_TIME_MAX: Duration = Duration::from_secs(60);
/// How long a digest or a backup waits for its index to be applied.
pub(super) const REACH_WAIT: Duration = Duration::from_secs(10);

/// One SELECT on this node's file.
pub async fn sql(context: &NodeContext, text: String) -> AdminReply {
    let readers = context.store.readers().clone();
    let ran = tokio::task::spawn_blocking(move || readers.sql(&text, SQL_ROWS_MAX))
        .await
        .map_err(internal)?;
    ran.map(AdminOk::Rows).map_err(|e| {
        refused(AdminCode::Sql, e.to_string())
            .with_hint("one SELECT; the tables are described in docs/OPERATING.md")
    })
}

/// A page of the change log, waiting for a first row if asked to.
pub async fn changes(context: &NodeContext, from: u64, limit: u32, wait: bool) -> AdminReply {
    let limit = limit.clamp(1, CHANGES_MAX);
    let end = Instant::now() + CHANGES_WAIT;
    let mut applied = context.store.applied();
    loop {
        applied.mark_unchanged();
        let page = context
            .store
            .readers()
            .run(move |conn| change_rows(conn, from, limit))
            .await
            .map_err(internal)?;
        if !page.is_empty() || !wait {
            return Ok(AdminOk::Changes(page));
        }
        let more = tokio::time::timeout_at(end, applied.changed()).await;
        if !matches!(more, Ok(Ok(()))) {
            return Ok(AdminOk::Changes(Vec::new()));
        }
    }
}

/// Waits until `index` is applied.
pub(super) async fn reach(applied: &mut watch::Receiver<Option<LogId>>, index: u64) {
    // An error means that the store is closing; the read that follows reports it.
    let _ = applied
        .wait_for(|id: &Option<LogId>| id.is_some_and(|id| id.index >= index))
        .await
        .map(drop);
}

/// Digests of the replicated tables once `at` is applied; refused when the node is past it already.
pub async fn digest(context: &NodeContext, at: Option<u64>) -> AdminReply {
    if let Some(at) = at {
        let mut applied = context.store.applied();
        let reached = timeout(REACH_WAIT, reach(&mut applied, at)).await;
        if reached.is_err() {
            return Err(refused(
                AdminCode::Behind,
                format!("node {} has not applied index {at} in time", context.node),
            ));
        }
    }
    let readers = context.store.readers().clone();
    let read = move || {
        readers.with_time(DIGEST_TIME_MAX, |conn| {
            let applied: Option<i64> =
                conn.query_row("SELECT applied_index FROM node_state", [], |row| row.get(0))?;
            Ok((
                applied.unwrap_or(0).unsigned_abs(),
                crate::store::digest(conn)?,
            ))
        })
    };
    let (applied, tables) = tokio::task::spawn_blocking(read)
        .await
        .map_err(internal)?
        .map_err(internal)?;
    if let Some(at) = at.filter(|at| applied > *at) {
        return Err(refused(
            AdminCode::Passed,
            format!(
                "node {} is at index {applied} already, past {at}",
                context.node
            ),
        ));
    }
    let tables = tables
        .into_iter()
        .map(|table| (table.table, table.sha256, table.rows))
        .collect();
    Ok(AdminOk::Digest { applied, tables })
}
