//! Installing a snapshot. It is copied into `staging_*` tables in capped transactions. One short durable transaction
//! switches. Then the old tables are emptied in capped transactions and dropped. Votes are served between any two.
//!
//! The switch renames tables without touching the views (`legacy_alter_table`). It gives the indexes their proper names
//! by editing `sqlite_schema`: creating them again takes seconds, and a later migration would not find them under other
//! names.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use rusqlite::Connection;

use super::{StateJob, Writer};
use crate::state::Counters;
use crate::store::api::fatal;
use crate::store::connect;
use crate::store::schema::{OLD, ROW_TABLES, STAGING, Table, indexes, leftovers, table_ddl};
use crate::store::{BoxedDone, SnapshotFile, StoreError, log_rows, snapshot};

/// Rows that one transaction copies or deletes.
const CHUNK_ROWS: u32 = 1_000;

/// An install in progress.
pub(super) struct Install {
    file: SnapshotFile,
    pub done: BoxedDone<()>,
    counters: Counters,
    /// Index in [`ROW_TABLES`] of the table being copied.
    table: usize,
}

/// Deletions that nobody waits for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cleanup {
    /// Delete the rows before the log's beginning.
    PurgedRows,
    /// Drop this index of an old table.
    Index(String),
    /// Empty and drop the old form of this table of [`ROW_TABLES`].
    Table(&'static str),
}

impl Writer {
    /// Makes the staging tables.
    pub(super) fn begin_install(&mut self) -> Result<(), StoreError> {
        let Some(StateJob::Install { file, done }) = self.state.pop_front() else {
            return Ok(());
        };
        // Where `abort` finds the acknowledgement from here on.
        self.unacknowledged.push(done);
        let applied = *self.shared.applied.borrow();
        if applied.is_some_and(|applied| applied.index >= file.last.index) {
            tracing::info!(?applied, snapshot = ?file.last, "the snapshot holds nothing new");
            self.acknowledge();
            return Ok(());
        }
        let counters = connect::read_only(&file.path)
            .and_then(|conn| Counters::load(&conn))
            .map_err(|e| fatal("open the snapshot", e))?;
        if counters.applied != Some(file.last) {
            return Err(fatal(
                "install the snapshot",
                "it is not what its description says",
            ));
        }
        self.make_staging(&file)
            .map_err(|e| fatal("begin the install of a snapshot", e))?;
        tracing::info!(snapshot = ?file.last, "installing a snapshot");
        if let Some(done) = self.unacknowledged.pop() {
            self.install = Some(Install {
                file,
                done,
                counters,
                table: 0,
            });
        }
        Ok(())
    }

    fn make_staging(&mut self, file: &SnapshotFile) -> rusqlite::Result<()> {
        self.db
            .conn
            .execute("ATTACH ?1 AS snap", [connect::read_only_uri(&file.path)])?;
        self.db.begin(false)?;
        let conn = &self.db.conn;
        for name in leftovers(conn)? {
            conn.execute_batch(&format!("DROP TABLE \"{name}\""))?;
        }
        for table in &ROW_TABLES {
            let staging = format!("{STAGING}{}", table.name);
            conn.execute_batch(&table_ddl(conn, "main", table.name, &staging)?)?;
            for index in indexes(conn, table.name)? {
                conn.execute_batch(&index.render(&format!("{STAGING}{}", index.name), &staging))?;
            }
        }
        self.db.commit()
    }

    /// Copies one chunk, or switches when all is copied.
    pub(super) fn install_piece(&mut self) -> Result<(), StoreError> {
        let Some(install) = &mut self.install else {
            return Ok(());
        };
        let Some(table) = ROW_TABLES.get(install.table) else {
            return self.finish_install();
        };
        let mut copy = || -> rusqlite::Result<usize> {
            self.db.begin(false)?;
            let copied = copy_chunk(&self.db.conn, table)?;
            self.db.commit()?;
            Ok(copied)
        };
        if copy().map_err(|e| fatal("install the snapshot", e))? == 0 {
            install.table += 1;
        }
        Ok(())
    }

    fn finish_install(&mut self) -> Result<(), StoreError> {
        let Some(Install {
            file,
            done,
            counters,
            ..
        }) = self.install.take()
        else {
            return Ok(());
        };
        self.unacknowledged.push(done);
        let failed = |e: rusqlite::Error| fatal("switch to the snapshot", e);
        let keep_behind = self.switch(&file, &counters).map_err(failed)?;
        self.db.conn.execute_batch("DETACH snap").map_err(failed)?;

        self.shared
            .log
            .tail
            .lock()
            .installed(file.last, keep_behind);
        self.shared.applied.send_replace(counters.applied);
        snapshot::adopt(&self.shared, &file).map_err(|e| fatal("keep the snapshot", e))?;
        self.plan_cleanup().map_err(failed)?;
        self.effects.resync();
        tracing::info!(snapshot = ?file.last, "installed a snapshot");
        self.acknowledge();
        Ok(())
    }

    /// The short durable transaction. Returns whether the log continues behind the snapshot.
    fn switch(&mut self, file: &SnapshotFile, counters: &Counters) -> rusqlite::Result<bool> {
        self.db
            .conn
            .execute_batch("PRAGMA legacy_alter_table = ON; PRAGMA writable_schema = ON")?;
        self.db.begin(true)?;
        let conn = &self.db.conn;
        for table in &ROW_TABLES {
            let name = table.name;
            conn.execute_batch(&format!(
                "ALTER TABLE {name} RENAME TO {OLD}{name}; ALTER TABLE {STAGING}{name} RENAME TO {name};"
            ))?;
        }
        for table in &ROW_TABLES {
            rename_indexes(conn, &format!("{OLD}{}", table.name), |name| {
                format!("{OLD}{name}")
            })?;
        }
        for table in &ROW_TABLES {
            rename_indexes(conn, table.name, |name| {
                name.strip_prefix(STAGING).unwrap_or(name).to_owned()
            })?;
        }
        // Makes all connections, this one included, read the schema again.
        let cookie: i64 = conn.pragma_query_value(None, "schema_version", |row| row.get(0))?;
        conn.execute_batch(&format!("PRAGMA schema_version = {}", cookie + 1))?;
        counters.save(conn)?;

        let keep_behind = log_rows::id_at(conn, file.last.index)? == Some(file.last);
        if !keep_behind {
            self.cut(file.last.index + 1)?;
        }
        self.purge(file.last)?;
        self.shared.readers.memtable().reload(&self.db.conn)?;
        self.merge = None;
        self.machine.forget();
        self.db.commit()?;
        self.db
            .conn
            .execute_batch("PRAGMA writable_schema = RESET; PRAGMA legacy_alter_table = OFF")?;
        self.db.conn.flush_prepared_statement_cache();
        Ok(keep_behind)
    }

    fn plan_cleanup(&mut self) -> rusqlite::Result<()> {
        let mut cleanup = VecDeque::new();
        for table in &ROW_TABLES {
            let old = indexes(&self.db.conn, &format!("{OLD}{}", table.name))?;
            cleanup.extend(old.into_iter().map(|index| Cleanup::Index(index.name)));
            cleanup.push_back(Cleanup::Table(table.name));
        }
        cleanup.push_back(Cleanup::PurgedRows);
        self.cleanup.retain(|work| *work != Cleanup::PurgedRows);
        self.cleanup.append(&mut cleanup);
        Ok(())
    }

    /// One capped transaction of cleaning up; false if there is nothing to do.
    pub(super) fn cleanup_piece(&mut self) -> Result<bool, StoreError> {
        let Some(work) = self.cleanup.pop_front() else {
            return Ok(false);
        };
        let unfinished = self.clean(&work).map_err(|e| fatal("clean up", e))?;
        if unfinished {
            self.cleanup.push_front(work);
        }
        Ok(true)
    }

    fn clean(&mut self, work: &Cleanup) -> rusqlite::Result<bool> {
        self.db.begin(false)?;
        let unfinished = match work {
            Cleanup::PurgedRows => self.delete_purged()?,
            Cleanup::Index(name) => {
                self.db
                    .conn
                    .execute_batch(&format!("DROP INDEX \"{name}\""))?;
                false
            }
            Cleanup::Table(name) => self.empty_table(name)?,
        };
        self.db.commit()?;
        Ok(unfinished)
    }

    fn delete_purged(&mut self) -> rusqlite::Result<bool> {
        let Some(bytes) = self
            .segments
            .delete_before(&self.db.conn, self.disk.begin)?
        else {
            self.disk.garbage = false;
            self.shared.log.purging.store(false, Ordering::Relaxed);
            return Ok(false);
        };
        self.shared.log.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Ok(true)
    }

    fn empty_table(&mut self, name: &str) -> rusqlite::Result<bool> {
        let key = ROW_TABLES
            .iter()
            .find(|table| table.name == name)
            .map_or("rowid", |table| table.key);
        let deleted = self.db.conn.execute(
            &format!("DELETE FROM {OLD}{name} WHERE ({key}) IN (SELECT {key} FROM {OLD}{name} LIMIT {CHUNK_ROWS})"),
            [],
        )?;
        if deleted == 0 {
            self.db
                .conn
                .execute_batch(&format!("DROP TABLE {OLD}{name}"))?;
        }
        Ok(deleted > 0)
    }
}

/// Copies the next rows in the order of the primary key.
fn copy_chunk(conn: &Connection, table: &Table) -> rusqlite::Result<usize> {
    let Table { name, key } = table;
    let newest_first = key
        .split(", ")
        .map(|column| format!("{column} DESC"))
        .collect::<Vec<_>>()
        .join(", ");
    let begun: bool = conn.query_row(
        &format!("SELECT EXISTS (SELECT 1 FROM main.{STAGING}{name})"),
        [],
        |row| row.get(0),
    )?;
    let after = if begun {
        format!(
            "WHERE ({key}) > (SELECT {key} FROM main.{STAGING}{name} ORDER BY {newest_first} LIMIT 1)"
        )
    } else {
        String::new()
    };
    conn.execute(
        &format!(
            "INSERT INTO main.{STAGING}{name} SELECT * FROM snap.{name} {after} ORDER BY {key} LIMIT {CHUNK_ROWS}"
        ),
        [],
    )
}

/// Renames the indexes of a table in `sqlite_schema`, because SQLite has no statement for it.
fn rename_indexes(
    conn: &Connection,
    table: &str,
    rename: impl Fn(&str) -> String,
) -> rusqlite::Result<()> {
    for index in indexes(conn, table)? {
        let name = rename(&index.name);
        conn.execute(
            "UPDATE sqlite_schema SET name = ?1, sql = ?2 WHERE type = 'index' AND name = ?3",
            (&name, index.render(&name, table), &index.name),
        )?;
    }
    Ok(())
}
