//! The pool of read-only connections.

use rusqlite::Connection;

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// All connections were busy for too long; nothing is broken.
    #[error("all read connections are busy")]
    Busy,
    /// The query ran into its time limit.
    #[error("the query took too long")]
    TimedOut,
    /// Anything else.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Read-only connections; clones share the pool.
#[derive(Clone)]
pub struct Readers {}

impl Readers {
    /// Runs `f` on a connection. Blocking: never call it on an async thread.
    pub fn with<T>(&self, _f: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ReadError> {
        unimplemented!()
    }

    /// Runs `f` on a connection on a blocking thread of tokio.
    pub async fn run<T, F>(&self, _f: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        unimplemented!()
    }
}
