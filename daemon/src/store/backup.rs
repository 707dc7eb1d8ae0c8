//! Backups. A backup has the whole schema and all replicated tables but the sessions. `sqlite3` reads it like a node's
//! database; `mbd` refuses to run on it. A restore turns it into the database of a new cluster's only member.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use nix::sys::statvfs::statvfs;
use rusqlite::Connection;
use tracing::subscriber::NoSubscriber;

use super::StoreError;
use super::api::fatal;
use super::connect;
use super::files::{
    DirLock, LOCK_FILE, LockError, beside, make_private_dir, open_private_file, sync_dir,
};
use super::inner::StoreInner;
use super::schema::{BACKUP_TABLE, SCHEMA_VERSION, in_snapshots, is_backup, migrations};
use super::snapshot::remove_if_there;
use crate::entry::LogId;
use crate::state::Counters;
use crate::state::integers::{int, uint};

/// A restored cluster must not reuse the ids that the old cluster, or an earlier restore of this backup, issued after
/// the backup. It continues from the wall clock: at most this many ids are issued per millisecond, so all earlier ids
/// are smaller.
const IDS_PER_MILLISECOND: u64 = 1_000;
/// The least distance to the backup's ids, in case the clock is behind: 15,000 messages a second for two years are
/// fewer.
const ID_GAP_MIN: u64 = 1_000_000_000_000;
/// Ids are JSON numbers for clients: exact below 2^53, which is the year 2255.
const IDS_END: u64 = 1 << 53;
/// Virtual-machine instructions between two checks of whether the backup was cancelled.
const STEPS_BETWEEN_CHECKS: i32 = 10_000;
/// Bytes that a backup leaves free on the node's disk, at least.
const ROOM_LEFT_BYTES: u64 = 256 * 1024 * 1024;
/// The file that a restore writes and renames when it is complete.
const UNFINISHED: &str = "messagebase.db.restoring";
/// Files that a directory may have and still counts as empty: the lock, `mbctl up`'s log, an interrupted restore.
const IGNORED_FILES: [&str; 3] = [LOCK_FILE, "mbd.log", UNFINISHED];

/// A finished backup, as an open file without a name. Its disk space is free again once it is dropped.
pub struct Backup {
    /// The file.
    pub file: File,
    /// Its size.
    pub bytes: u64,
    /// Last entry it contains.
    pub last: LogId,
}

/// Copies the applied state into a file without a name, in one read transaction. Blocking; stops early once `cancelled`
/// returns true.
pub(super) fn build(
    shared: &StoreInner,
    mut cancelled: impl FnMut() -> bool + Send + 'static,
    now_ms: u64,
) -> Result<Backup, StoreError> {
    let number = shared.snapshots.backups.fetch_add(1, Ordering::Relaxed);
    // After a crash the next start removes it, as all files in this directory that are no snapshots.
    let path = shared.snapshots.dir.join(format!("backup-{number}.tmp"));
    let failed = |e: io::Error| fatal("make the backup's file", e);
    check_room(&shared.snapshots.dir, shared.db_bytes()).map_err(failed)?;
    remove_if_there(&path).map_err(failed)?;
    let file = open_private_file(&path).map_err(failed)?;
    let snapshots = shared.snapshots.dir.clone();
    let stop = move || cancelled() || check_room(&snapshots, 0).is_err();
    let copied = copy_out(shared, &path, stop, now_ms).map_err(|e| fatal("copy the tables", e));
    // Too little room is the cause to report, if it stopped the copying.
    let room = check_room(&shared.snapshots.dir, 0).map_err(failed);
    remove_if_there(&path).map_err(failed)?;
    room?;
    let last = copied?.ok_or_else(|| fatal("make a backup", "nothing is applied yet"))?;
    let bytes = file.metadata().map_err(failed)?.len();
    Ok(Backup { file, bytes, last })
}

/// Checks that the disk of `dir` has room for `bytes` more, and for the node: a full disk would stop it.
///
/// # Errors
/// There is too little room, or the system does not say.
pub fn check_room(dir: &Path, bytes: u64) -> io::Result<()> {
    let there = statvfs(dir)?;
    let free = there
        .blocks_available()
        .saturating_mul(there.fragment_size());
    enough(free, bytes).map_err(|why| io::Error::other(format!("in {}, {why}", dir.display())))
}

fn enough(free: u64, bytes: u64) -> Result<(), String> {
    let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
    if free >= bytes.saturating_add(ROOM_LEFT_BYTES) {
        return Ok(());
    }
    let (free, bytes, left) = (mib(free), mib(bytes), mib(ROOM_LEFT_BYTES));
    Err(format!(
        "{free} MiB are free, it may take {bytes} more, and {left} must be left to the node"
    ))
}

fn copy_out(
    shared: &StoreInner,
    to: &Path,
    cancelled: impl FnMut() -> bool + Send + 'static,
    now_ms: u64,
) -> rusqlite::Result<Option<LogId>> {
    let mut conn = connect::read_write(to)?;
    // `mbctl` syncs what it receives, and an incomplete file is never used.
    conn.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;",
    )?;
    // Not logged: in the node's log it would look as if its own file had been migrated.
    let made = tracing::subscriber::with_default(NoSubscriber::default(), || {
        migrations().to_latest(&mut conn)
    });
    made.map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
    conn.progress_handler(STEPS_BETWEEN_CHECKS, Some(cancelled))?;
    conn.execute("ATTACH ?1 AS live", [connect::read_only_uri(&shared.file)])?;
    let tx = conn.transaction()?;
    for table in in_snapshots().map(|table| table.name) {
        // The first statement that reads `live` begins the read transaction; all others read the same state.
        tx.execute_batch(&format!("DELETE FROM main.{table}"))?;
        // A restored cluster has no sessions, so that not even a token's hash leaves the node.
        if table != "sessions" {
            tx.execute_batch(&format!(
                "INSERT INTO main.{table} SELECT * FROM live.{table}"
            ))?;
        }
    }
    tx.execute_batch(
        "UPDATE main.node SET (node, cluster_id) = (SELECT node, cluster_id FROM live.node)",
    )?;
    tx.execute_batch(&format!(
        "CREATE TABLE main.{BACKUP_TABLE} (cluster_id TEXT NOT NULL, node INTEGER NOT NULL, taken_at INTEGER NOT NULL,
                                           version TEXT NOT NULL) STRICT"
    ))?;
    tx.execute(
        &format!("INSERT INTO {BACKUP_TABLE} SELECT coalesce(cluster_id, ''), node, ?1, ?2 FROM main.node"),
        (int(now_ms), env!("CARGO_PKG_VERSION")),
    )?;
    let last = Counters::load(&tx)?.applied;
    tx.commit()?;
    Ok(last)
}

/// A backup's description of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupInfo {
    /// The cluster it was taken from.
    pub cluster_id: String,
    /// The node it was taken from.
    pub node: u16,
    /// Unix ms, by that node's clock.
    pub taken_at: u64,
    /// Accounts in it.
    pub users: u64,
}

/// The identity of the restored node, and what Raft starts from.
#[derive(Debug, Clone)]
pub struct RestoredNode {
    /// Its number.
    pub node: u16,
    /// The new cluster.
    pub cluster_id: String,
    /// Its Raft id there.
    pub raft_id: u64,
    /// The vote to start from, as JSON.
    pub vote: String,
    /// The membership, as JSON: this node alone.
    pub membership: String,
    /// Unix ms.
    pub now_ms: u64,
}

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file is no backup, or is damaged, or of a newer version: path and reason.
    #[error("{0} is not a backup that this mbd can restore: {1}")]
    Unusable(String, String),
    /// The directory has a file already: directory and file.
    #[error("{0} is not empty: it has {1}; a restore begins with an empty directory")]
    NotEmpty(String, String),
    /// An `mbd` runs on the directory.
    #[error("{0} is in use by another mbd")]
    InUse(String),
    /// An I/O error: the action and the error.
    #[error("failed to {0}: {1}")]
    Failed(&'static str, String),
}

/// Makes `dir` the directory of a node with the contents of the backup `from`. `identify` gets the last entry in it.
/// Atomic: the database gets its name last. Blocking, for as long as reading and writing the file twice takes.
///
/// # Errors
/// [`RestoreError`]; then the directory still counts as empty if it did before.
pub fn restore(
    from: &Path,
    dir: &Path,
    identify: impl FnOnce(LogId) -> RestoredNode,
) -> Result<BackupInfo, RestoreError> {
    let failed = |what| move |e: io::Error| RestoreError::Failed(what, e.to_string());
    check_usable(from)?;
    make_private_dir(dir).map_err(failed("make the directory"))?;
    let _lock = DirLock::take(&dir.join(LOCK_FILE)).map_err(|e| match e {
        LockError::Held(_) => RestoreError::InUse(dir.display().to_string()),
        LockError::Io(e) => failed("lock the directory")(e),
    })?;
    check_empty(dir)?;
    let unfinished = dir.join(UNFINISHED);
    let made = copy(from, &unfinished)
        .map_err(failed("copy the backup"))
        .and_then(|()| make_only_member(&unfinished, identify).map_err(|e| unusable(from, e)))
        .and_then(|info| {
            let place = dir.join(messagebase_config::DATABASE_FILE);
            let publish = || {
                File::open(&unfinished)?.sync_all()?;
                std::fs::rename(&unfinished, place)?;
                sync_dir(dir)
            };
            publish()
                .map(|()| info)
                .map_err(failed("publish the database"))
        });
    if made.is_err() {
        // The first error is the one to report, and the next attempt overwrites the file.
        let _ = remove_if_there(&unfinished);
    }
    made
}

impl RestoreError {
    /// The error as a stable code, which `mbctl` reads.
    pub fn code(&self) -> &'static str {
        match self {
            RestoreError::Unusable(..) => "no_backup",
            RestoreError::NotEmpty(..) => "not_empty",
            RestoreError::InUse(_) => "in_use",
            RestoreError::Failed(..) => "io",
        }
    }
}

fn unusable(file: &Path, why: impl std::fmt::Display) -> RestoreError {
    RestoreError::Unusable(file.display().to_string(), why.to_string())
}

fn check_usable(file: &Path) -> Result<(), RestoreError> {
    let unusable = |why: String| unusable(file, why);
    let failed = |e: rusqlite::Error| unusable(e.to_string());
    File::open(file)
        .map_err(|e| RestoreError::Failed("open the backup", format!("{}: {e}", file.display())))?;
    for other in ["-wal", "-journal"].map(|end| beside(file, end)) {
        if other.exists() {
            return Err(unusable(format!(
                "{} says that somebody was writing to it",
                other.display()
            )));
        }
    }
    let conn = connect::read_only(file).map_err(failed)?;
    let schema: i64 = conn
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed)?;
    if !is_backup(&conn).map_err(failed)? {
        return Err(unusable("it was not made by `mbctl backup`".into()));
    }
    if schema > SCHEMA_VERSION {
        return Err(unusable(format!(
            "it has schema version {schema}, this mbd knows {SCHEMA_VERSION}"
        )));
    }
    let check: String = conn
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(failed)?;
    if check == "ok" {
        Ok(())
    } else {
        Err(unusable(format!("it is damaged: {check}")))
    }
}

fn check_empty(dir: &Path) -> Result<(), RestoreError> {
    let look = || -> io::Result<Option<String>> {
        for entry in std::fs::read_dir(dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !IGNORED_FILES.contains(&name.as_str()) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    };
    match look() {
        Ok(None) => Ok(()),
        Ok(Some(name)) => Err(RestoreError::NotEmpty(dir.display().to_string(), name)),
        Err(e) => Err(RestoreError::Failed("read the directory", e.to_string())),
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut file = open_private_file(to)?;
    file.set_len(0)?;
    io::copy(&mut File::open(from)?, &mut file).map(drop)
}

/// Makes the copy the database of a new cluster's only member, in the state of a node that just installed a snapshot.
fn make_only_member(
    file: &Path,
    identify: impl FnOnce(LogId) -> RestoredNode,
) -> Result<BackupInfo, Box<dyn std::error::Error>> {
    let mut conn = connect::read_write(file)?;
    // The journal is in memory: one on disk, left by an interrupted restore, would be rolled back into this file. The
    // file is synced when it is complete.
    conn.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;")?;
    migrations().to_latest(&mut conn)?;
    let tx = conn.transaction()?;
    let mut counters = Counters::load(&tx)?;
    let last = counters.applied.ok_or("nothing is applied in it")?;
    let info = tx.query_row(
        &format!(
            "SELECT cluster_id, node, taken_at, (SELECT count(*) FROM users) FROM {BACKUP_TABLE}"
        ),
        [],
        |row| {
            Ok(BackupInfo {
                cluster_id: row.get(0)?,
                node: row.get(1)?,
                taken_at: uint(row, 2)?,
                users: uint(row, 3)?,
            })
        },
    )?;
    let node = identify(last);
    let ids = &mut counters.scalars;
    for id in [
        &mut ids.next_user_id,
        &mut ids.next_message_id,
        &mut ids.next_session_id,
    ] {
        *id = (*id + ID_GAP_MIN).max(node.now_ms.saturating_mul(IDS_PER_MILLISECOND));
        if *id >= IDS_END {
            return Err("there are no ids left; is the clock right?".into());
        }
    }
    counters.membership = Some((last, node.membership.into()));
    counters.save(&tx)?;
    tx.execute(
        "UPDATE node SET node = ?1, cluster_id = ?2, raft_id = ?3, founders = '[]', vote = ?4, purged_term = ?5,
                purged_leader = ?6, purged_index = ?7, starts = 0, stale = NULL",
        (
            int(node.node.into()),
            node.cluster_id,
            int(node.raft_id),
            node.vote,
            int(last.term),
            int(last.leader),
            int(last.index),
        ),
    )?;
    tx.execute_batch(&format!("DROP TABLE {BACKUP_TABLE}"))?;
    // Anything else in the schema, such as a trigger, would act on this node alone, and the replicas would diverge.
    if schema(&tx)? != expected_schema()? {
        return Err("its tables, indexes or views are not those of its version".into());
    }
    tx.commit()?;
    Ok(info)
}

fn expected_schema() -> Result<Vec<(String, String)>, Box<dyn std::error::Error>> {
    let mut conn = Connection::open_in_memory()?;
    migrations().to_latest(&mut conn)?;
    Ok(schema(&conn)?)
}

/// Name and SQL of everything in the file's schema.
fn schema(conn: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement =
        conn.prepare("SELECT name, coalesce(sql, '') FROM sqlite_schema ORDER BY name")?;
    statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_leaves_the_node_room() {
        assert!(enough(ROOM_LEFT_BYTES + 10, 10).is_ok());
        let why = enough(ROOM_LEFT_BYTES + 9, 10).unwrap_err();
        assert_eq!(
            why,
            "257 MiB are free, it may take 1 more, and 256 must be left to the node"
        );
    }
}
