//! The schema: embedded migrations, and which tables belong to the replicated state.

use rusqlite::{Connection, Result};
use rusqlite_migration::{M, Migrations};

/// The numbered files of `migrations/`, in order. Add-only.
const MIGRATIONS: [&str; 1] = [include_str!("../../../migrations/0001_first.sql")];

/// The `user_version` that this program reads and writes.
pub(super) const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// The migrations, ready to run.
pub(super) fn migrations() -> Migrations<'static> {
    Migrations::new(MIGRATIONS.into_iter().map(M::up).collect())
}

/// One replicated table.
pub(super) struct Table {
    pub name: &'static str,
    /// Columns of its primary key, as SQL.
    pub key: &'static str,
}

/// The row of counters. An install replaces its contents, not the table.
pub(super) const STATE_TABLE: Table = Table {
    name: "replicated_state",
    key: "one",
};

/// The tables that a snapshot install stages and switches. The replicated ones come first.
pub(super) const ROW_TABLES: [Table; 9] = [
    Table {
        name: "users",
        key: "id",
    },
    Table {
        name: "retired_users",
        key: "id",
    },
    Table {
        name: "messages",
        key: "id",
    },
    Table {
        name: "send_keys",
        key: "key, sender_id",
    },
    Table {
        name: "account_keys",
        key: "kind, scope, key",
    },
    Table {
        name: "sessions",
        key: "id",
    },
    Table {
        name: "mailboxes",
        key: "user_id",
    },
    Table {
        name: "message_index",
        key: "one",
    },
    Table {
        name: "message_lists",
        key: "user_id, side, id",
    },
];
/// How many of them are replicated. Each node derives the others at its own pace, so they are not compared.
const REPLICATED: usize = 7;

/// The segments of the change log, in their order around the ring.
pub(super) const LOG_TABLES: [&str; 8] = [
    "log_0", "log_1", "log_2", "log_3", "log_4", "log_5", "log_6", "log_7",
];

/// All replicated tables, of which digests are made.
pub(super) fn replicated() -> impl Iterator<Item = &'static Table> {
    ROW_TABLES[..REPLICATED]
        .iter()
        .chain(std::iter::once(&STATE_TABLE))
}

/// The tables of snapshots and backups.
pub(super) fn in_snapshots() -> impl Iterator<Item = &'static Table> {
    ROW_TABLES.iter().chain(std::iter::once(&STATE_TABLE))
}

/// The table that makes a file a backup.
pub(super) const BACKUP_TABLE: &str = "backup";

/// Whether the file is a backup: a node must not run on it.
pub(super) fn is_backup(conn: &Connection) -> rusqlite::Result<bool> {
    conn.table_exists(Some("main"), BACKUP_TABLE)
}

/// Prefix of the tables that an install copies into.
pub(super) const STAGING: &str = "staging_";
/// Prefix of the tables that an install replaced and empties.
pub(super) const OLD: &str = "old_";

/// The parts of an index's DDL.
pub(super) struct IndexDdl {
    pub name: String,
    pub unique: bool,
    /// Columns and WHERE, from the opening parenthesis on.
    pub tail: String,
}

impl IndexDdl {
    /// The DDL for another name and table.
    pub fn render(&self, name: &str, table: &str) -> String {
        let unique = if self.unique { "UNIQUE " } else { "" };
        format!("CREATE {unique}INDEX {name} ON {table} {}", self.tail)
    }
}

/// The DDL of a table of the attached database `schema`, with another name.
pub(super) fn table_ddl(
    conn: &Connection,
    schema: &str,
    table: &str,
    renamed: &str,
) -> Result<String> {
    let sql: String = conn.query_row(
        &format!("SELECT sql FROM {schema}.sqlite_schema WHERE type = 'table' AND name = ?1"),
        [table],
        |row| row.get(0),
    )?;
    Ok(format!("CREATE TABLE {renamed} {}", from_parenthesis(&sql)))
}

/// The named indexes of a table.
pub(super) fn indexes(conn: &Connection, table: &str) -> Result<Vec<IndexDdl>> {
    let mut statement = conn.prepare(
        "SELECT name, sql FROM sqlite_schema
          WHERE type = 'index' AND tbl_name = ?1 AND sql IS NOT NULL ORDER BY name",
    )?;
    let rows = statement.query_map([table], |row| {
        let sql: String = row.get(1)?;
        let unique = sql
            .get(..20)
            .unwrap_or(&sql)
            .to_ascii_uppercase()
            .starts_with("CREATE UNIQUE");
        Ok(IndexDdl {
            name: row.get(0)?,
            unique,
            tail: from_parenthesis(&sql).to_owned(),
        })
    })?;
    rows.collect()
}

fn from_parenthesis(sql: &str) -> &str {
    sql.find('(').map_or("", |at| &sql[at..])
}

/// The first table that is missing, if one is.
pub(super) fn first_missing(conn: &Connection) -> Result<Option<&'static str>> {
    for table in in_snapshots().map(|table| table.name).chain(LOG_TABLES) {
        if !conn.table_exists(Some("main"), table)? {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// Tables that an interrupted install left behind.
pub(super) fn leftovers(conn: &Connection) -> Result<Vec<String>> {
    let mut statement = conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let names = statement
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<Result<Vec<_>>>()?;
    Ok(names
        .into_iter()
        .filter(|name| name.starts_with(STAGING) || name.starts_with(OLD))
        .collect())
}
