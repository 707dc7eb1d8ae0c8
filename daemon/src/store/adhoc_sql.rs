//! SQL that an operator typed (`mbctl sql`). The connection is read-only, and an authorizer allows nothing but reading.
//! Time, rows and bytes are limited.

use data_encoding::HEXLOWER;
use messagebase_protocol::peer::SqlRows;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Result};

use super::{ReadError, Readers};

/// Bytes of text after which a result is cut.
const RESULT_BYTES_MAX: usize = 4 * 1024 * 1024;

impl Readers {
    /// Runs one statement and returns at most `max_rows` rows. Blocking, under the pool's time limit.
    ///
    /// # Errors
    /// SQLite's error for the statement; "not authorized" for one that does more than read.
    pub fn sql(&self, text: &str, max_rows: u32) -> std::result::Result<SqlRows, ReadError> {
        self.with(|conn| {
            conn.authorizer(Some(only_reading))?;
            let result = query(conn, text, max_rows as usize);
            conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
            result
        })
    }
}

fn only_reading(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => {
            Authorization::Allow
        }
        AuthAction::Function { function_name } if function_name != "load_extension" => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

fn query(conn: &Connection, text: &str, max_rows: usize) -> Result<SqlRows> {
    let mut statement = conn.prepare(text)?;
    let columns: Vec<String> = statement
        .column_names()
        .into_iter()
        .map(str::to_owned)
        .collect();
    let width = columns.len();
    let mut found = SqlRows {
        columns,
        rows: Vec::new(),
        more: false,
    };
    let mut bytes = 0;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if found.rows.len() == max_rows || bytes > RESULT_BYTES_MAX {
            found.more = true;
            break;
        }
        let cells = (0..width)
            .map(|column| row.get_ref(column).map(show))
            .collect::<Result<Vec<_>>>()?;
        bytes += cells.iter().flatten().map(String::len).sum::<usize>();
        found.rows.push(cells);
    }
    Ok(found)
}

fn show(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(value) => Some(value.to_string()),
        ValueRef::Real(value) => Some(value.to_string()),
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(blob) => Some(format!("x'{}'", HEXLOWER.encode(blob))),
    }
}
