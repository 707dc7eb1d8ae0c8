//! Backups: a file with the whole schema and all replicated tables but the sessions, which `sqlite3` reads like a node's
//! own and which no `mbd` opens as one. A restore makes a node's database of it: the only member of a new cluster.

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
use crate::state::sql::{int, uint};

/// What the old cluster gave out after the backup must not be given out again, nor what an earlier restore of the same
/// backup gave out; nobody knows how much that was. So ids go on at the time: nobody gives out more than so many in a
/// millisecond, so all given out before are smaller.
const IDS_A_MILLISECOND: u64 = 1_000;
/// Should the clock be behind, they go on by this much: 15,000 messages a second for two years are fewer.
const IDS_APART: u64 = 1_000_000_000_000;
/// Ids are JSON numbers for clients: exact below 2^53, which is the year 2255.
const IDS_END: u64 = 1 << 53;
/// SQLite's virtual-machine steps between two looks at whether the backup is still wanted.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;
/// What a backup leaves free on the node's disk, at least.
const ROOM_LEFT_BYTES: u64 = 256 * 1024 * 1024;
/// What a restore writes until it is whole.
const UNFINISHED: &str = "messagebase.db.restoring";
/// What may lie in a directory that counts as empty: the lock, `mbctl up`'s log, an interrupted restore.
const OF_NO_ACCOUNT: [&str; 3] = [LOCK_FILE, "mbd.log", UNFINISHED];

/// A backup on its way to the operator: a file without a name. Its room is free again once it is dropped.
pub struct Backup {
    /// The file.
    pub file: File,
    /// Its size.
    pub bytes: u64,
    /// Last entry it contains.
    pub last: LogId,
}

/// Copies what is applied into a nameless file, in one read transaction. Blocking; stops early once `unwanted` says so.
pub(super) fn build(
    shared: &StoreInner,
    mut unwanted: impl FnMut() -> bool + Send + 'static,
    now_ms: u64,
) -> Result<Backup, StoreError> {
    let number = shared.backups.fetch_add(1, Ordering::Relaxed);
    // The next start removes whatever it finds in this directory that is no snapshot.
    let path = shared.snapshots.join(format!("backup-{number}.tmp"));
    let failed = |e: io::Error| fatal("make the backup's file", e);
    check_room(&shared.snapshots, shared.db_bytes()).map_err(failed)?;
    remove_if_there(&path).map_err(failed)?;
    let file = open_private_file(&path).map_err(failed)?;
    let snapshots = shared.snapshots.clone();
    let stop = move || unwanted() || check_room(&snapshots, 0).is_err();
    let copied = copy_out(shared, &path, stop, now_ms).map_err(|e| fatal("copy the tables", e));
    // Why it was stopped, if that was why.
    let room = check_room(&shared.snapshots, 0).map_err(failed);
    remove_if_there(&path).map_err(failed)?;
    room?;
    let last = copied?.ok_or_else(|| fatal("make a backup", "nothing is applied yet"))?;
    let bytes = file.metadata().map_err(failed)?.len();
    Ok(Backup { file, bytes, last })
}

/// A full disk would end the node: what the copy and the WAL leave must be enough for it. `bytes` are still to come.
///
/// # Errors
/// There is not enough, or nobody knows.
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
    unwanted: impl FnMut() -> bool + Send + 'static,
    now_ms: u64,
) -> rusqlite::Result<Option<LogId>> {
    let mut conn = connect::read_write(to)?;
    // Whoever takes it syncs it; half of one is never used.
    conn.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;",
    )?;
    // Unsaid: in the node's log it would look as if its own file had been migrated.
    let made = tracing::subscriber::with_default(NoSubscriber::default(), || {
        migrations().to_latest(&mut conn)
    });
    made.map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
    conn.progress_handler(STEPS_BETWEEN_LOOKS, Some(unwanted))?;
    conn.execute("ATTACH ?1 AS live", [connect::read_only_uri(&shared.file)])?;
    let tx = conn.transaction()?;
    for table in in_snapshots().map(|table| table.name) {
        // The first statement that reads begins the read transaction, which all others read in.
        tx.execute_batch(&format!("DELETE FROM main.{table}"))?;
        // Nobody is logged in to what is restored, so nothing of a token leaves the node.
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

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupInfo {
    /// The cluster it is of.
    pub cluster_id: String,
    /// The node it was taken from.
    pub node: u16,
    /// Unix ms, by that node's clock.
    pub taken_at: u64,
    /// Accounts in it.
    pub users: u64,
}

/// Who the restored node is.
#[derive(Debug, Clone)]
pub struct NewLife {
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

/// Why there is no restored node.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file is none, or is damaged, or of a newer version.
    #[error("{0} is not a backup that this mbd can restore: {1}")]
    Unusable(String, String),
    /// There is something already.
    #[error("{0} is not empty: it has {1}; a restore begins with an empty directory")]
    NotEmpty(String, String),
    /// An `mbd` runs there.
    #[error("{0} is in use by another mbd")]
    InUse(String),
    /// The disk says no.
    #[error("failed to {0}: {1}")]
    Failed(&'static str, String),
}

/// Makes `dir` the directory of a node with what is in the backup `from`. `live` is told the last entry in it. All or
/// nothing: the database gets its name last. Blocking, for as long as reading and writing the file twice takes.
///
/// # Errors
/// [`RestoreError`]; nothing is changed then but what counts as empty.
pub fn restore(
    from: &Path,
    dir: &Path,
    live: impl FnOnce(LogId) -> NewLife,
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
        .and_then(|()| begin_anew(&unfinished, live).map_err(|e| unusable(from, e)))
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
        // The first error is the one that matters; the next attempt overwrites it.
        let _ = remove_if_there(&unfinished);
    }
    made
}

impl RestoreError {
    /// For programs.
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
            if !OF_NO_ACCOUNT.contains(&name.as_str()) {
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

/// Makes the copy a database of the only member of a new cluster: as if it had just installed a snapshot.
fn begin_anew(
    file: &Path,
    live: impl FnOnce(LogId) -> NewLife,
) -> Result<BackupInfo, Box<dyn std::error::Error>> {
    let mut conn = connect::read_write(file)?;
    // No file beside it: one that an interrupted restore left would be taken for this one's. It is synced when it is whole.
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
    let life = live(last);
    let ids = &mut counters.scalars;
    for id in [
        &mut ids.next_user_id,
        &mut ids.next_message_id,
        &mut ids.next_session_id,
    ] {
        *id = (*id + IDS_APART).max(life.now_ms.saturating_mul(IDS_A_MILLISECOND));
        if *id >= IDS_END {
            return Err("there are no ids left; is the clock right?".into());
        }
    }
    counters.membership = Some((last, life.membership.into()));
    counters.save(&tx)?;
    tx.execute(
        "UPDATE node SET node = ?1, cluster_id = ?2, raft_id = ?3, founders = '[]', vote = ?4, purged_term = ?5,
                purged_leader = ?6, purged_index = ?7, starts = 0, stale = NULL",
        (
            int(life.node.into()),
            life.cluster_id,
            int(life.raft_id),
            life.vote,
            int(last.term),
            int(last.leader),
            int(last.index),
        ),
    )?;
    tx.execute_batch(&format!("DROP TABLE {BACKUP_TABLE}"))?;
    // Something that we did not make, such as a trigger, would act on this node alone.
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

/// Name and SQL of everything that the file has.
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
