//! `mbctl sql`: read-only SQL on a node's file. The node limits and refuses; this shows.

use std::time::Duration;

use messagebase_protocol::peer::{AdminOk, AdminRequest, SqlRows};

use crate::cli::SqlArgs;
use crate::cluster::{Cluster, unexpected};
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;
use crate::table::render_text;

/// Longer than the node gives a statement, so that its refusal arrives.
const SQL_DEADLINE: Duration = Duration::from_secs(30);

/// Runs the command.
///
/// # Errors
/// No node answers (exit 3), or the statement is refused (exit 1).
pub async fn run(cluster: &Cluster, arguments: SqlArgs, output: &Output) -> Result<Exit, CtlError> {
    let node = cluster.reader(arguments.node).await?;
    let rows = match cluster
        .ask(
            node,
            AdminRequest::Sql {
                text: arguments.text,
            },
            SQL_DEADLINE,
        )
        .await?
    {
        AdminOk::Rows(rows) => rows,
        other => return Err(unexpected(&other)),
    };
    output.data(&rows, text);
    if rows.more && !output.is_json() {
        output.note(
            "There are more rows than a node shows at a time; narrow it with WHERE or LIMIT.",
        );
    }
    Ok(Exit::Done)
}

fn text(rows: &SqlRows) -> String {
    let shown =
        |value: &Option<String>| value.as_deref().map_or_else(|| "NULL".to_owned(), visible);
    let lines: Vec<Vec<String>> = rows
        .rows
        .iter()
        .map(|row| row.iter().map(shown).collect())
        .collect();
    render_text(&rows.columns, &lines)
}

/// A value on one line, so that a message cannot draw over the terminal.
fn visible(value: &str) -> String {
    value
        .chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_control_characters_are_visible() {
        let rows = vec![vec![Some("a\u{1b}[2J\nb".into()), None]];
        let rows = SqlRows {
            columns: vec!["body".into(), "n".into()],
            rows,
            more: false,
        };
        assert_eq!(text(&rows), "body           n\na\\u{1b}[2J\\nb  NULL");
    }
}
