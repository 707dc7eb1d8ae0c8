//! The writing connection: its pragmas, its transactions, which wait out foreign locks, and its checkpoints.

use std::cell::Cell;
use std::error::Error;
use std::path::Path;

use rusqlite::{Connection, Result};

use super::checkpoint::Checkpoints;
use super::foreign_lock::wait_out;
use crate::store::connect;

/// Prepared statements kept; more than apply uses.
const STATEMENTS_MAX: usize = 128;

thread_local! {
    /// Frames in the WAL after the last COMMIT on this thread. The hook is a plain function without state. It runs
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
        let conn = connect::read_write(file)?;
        Ok(Db {
            conn,
            durable: None,
            frames: 0,
            checkpoints: Checkpoints::default(),
        })
    }

    /// Sets page size and WAL mode, and replaces SQLite's checkpoints inside COMMIT.
    pub fn configure(&mut self) -> Result<()> {
        self.conn
            .set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        wait_out(|| {
            self.conn.execute_batch(
                "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA temp_store = MEMORY;
                 PRAGMA foreign_keys = OFF;",
            )
        })?;
        // Replaces SQLite's own hook, which checkpoints inside COMMIT.
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

    /// Begins a transaction; its COMMIT is synced if `durable`. Waits for a foreign lock without limit.
    pub fn begin(&mut self, durable: bool) -> Result<()> {
        self.set_durable(durable)?;
        wait_out(|| {
            self.conn
                .prepare_cached("BEGIN IMMEDIATE")?
                .execute([])
                .map(drop)
        })
    }

    /// Changes a page in the open transaction: SQLite syncs no COMMIT that changes none.
    pub fn dirty_page(&self) -> Result<()> {
        self.conn
            .prepare_cached("UPDATE node SET syncs = syncs + 1")?
            .execute([])
            .map(drop)
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// Final: a failed fsync must not be retried.
    pub fn commit(&mut self) -> Result<()> {
        wait_out(|| self.conn.prepare_cached("COMMIT")?.execute([]).map(drop))?;
        let frames = WAL_FRAMES.get();
        if frames < self.frames {
            self.checkpoints.wal_was_reset();
        }
        self.frames = frames;
        Ok(())
    }

    /// Frames in the WAL after the last COMMIT.
    #[cfg(test)]
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Ends checkpoints and rolls the open transaction back, after a final error.
    pub fn roll_back(&mut self) {
        self.checkpoints.end(false);
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "failed to roll back");
        }
    }

    /// Waits until no other connection holds the write lock.
    pub fn wait_for_lock(&self) -> Result<()> {
        wait_out(|| self.conn.execute_batch("BEGIN IMMEDIATE; COMMIT"))
    }

    /// Starts the thread that makes checkpoints.
    pub fn checkpoint_in_background(
        &mut self,
        file: &Path,
    ) -> std::result::Result<(), Box<dyn Error + Send + Sync>> {
        self.checkpoints.in_background(file)
    }

    /// Makes a checkpoint if the WAL has grown enough. Called between transactions, so that no COMMIT waits for it.
    ///
    /// # Errors
    /// SQLite's; final.
    pub fn checkpoint(&mut self, idle: bool) -> Result<()> {
        self.checkpoints.run_if_due(&self.conn, self.frames, idle)
    }

    /// Ends the thread and makes a last checkpoint. To be called when nothing more is written.
    pub fn end(&mut self) -> Result<()> {
        self.checkpoints.end(true);
        self.checkpoint(true)
    }
}
