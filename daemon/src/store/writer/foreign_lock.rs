//! Locks of other programs on the database, such as an `sqlite3` shell's. They never stop a node: the writer waits for
//! them and warns.

use std::time::{Duration, Instant};

use rusqlite::{ErrorCode, Result};

/// Least time between two warnings of one kind.
pub(super) const WARN_EVERY: Duration = Duration::from_secs(5);

/// Repeats `attempt` until no lock of another connection is in the way.
pub(super) fn wait_out(mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
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
