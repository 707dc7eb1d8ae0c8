//! How a connection is opened. `SQLITE_OPEN_READ_ONLY` makes one read-only for good: `query_only` could be switched off
//! through SQL. `NO_MUTEX`, because one thread at a time uses a connection.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Result};

/// Prepared statements kept by a reader; more than `state::read` has.
const READER_STATEMENTS_MAX: usize = 64;
/// How long a reader waits for the lock of another connection's recovery or checkpoint.
const READER_LOCK_WAIT: Duration = Duration::from_secs(2);
/// How long one attempt of a writer waits for a lock. `foreign_lock` repeats it, and warns in between.
const WRITER_LOCK_WAIT: Duration = Duration::from_millis(250);

pub(super) const READ_ONLY: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_ONLY.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);
const READ_WRITE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE
    .union(OpenFlags::SQLITE_OPEN_URI)
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// A read-only connection outside the pool.
pub(super) fn read_only(file: &Path) -> Result<Connection> {
    let conn = Connection::open_with_flags(file, READ_ONLY)?;
    prepare_reader(&conn)?;
    Ok(conn)
}

pub(super) fn prepare_reader(conn: &Connection) -> Result<()> {
    conn.busy_timeout(READER_LOCK_WAIT)?;
    conn.set_prepared_statement_cache_capacity(READER_STATEMENTS_MAX);
    Ok(())
}

/// A connection that may write, with SQLite's default settings. The file must exist.
pub(super) fn read_write(file: &Path) -> Result<Connection> {
    let conn = Connection::open_with_flags(file, READ_WRITE)?;
    conn.busy_timeout(WRITER_LOCK_WAIT)?;
    Ok(conn)
}

/// An SQLite URI that opens the file read-only.
pub(super) fn read_only_uri(path: &Path) -> String {
    let path = path
        .to_string_lossy()
        .replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23");
    format!("file:{path}?mode=ro")
}
