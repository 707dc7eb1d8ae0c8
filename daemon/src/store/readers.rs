//! The pool of read-only connections.

use std::path::Path;
use std::time::{Duration, Instant};

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, ErrorCode};

use super::connect;
use crate::state::index::Memtable;

/// How long a caller waits for a connection.
const POOL_WAIT: Duration = Duration::from_secs(2);
/// How long one use of a connection may take. Longer read transactions would keep the WAL from being reset.
pub(super) const READ_TIME: Duration = Duration::from_secs(5);
/// Virtual-machine instructions between two checks of the deadline: some tens of microseconds.
const STEPS_BETWEEN_CHECKS: i32 = 10_000;

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// All connections were busy for too long, or the transaction is older than the message index in memory goes back.
    /// Nothing is broken; the caller may try again.
    #[error("reading takes too long at the moment")]
    Busy,
    /// The query reached its time limit.
    #[error("the query took too long")]
    TimedOut,
    /// Any other error of SQLite.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Read-only connections; clones share the pool.
#[derive(Clone)]
pub struct Readers {
    pool: r2d2::Pool<SqliteConnectionManager>,
    memtable: Memtable,
}

impl Readers {
    pub(super) fn open(
        file: &Path,
        connections: u32,
        memtable: Memtable,
    ) -> Result<Readers, r2d2::Error> {
        let manager = SqliteConnectionManager::file(file)
            .with_flags(connect::READ_ONLY)
            .with_init(|conn| connect::prepare_reader(conn));
        let pool = r2d2::Pool::builder()
            .max_size(connections.max(1))
            .min_idle(Some(1))
            .test_on_check_out(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connection_timeout(POOL_WAIT)
            .build(manager)?;
        Ok(Readers { pool, memtable })
    }

    /// The part of the message index that is in memory: queries for messages need it beside a connection.
    pub fn memtable(&self) -> &Memtable {
        &self.memtable
    }

    /// Runs `f` on a connection, in one read transaction: all its queries see the same state. Blocking: must not be
    /// called on an async thread.
    pub fn with<T>(
        &self,
        f: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadError> {
        self.with_time(READ_TIME, f)
    }

    /// [`Readers::with`] with another time limit.
    pub fn with_time<T>(
        &self,
        limit: Duration,
        f: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadError> {
        let conn = self.pool.get().map_err(|_| ReadError::Busy)?;
        let deadline = Instant::now() + limit;
        conn.progress_handler(
            STEPS_BETWEEN_CHECKS,
            Some(move || Instant::now() > deadline),
        )?;
        let result = conn.unchecked_transaction().and_then(|tx| f(&tx));
        conn.progress_handler(STEPS_BETWEEN_CHECKS, None::<fn() -> bool>)?;
        result.map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => ReadError::TimedOut,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ReadError::Busy,
            _ => ReadError::Sqlite(error),
        })
    }

    /// [`Readers::with`] on one of tokio's blocking threads.
    pub async fn run<T, F>(&self, f: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let readers = self.clone();
        match tokio::task::spawn_blocking(move || readers.with(f)).await {
            Ok(result) => result,
            // A cancelled task: the runtime is being shut down.
            Err(error) if error.is_cancelled() => Err(ReadError::Busy),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
