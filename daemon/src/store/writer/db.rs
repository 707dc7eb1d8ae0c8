//! The writing connection: pragmas, transactions that wait out foreign locks, checkpoints.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, Result};

/// One wait for a lock; then a look at the clock, a warning if it is due, and the next.
const LOCK_WAIT: Duration = Duration::from_millis(250);
/// Between two warnings of one kind.
const WARN_EVERY: Duration = Duration::from_secs(5);
/// Prepared statements kept; more than apply has.
const STATEMENTS_MAX: usize = 128;
/// WAL frames (4 KiB) after which an idle moment is used for a checkpoint: 4 MiB.
const CHECKPOINT_IDLE_FRAMES: u32 = 1_024;
/// WAL frames after which a checkpoint is made also under load: 16 MiB.
const CHECKPOINT_FRAMES: u32 = 4_096;
/// WAL frames that a reader may keep from being recycled before it is warned of: 64 MiB.
const WAL_WARN_FRAMES: u32 = 16_384;

thread_local! {
    /// Frames in the WAL after the last COMMIT on this thread. SQLite's hook can't carry a state of its own; it runs
    /// inside COMMIT, and the value is read right after it.
    static WAL_FRAMES: Cell<u32> = const { Cell::new(0) };
}

/// The writing connection.
pub(in crate::store) struct Db {
    pub conn: Connection,
    durable: Option<bool>,
    frames: u32,
    /// Frames at which the next checkpoint is due at the earliest (load, idle).
    next_checkpoint: (u32, u32),
    warned_of_wal: Option<Instant>,
}

impl Db {
    /// Opens the file. Writes nothing.
    pub fn open(file: &Path) -> Result<Db> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(file, flags)?;
        conn.busy_timeout(LOCK_WAIT)?;
        Ok(Db {
            conn,
            durable: None,
            frames: 0,
            next_checkpoint: (CHECKPOINT_FRAMES, CHECKPOINT_IDLE_FRAMES),
            warned_of_wal: None,
        })
    }

    /// Page size, WAL, no checkpoints inside COMMIT.
    pub fn configure(&mut self) -> Result<()> {
        self.conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        patiently(|| {
            self.conn.execute_batch(
                "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA temp_store = MEMORY;
                 PRAGMA foreign_keys = OFF;",
            )
        })?;
        // Replaces SQLite's own hook, which would checkpoint inside COMMIT.
        self.conn.wal_hook(Some(|_, frames| {
            WAL_FRAMES.set(u32::try_from(frames).unwrap_or(0));
            Ok(())
        }));
        self.set_durable(true)
    }

    fn set_durable(&mut self, durable: bool) -> Result<()> {
        if self.durable != Some(durable) {
            self.conn.execute_batch(if durable {
                "PRAGMA synchronous = FULL"
            } else {
                "PRAGMA synchronous = NORMAL"
            })?;
            self.durable = Some(durable);
        }
        Ok(())
    }

    /// Begins a transaction; its COMMIT is synced if `durable`. A foreign lock is waited out, however long.
    pub fn begin(&mut self, durable: bool) -> Result<()> {
        self.set_durable(durable)?;
        patiently(|| self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop))
    }

    /// Lets the open transaction change a page: a FULL commit that changes none syncs nothing.
    pub fn touch(&self) -> Result<()> {
        self.conn.prepare_cached("UPDATE node SET syncs = syncs + 1")?.execute([]).map(drop)
    }

    /// Makes the transaction permanent. An error is final: an fsync is never retried.
    pub fn commit(&mut self) -> Result<()> {
        patiently(|| self.conn.prepare_cached("COMMIT")?.execute([]).map(drop))?;
        let frames = WAL_FRAMES.get();
        if frames < self.frames {
            self.next_checkpoint = (CHECKPOINT_FRAMES, CHECKPOINT_IDLE_FRAMES);
        }
        self.frames = frames;
        Ok(())
    }

    /// After a final error.
    pub fn abandon(&self) {
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "failed to roll back");
        }
    }

    /// Returns when nobody else holds a write lock.
    pub fn wait_for_lock(&self) -> Result<()> {
        patiently(|| self.conn.execute_batch("BEGIN IMMEDIATE; COMMIT"))
    }

    /// Copies the WAL into the database when it has grown enough; between transactions, so that no COMMIT waits for it.
    pub fn checkpoint(&mut self, idle: bool) {
        let (under_load, when_idle) = self.next_checkpoint;
        if self.frames < if idle { when_idle } else { under_load } {
            return;
        }
        let result = self.conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        });
        // Whether or not all of it could be copied: not again before the WAL has grown by as much once more.
        self.next_checkpoint = (self.frames + CHECKPOINT_FRAMES, self.frames + CHECKPOINT_IDLE_FRAMES);
        match result {
            Ok((_, frames, copied)) if copied < frames && frames > i64::from(WAL_WARN_FRAMES) => {
                self.warn_of_wal(frames)
            }
            Ok(_) => {}
            // The next COMMIT meets the same disk and decides.
            Err(error) => tracing::warn!(%error, "failed to checkpoint"),
        }
    }

    fn warn_of_wal(&mut self, frames: i64) {
        if self.warned_of_wal.is_none_or(|at| at.elapsed() > WARN_EVERY) {
            self.warned_of_wal = Some(Instant::now());
            tracing::warn!(
                wal_bytes = frames * 4096,
                "messagebase.db-wal keeps growing, because a reader holds an old state of messagebase.db. \
                 Hint: end long transactions of sqlite3 and other programs on the file"
            );
        }
    }
}

/// Repeats until no other connection's lock is in the way. Such a lock is somebody's `sqlite3` shell or backup: never
/// a reason to stop a node.
fn patiently(mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    let mut warned: Option<Instant> = None;
    loop {
        match attempt() {
            Err(error) if is_foreign_lock(&error) => {
                if warned.is_none_or(|at| at.elapsed() > WARN_EVERY) {
                    warned = Some(Instant::now());
                    tracing::warn!(
                        waited_ms = began.elapsed().as_millis() as u64,
                        "another program holds a lock on messagebase.db; waiting for it. \
                         Hint: end its transaction (an sqlite3 shell after BEGIN?)"
                    );
                }
            }
            other => return other,
        }
    }
}

fn is_foreign_lock(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}
