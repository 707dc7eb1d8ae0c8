//! Building, checking and keeping snapshot files. A snapshot is an SQLite database with the replicated tables, the
//! index of messages and `snapshot_info`. It has no SQL indexes, because an install makes them. The writer installs it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::Connection;

use super::api::fatal;
use super::connect;
use super::files::{open_private_file, sync_dir};
use super::inner::StoreInner;
use super::schema::{SCHEMA_VERSION, in_snapshots, table_ddl};
use super::{SnapshotFile, StoreError};
use crate::entry::LogId;
use crate::state::Counters;

/// Grows when the form of the file changes.
const FORMAT: i64 = 3;

/// How long the copying waits for a lock of another connection's recovery on the live database.
const LIVE_LOCK_WAIT: Duration = Duration::from_secs(5);
/// The file while it is built. After an interruption the next start removes it.
const UNFINISHED: &str = "building.tmp";

impl SnapshotFile {
    /// Checks and describes a received file. Blocking.
    ///
    /// # Errors
    /// It is damaged, or of another cluster, schema or format.
    pub fn open_checked(path: &Path, cluster_id: &str) -> Result<SnapshotFile, StoreError> {
        let failed = |e: rusqlite::Error| fatal("read the snapshot", e);
        let refuse = |why: String| Err(fatal("take the snapshot", why));
        let conn = connect::read_only(path).map_err(failed)?;
        let check: String = conn
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(failed)?;
        if check != "ok" {
            return refuse(format!("it is damaged: {check}"));
        }
        let (theirs, schema, format): (String, i64, i64) = conn
            .query_row(
                "SELECT cluster_id, schema_version, format FROM snapshot_info",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .map_err(failed)?;
        if theirs != cluster_id {
            return refuse(format!(
                "it is of cluster {theirs}, this node belongs to {cluster_id}"
            ));
        }
        if (schema, format) != (SCHEMA_VERSION, FORMAT) {
            return refuse(format!(
                "it has schema {schema} and format {format}, this mbd knows {SCHEMA_VERSION} and {FORMAT}; \
                 run the same version on all nodes"
            ));
        }
        describe(&conn, path)
    }
}

fn describe(conn: &Connection, path: &Path) -> Result<SnapshotFile, StoreError> {
    let counters = Counters::load(conn).map_err(|e| fatal("read the snapshot", e))?;
    let last = counters
        .applied
        .ok_or_else(|| fatal("read the snapshot", "nothing is applied in it"))?;
    Ok(SnapshotFile {
        path: path.to_owned(),
        last,
        membership: counters.membership,
    })
}

fn file_name(last: LogId) -> String {
    format!("snapshot-{}-{}-{}.db", last.term, last.leader, last.index)
}

/// Builds a snapshot of the applied state, unless the current one holds all entries through this one.
pub(super) fn build(shared: &StoreInner, through: u64) -> Result<SnapshotFile, StoreError> {
    let _one_at_a_time = shared.snapshots.building.lock();
    if let Some(current) = shared.snapshots.current.lock().clone()
        && current.last.index >= through
    {
        return Ok(current);
    }
    let unfinished = shared.snapshots.dir.join(UNFINISHED);
    let copied = copy_out(shared, &unfinished).and_then(|(last, membership)| {
        if last.index < shared.snapshots.end_from.load(Ordering::Relaxed) {
            let why =
                "the change log was shortened past it meanwhile. Hint: raise change_log_bytes";
            return Err(fatal("build the snapshot in time", why));
        }
        Ok((last, membership))
    });
    let (last, membership) = copied.inspect_err(|_| {
        if let Err(error) = remove_if_there(&unfinished) {
            tracing::warn!(%error, "failed to remove an unfinished snapshot");
        }
    })?;
    let path = shared.snapshots.dir.join(file_name(last));
    publish(&unfinished, &path).map_err(|e| fatal("publish the snapshot", e))?;
    let snapshot = SnapshotFile {
        path,
        last,
        membership,
    };
    make_current(shared, snapshot.clone());
    Ok(snapshot)
}

type Contents = (LogId, Option<(LogId, std::sync::Arc<str>)>);

/// Copies the tables into a new file, inside one read transaction on the live database.
fn copy_out(shared: &StoreInner, to: &Path) -> Result<Contents, StoreError> {
    remove_if_there(to)
        .and_then(|()| open_private_file(to).map(drop))
        .map_err(|e| fatal("make the snapshot", e))?;
    let copy = || -> rusqlite::Result<Counters> {
        let conn = connect::read_write(to)?;
        conn.busy_timeout(LIVE_LOCK_WAIT)?;
        // Nobody reads the file before it is complete, synced and renamed; so no journal and no sync until then.
        conn.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
        conn.execute("ATTACH ?1 AS live", [connect::read_only_uri(&shared.file)])?;
        let tx = conn.unchecked_transaction()?;
        // The new file has no such table yet, so this reads the live one and begins the read transaction.
        let counters = Counters::load(&tx)?;
        for table in in_snapshots() {
            tx.execute_batch(&table_ddl(
                &tx,
                "live",
                table.name,
                &format!("main.{}", table.name),
            )?)?;
            tx.execute_batch(&format!(
                "INSERT INTO main.{0} SELECT * FROM live.{0}",
                table.name
            ))?;
        }
        tx.execute_batch(
            "CREATE TABLE main.snapshot_info (cluster_id TEXT NOT NULL, schema_version INTEGER NOT NULL,
                                              format INTEGER NOT NULL) STRICT",
        )?;
        tx.execute(
            "INSERT INTO snapshot_info SELECT coalesce(cluster_id, ''), ?1, ?2 FROM live.node",
            (SCHEMA_VERSION, FORMAT),
        )?;
        tx.commit()?;
        Ok(counters)
    };
    let counters = copy().map_err(|e| fatal("build the snapshot", e))?;
    let last = counters
        .applied
        .ok_or_else(|| fatal("build the snapshot", "nothing is applied yet"))?;
    Ok((last, counters.membership))
}

/// Syncs, renames and syncs the directory: even after a crash a file with this name is complete.
fn publish(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::File::open(from)?.sync_all()?;
    std::fs::rename(from, to)?;
    to.parent().map_or(Ok(()), sync_dir)
}

/// Makes an installed file the current snapshot, under its proper name. A file from outside the directory is copied.
pub(super) fn adopt(shared: &StoreInner, file: &SnapshotFile) -> io::Result<()> {
    let path = shared.snapshots.dir.join(file_name(file.last));
    if file.path != path {
        if file.path.parent() == Some(&shared.snapshots.dir) {
            publish(&file.path, &path)?;
        } else {
            std::fs::copy(&file.path, &path)?;
            open_private_file(&path)?.sync_all()?;
        }
    }
    make_current(
        shared,
        SnapshotFile {
            path,
            ..file.clone()
        },
    );
    Ok(())
}

/// Keeps the newest snapshot only: one that was built while a newer one was installed is removed at once. A task that
/// still sends an older one has it open.
fn make_current(shared: &StoreInner, snapshot: SnapshotFile) {
    let old = {
        let mut current = shared.snapshots.current.lock();
        match current.take() {
            Some(newer) if newer.last.index > snapshot.last.index => {
                *current = Some(newer);
                Some(snapshot.path)
            }
            before => {
                let path = snapshot.path.clone();
                *current = Some(snapshot);
                before
                    .map(|before| before.path)
                    .filter(|before| *before != path)
            }
        }
    };
    if let Some(Err(error)) = old.as_deref().map(remove_if_there) {
        tracing::warn!(path = ?old, %error, "failed to remove an old snapshot");
    }
}

/// Removes the current snapshot if it ends before `purged`, and makes one that is being built fail if it does.
pub(super) fn forget_before(shared: &StoreInner, purged: u64) {
    shared
        .snapshots
        .end_from
        .fetch_max(purged, Ordering::Relaxed);
    let useless = shared
        .snapshots
        .current
        .lock()
        .take_if(|current| current.last.index < purged);
    if let Some(old) = useless
        && let Err(error) = remove_if_there(&old.path)
    {
        tracing::warn!(path = ?old.path, %error, "failed to remove an old snapshot");
    }
}

/// At start: finds the newest finished snapshot of the applied state and removes everything else in the directory. No
/// member can continue from one that ends before the log begins. A crash between an install's COMMIT and the renaming
/// of its file leaves such a one. A new one is built when one is to be sent.
pub(super) fn adopt_newest(
    dir: &Path,
    applied: Option<LogId>,
    purged: Option<LogId>,
) -> io::Result<Option<SnapshotFile>> {
    let useful = |last: LogId| {
        applied.is_some_and(|applied| last.index <= applied.index)
            && purged.is_none_or(|purged| last.index >= purged.index)
    };
    let mut found: Vec<(LogId, PathBuf)> = Vec::new();
    let mut useless: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        match path.file_name().and_then(|name| parse_name(name.to_str()?)) {
            Some(last) if useful(last) => found.push((last, path)),
            _ => useless.push(path),
        }
    }
    found.sort_by_key(|(last, _)| std::cmp::Reverse(last.index));
    let mut newest = None;
    for (last, path) in found {
        let readable = connect::read_only(&path)
            .map_err(|e| fatal("open the snapshot", e))
            .and_then(|conn| describe(&conn, &path))
            .ok()
            .filter(|snapshot| newest.is_none() && snapshot.last == last);
        match readable {
            Some(snapshot) => newest = Some(snapshot),
            None => useless.push(path),
        }
    }
    for path in useless {
        remove_if_there(&path)?;
    }
    Ok(newest)
}

fn parse_name(name: &str) -> Option<LogId> {
    let mut parts = name
        .strip_prefix("snapshot-")?
        .strip_suffix(".db")?
        .splitn(3, '-')
        .map(str::parse);
    let (term, leader, index) = (
        parts.next()?.ok()?,
        parts.next()?.ok()?,
        parts.next()?.ok()?,
    );
    Some(LogId {
        term,
        leader,
        index,
    })
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
