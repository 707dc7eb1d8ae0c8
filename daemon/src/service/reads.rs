//! Queries on this node's applied state; their errors become refusals.

use messagebase_protocol::code::{Code, Failure};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{Service, verdict};
use crate::state::index::Memtable;
use crate::state::read::SessionRow;
use crate::store::{ReadError, Readers};

/// Queries at a time, of all connections; the others wait without a thread. Otherwise a client that pipelines reads could
/// occupy every thread of the blocking pool.
const CONCURRENT_READS: usize = 16;

/// The node's read-only connections, with one permit for each query at work.
pub(super) struct Reads {
    readers: Readers,
    permits: Semaphore,
}

impl Reads {
    pub(super) fn new(readers: Readers) -> Self {
        Reads {
            readers,
            permits: Semaphore::new(CONCURRENT_READS),
        }
    }

    /// The messages that are not in the file's index yet.
    pub(super) fn memtable(&self) -> Memtable {
        self.readers.memtable().clone()
    }
}

impl Service {
    /// Runs a query on a read-only connection, off the async threads.
    pub(super) async fn read<T, F>(&self, query: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let permit = self.reads.permits.acquire().await;
        let _permit = permit.map_err(|_| verdict::internal("the node reads no more"))?;
        self.reads
            .readers
            .run(query)
            .await
            .map_err(|error| match error {
                ReadError::Busy | ReadError::TimedOut => Failure::not_done(
                    Code::Busy,
                    "the node is busy reading; try again in a moment",
                ),
                ReadError::Sqlite(error) => {
                    verdict::internal(&format!("failed to read the state: {error}"))
                }
            })
    }
}

/// Whether a stored session may still act.
pub(super) fn is_live(row: &SessionRow) -> bool {
    row.expires_at > row.clock && !row.locked
}
