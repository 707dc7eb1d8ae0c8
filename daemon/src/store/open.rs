//! Opening a node's directory: modes, lock, schema, node number, leftovers. All checks that can refuse it come before
//! the first write.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::mpsc;

use super::files::{DirLock, LOCK_FILE, LockError, make_private_dir, open_private_file, sync_dir};
use super::inner::{LogView, Snapshots, StoreInner};
use super::schema::{SCHEMA_VERSION, first_missing, is_backup, leftovers, migrations};
use super::tail::Tail;
use super::writer::{Db, LogBounds, Segments};
use super::{Identity, OpenError, Readers, Store, StoreOptions, Writer, snapshot};
use super::{compile_options, connect};
use crate::entry::LogId;
use crate::state::Counters;
use crate::state::index::{Memtable, MergeSchedule};
use crate::state::integers::{int, opt_uint, uint};
use crate::watch;

/// Jobs that may wait for the writer; with more, submitters wait.
const JOBS_MAX: usize = 1_024;

const SNAPSHOTS: &str = "snapshots";

/// What the file says about this node and its log.
struct NodeRecord {
    node: Option<u64>,
    identity: Option<Identity>,
    vote: Option<String>,
    purged: Option<LogId>,
    applied: Option<LogId>,
    bounds: LogBounds,
    segments: Segments,
}

pub(super) fn open(options: StoreOptions) -> Result<(Store, Writer), OpenError> {
    let dir = &options.dir;
    let at = |path: &Path, source: Box<dyn Error + Send + Sync>| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    make_private_dir(dir).map_err(|e| at(dir, e.into()))?;
    let lock_path = dir.join(LOCK_FILE);
    let lock = DirLock::take(&lock_path).map_err(|e| match e {
        LockError::Held(pid) => OpenError::InUse {
            dir: dir.clone(),
            pid,
        },
        LockError::Io(e) => at(&lock_path, e.into()),
    })?;

    let file = dir.join(messagebase_config::DATABASE_FILE);
    open_private_file(&file).map_err(|e| at(&file, e.into()))?;
    let mut db = Db::open(&file).map_err(|e| at(&file, e.into()))?;
    compile_options::warn_of_differences(&db.conn).map_err(|e| at(&file, e.into()))?;
    prepare_schema(&mut db, &file)?;
    let disk = read(&db.conn, options.change_log_bytes).map_err(|e| at(&file, e.into()))?;
    check_node(&db, &disk, &options).map_err(|e| e.unwrap_or_else(|e| at(&file, e.into())))?;
    drop_leftovers(&db).map_err(|e| at(&file, e.into()))?;

    let snapshots = dir.join(SNAPSHOTS);
    make_private_dir(&snapshots).map_err(|e| at(&snapshots, e.into()))?;
    let snapshot = snapshot::adopt_newest(&snapshots, disk.applied, disk.purged)
        .map_err(|e| at(&snapshots, e.into()))?;
    // SQLite syncs the files' contents, but not the directory, which has new names after a first start.
    sync_dir(dir).map_err(|e| at(dir, e.into()))?;
    let schedule = MergeSchedule::of_node(options.node.into(), options.merge_at);
    let memtable = Memtable::load(&db.conn, schedule).map_err(|e| at(&file, e.into()))?;
    let readers =
        Readers::open(&file, options.readers, memtable).map_err(|e| at(&file, e.into()))?;
    let log_reader = connect::read_only(&file).map_err(|e| at(&file, e.into()))?;

    let starts = count_start(&mut db).map_err(|e| at(&file, e.into()))?;

    let (sender, receiver) = mpsc::channel(JOBS_MAX);
    let shared = Arc::new(StoreInner {
        file,
        starts,
        log: log_view(&disk, log_reader),
        identity: Mutex::new(disk.identity),
        vote: Mutex::new(disk.vote),
        applied: watch::Sender::new(disk.applied),
        fatal: OnceLock::new(),
        readers,
        snapshots: Snapshots::new(snapshots, snapshot),
        _lock: lock,
    });
    let writer = Writer::new(
        shared.clone(),
        receiver,
        db,
        (disk.bounds, disk.segments),
        options.effects,
    );
    Ok((Store::new(shared, sender), writer))
}

fn log_view(disk: &NodeRecord, reader: Connection) -> LogView {
    let bounds = &disk.bounds;
    LogView {
        tail: Mutex::new(Tail::new(bounds.begin, bounds.end, disk.purged)),
        reader: Mutex::new(reader),
        bytes: AtomicU64::new(disk.segments.bytes()),
        segments: Mutex::new(disk.segments.last_entries()),
        purging: AtomicBool::new(bounds.garbage),
        synced_commits: AtomicU64::new(0),
    }
}

/// Counts this start. Durable before this node talks to anybody: peers recognize an older copy of the directory by it.
fn count_start(db: &mut Db) -> rusqlite::Result<u64> {
    db.begin(true)?;
    db.conn.execute("UPDATE node SET starts = starts + 1", [])?;
    db.commit()?;
    db.conn
        .query_row("SELECT starts FROM node", [], |row| uint(row, 0))
}

fn prepare_schema(db: &mut Db, file: &Path) -> Result<(), OpenError> {
    let at = |source: Box<dyn Error + Send + Sync>| OpenError::Io {
        path: file.to_owned(),
        source,
    };
    let found: i64 = db
        .conn
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|e| at(e.into()))?;
    if found > SCHEMA_VERSION {
        return Err(OpenError::NewerSchema {
            file: file.to_owned(),
            found,
            known: SCHEMA_VERSION,
        });
    }
    if is_backup(&db.conn).map_err(|e| at(e.into()))? {
        return Err(at(
            "it is a backup: `mbctl restore` makes a node of it".into()
        ));
    }
    db.configure().map_err(|e| at(e.into()))?;
    if found < SCHEMA_VERSION {
        // A migration takes a lock without waiting long; so a foreign one is waited out here.
        db.wait_for_lock().map_err(|e| at(e.into()))?;
        migrations()
            .to_latest(&mut db.conn)
            .map_err(|e| at(e.into()))?;
    }
    // Until a version is released, its migration is edited. A file with the old form is refused here; otherwise the
    // first merge would stop the node.
    if let Some(missing) = first_missing(&db.conn).map_err(|e| at(e.into()))? {
        return Err(at(format!(
            "it has no table {missing}: a development version of this schema made it, which nothing can upgrade"
        )
        .into()));
    }
    Ok(())
}

fn read(conn: &Connection, change_log_bytes: u64) -> rusqlite::Result<NodeRecord> {
    let counters = Counters::load(conn)?;
    let (node, identity, vote, purged) = conn.query_row(
        "SELECT node, cluster_id, raft_id, founders, vote, purged_term, purged_leader, purged_index FROM node",
        [],
        |row| {
            let cluster_id: Option<String> = row.get(1)?;
            let founders: Option<String> = row.get(3)?;
            let founders = serde_json::from_str(founders.as_deref().unwrap_or("[]"))
                .map_err(|e| rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, Box::new(e)))?;
            let identity = cluster_id.zip(opt_uint(row, 2)?).map(|(cluster_id, raft_id)| Identity {
                cluster_id,
                raft_id,
                founders,
            });
            Ok((opt_uint(row, 0)?, identity, row.get(4)?, crate::state::log_id(row, 5)?))
        },
    )?;
    let segments = Segments::load(conn, change_log_bytes)?;
    let (first, end) = segments.ends().unzip();
    let begin = purged.map_or(first.unwrap_or(0), |purged: LogId| purged.index + 1);
    let end = end.map_or(begin, |end| begin.max(end));
    let bounds = LogBounds {
        begin,
        end,
        purged: purged.is_some(),
        garbage: first.is_some_and(|f| f < begin),
    };
    Ok(NodeRecord {
        node,
        identity,
        vote,
        purged,
        applied: counters.applied,
        bounds,
        segments,
    })
}

/// Refuses another node's directory; writes the node's number into a new one.
fn check_node(
    db: &Db,
    disk: &NodeRecord,
    options: &StoreOptions,
) -> Result<(), Result<OpenError, rusqlite::Error>> {
    match disk.node {
        Some(found) if found != u64::from(options.node) => Err(Ok(OpenError::OtherNode {
            dir: options.dir.clone(),
            found: u16::try_from(found).unwrap_or(u16::MAX),
            asked: options.node,
        })),
        Some(_) => Ok(()),
        None => {
            db.wait_for_lock().map_err(Err)?;
            db.conn
                .execute("UPDATE node SET node = ?1", [int(u64::from(options.node))])
                .map(drop)
                .map_err(Err)
        }
    }
}

/// Drops the tables that an interrupted install left behind; nothing refers to them.
fn drop_leftovers(db: &Db) -> rusqlite::Result<()> {
    for table in leftovers(&db.conn)? {
        db.wait_for_lock()?;
        db.conn.execute_batch(&format!("DROP TABLE \"{table}\""))?;
    }
    Ok(())
}
