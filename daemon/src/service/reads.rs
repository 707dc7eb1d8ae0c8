//! Queries on this node's applied state, their errors turned into refusals.

use messagebase_protocol::code::{Code, Failure};
use rusqlite::Connection;

use super::verdict;
use crate::state::read::SessionRow;
use crate::store::{ReadError, Readers};

/// Runs a query on a read-only connection, off the async threads.
pub(super) async fn read<T, F>(readers: &Readers, query: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
{
    readers.run(query).await.map_err(|error| match error {
        ReadError::Busy | ReadError::TimedOut => {
            Failure::not_done(Code::Busy, "the node is busy reading; try again in a moment")
        }
        ReadError::Sqlite(error) => verdict::internal(&format!("failed to read the state: {error}")),
    })
}

/// Whether a stored session may still act.
pub(super) fn is_live(row: &SessionRow) -> bool {
    row.expires_at > row.clock && !row.locked
}
