//! The writing connection: pragmas, transactions that wait out foreign locks.

use std::cell::Cell;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, Result};

use super::checkpoint::Checkpoints;

/// One wait for a lock; then a look at the clock, a warning if it is due, and the next.
const LOCK_WAIT: Duration = Duration::from_millis(250);
/// Between two warnings of one kind.
pub(super) const WARN_EVERY: Duration = Duration::from_secs(5);
/// Prepared statements kept; more than apply has.
const STATEMENTS_MAX: usize = 128;

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
    checkpoints: Checkpoints,
}

impl Db {
    /// Opens the file. Writes nothing.
    pub fn open(file: &Path) -> Result<Db> {
        let conn = Db::connect(file)?;
        Ok(Db {
            conn,
            durable: None,
            frames: 0,
            checkpoints: Checkpoints::default(),
        })
    }

    /// A connection that may write, as yet with SQLite's defaults.
    pub(in crate::store) fn connect(file: &Path) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(file, flags)?;
        conn.busy_timeout(LOCK_WAIT)?;
        Ok(conn)
    }

    /// Page size, WAL, no checkpoints inside COMMIT.
    pub fn configure(&mut self) -> Result<()> {
        self.conn
            .set_prepared_statement_cache_capacity(STATEMENTS_MAX);
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
        patiently(|| {
            self.conn
                .prepare_cached("BEGIN IMMEDIATE")?
                .execute([])
                .map(drop)
        })
    }

    /// Lets the open transaction change a page: a FULL commit that changes none syncs nothing.
    pub fn touch(&self) -> Result<()> {
        self.conn
            .prepare_cached("UPDATE node SET syncs = syncs + 1")?
            .execute([])
            .map(drop)
    }

    /// Makes the transaction permanent. An error is final: an fsync is never retried.
    pub fn commit(&mut self) -> Result<()> {
        patiently(|| self.conn.prepare_cached("COMMIT")?.execute([]).map(drop))?;
        let frames = WAL_FRAMES.get();
        if frames < self.frames {
            self.checkpoints.begun_anew();
        }
        self.frames = frames;
        Ok(())
    }

    /// Frames in the WAL after the last COMMIT.
    #[cfg(test)]
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// After a final error.
    pub fn abandon(&mut self) {
        self.checkpoints.end(false);
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

    /// From now on a thread of its own copies the WAL into the database.
    pub fn checkpoint_in_background(
        &mut self,
        file: &Path,
    ) -> std::result::Result<(), Box<dyn Error + Send + Sync>> {
        self.checkpoints.in_background(file)
    }

    /// Copies the WAL into the database when it has grown enough; between transactions, so that no COMMIT waits for it.
    ///
    /// # Errors
    /// SQLite's, and final.
    pub fn checkpoint(&mut self, idle: bool) -> Result<()> {
        self.checkpoints.consider(&self.conn, self.frames, idle)
    }

    /// Nothing more is written.
    pub fn end(&mut self) -> Result<()> {
        self.checkpoints.end(true);
        self.checkpoint(true)
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

pub(super) fn is_foreign_lock(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}
