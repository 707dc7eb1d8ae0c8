//! What a node's file holds, read as an auditor would: another process, read only, while the node runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

/// Equal on every node with the same `applied_index`.
pub const TABLES_THAT_MUST_AGREE: [&str; 3] = ["users", "messages", "sessions"];
/// The node checkpoints or swaps tables in less.
const BUSY: Duration = Duration::from_secs(10);

/// The result of a query, rows sorted: their order on disk is no property of the data.
#[derive(Clone, PartialEq, Eq)]
pub struct Rows {
    /// Column names, in the order of the query.
    pub columns: Vec<String>,
    /// Values as text: NULL, numbers, text, blobs in hex.
    pub rows: Vec<Vec<String>>,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.rows)
    }
}

impl Rows {
    /// Runs a query on a file.
    ///
    /// # Panics
    /// With SQLite's message, when it can't be run.
    #[track_caller]
    pub fn read(file: &Path, query: &str) -> Rows {
        match Rows::try_read(file, query) {
            Ok(rows) => rows,
            Err(e) => panic!("failed to run {query:?} on {}: {e}", file.display()),
        }
    }

    fn try_read(file: &Path, query: &str) -> rusqlite::Result<Rows> {
        let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(BUSY)?;
        let mut statement = connection.prepare(query)?;
        let columns: Vec<String> = statement
            .column_names()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let width = columns.len();
        let read = |row: &rusqlite::Row<'_>| (0..width).map(|i| row.get_ref(i).map(text)).collect();
        let mut rows = statement
            .query_map([], read)?
            .collect::<rusqlite::Result<Vec<Vec<String>>>>()?;
        rows.sort();
        Ok(Rows { columns, rows })
    }

    /// Changes a file behind the node's back.
    ///
    /// # Panics
    /// With SQLite's message, when it can't be done.
    #[track_caller]
    pub fn tamper(file: &Path, statements: &str) {
        let done =
            Connection::open(file).and_then(|connection| connection.execute_batch(statements));
        done.unwrap_or_else(|e| panic!("failed to run {statements:?} on {}: {e}", file.display()));
    }

    /// Takes the write lock of a file until the result is dropped.
    ///
    /// # Panics
    /// When the lock can't be had.
    #[track_caller]
    pub fn lock(file: &Path) -> Lock {
        let locked = Connection::open(file).and_then(|connection| {
            connection.busy_timeout(BUSY)?;
            connection.execute_batch("BEGIN IMMEDIATE")?;
            Ok(Lock {
                _connection: connection,
            })
        });
        locked.unwrap_or_else(|e| panic!("failed to lock {}: {e}", file.display()))
    }

    /// The values of one column.
    #[track_caller]
    pub fn column(&self, name: &str) -> Vec<&str> {
        let at = self.columns.iter().position(|column| column == name);
        let at = at.unwrap_or_else(|| panic!("no column {name} among {:?}", self.columns));
        self.rows.iter().map(|row| row[at].as_str()).collect()
    }

    /// The single value of a query for one.
    #[track_caller]
    pub fn single(&self) -> &str {
        match self.rows.as_slice() {
            [row] if row.len() == 1 => &row[0],
            other => panic!("expected one value, not {other:?}"),
        }
    }

    /// For people: what is here and not there, and the other way round, a few rows each.
    pub fn difference(&self, other: &Rows) -> String {
        let count = |rows: &[Vec<String>]| {
            rows.iter()
                .fold(BTreeMap::<Vec<String>, usize>::new(), |mut counts, row| {
                    *counts.entry(row.clone()).or_default() += 1;
                    counts
                })
        };
        let (here, there) = (count(&self.rows), count(&other.rows));
        let only = |a: &BTreeMap<Vec<String>, usize>,
                    b: &BTreeMap<Vec<String>, usize>|
         -> Vec<Vec<String>> {
            a.iter()
                .filter(|(row, n)| b.get(*row) != Some(*n))
                .map(|(row, _)| row.clone())
                .take(3)
                .collect()
        };
        format!(
            "{} rows against {}; only here {:?}, only there {:?}",
            self.rows.len(),
            other.rows.len(),
            only(&here, &there),
            only(&there, &here)
        )
    }
}

/// A write lock on a file; dropping it rolls back and lets go.
#[derive(Debug)]
pub struct Lock {
    _connection: Connection,
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(n) => n.to_string(),
        ValueRef::Real(x) => x.to_string(),
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueRef::Blob(bytes) => bytes.iter().map(|b| format!("{b:02x}")).collect(),
    }
}
