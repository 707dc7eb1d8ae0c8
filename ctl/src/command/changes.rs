//! `mbctl changes`: the change log of a node, a line a change.

use std::time::Duration;

use messagebase_protocol::peer::{AdminOk, AdminRequest, ChangeRow};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::cli::ChangesArgs;
use crate::cluster::{Cluster, peer_client_error, unexpected};
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;

/// Rows asked for at a time.
const PAGE: u32 = 500;
/// A node waits 10 s for a new row before it answers with none.
const PAGE_DEADLINE: Duration = Duration::from_secs(20);

/// Runs the command.
///
/// # Errors
/// No node answers (exit 3), or it refuses (exit 1).
pub async fn run(
    cluster: &Cluster,
    arguments: &ChangesArgs,
    output: &Output,
) -> Result<Exit, CtlError> {
    let node = cluster.reader(arguments.node).await?;
    let mut client = cluster.connect(node).await?;
    let mut from = arguments.from;
    // Where it ends without --follow: what is appended meanwhile must not keep it going for ever.
    let end = if arguments.follow {
        None
    } else {
        cluster.survey().await.report(node).and_then(|r| r.last_log)
    };
    loop {
        let request = AdminRequest::Changes {
            from,
            limit: PAGE,
            wait: arguments.follow,
        };
        let rows = match client
            .call(request, PAGE_DEADLINE)
            .await
            .map_err(peer_client_error)??
        {
            AdminOk::Changes(rows) => rows,
            other => return Err(unexpected(&other)),
        };
        for row in &rows {
            show(row, output);
        }
        let last = rows.last().map(|row| row.log_index);
        from = last.map_or(from, |last| last + 1);
        let at_end = last.is_none_or(|last| end.is_some_and(|end| last >= end.index));
        if at_end && !arguments.follow {
            return Ok(Exit::Done);
        }
    }
}

/// A row with its change as JSON rather than as JSON in a string.
#[derive(Serialize)]
struct Line<'a> {
    log_index: u64,
    term: u64,
    leader: u16,
    change: &'a RawValue,
}

fn show(row: &ChangeRow, output: &Output) {
    let ChangeRow {
        log_index,
        term,
        leader,
        change,
    } = row;
    if !output.is_json() {
        output.line(format!("{log_index} term {term} leader {leader} {change}"));
        return;
    }
    match serde_json::from_str::<&RawValue>(change) {
        Ok(change) => {
            output.data(
                &Line {
                    log_index: *log_index,
                    term: *term,
                    leader: *leader,
                    change,
                },
                |_| String::new(),
            );
        }
        Err(_) => output.data(row, |_| String::new()),
    }
}
