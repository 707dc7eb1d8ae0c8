//! Queries on this node's applied state, their errors turned into refusals.

use messagebase_protocol::code::{Code, Failure};
use rusqlite::Connection;

use super::{Service, verdict};
use crate::state::read::SessionRow;
use crate::store::ReadError;

/// Queries at a time, whoever asks; the others wait without a thread. Else a client that pipelines reads would take
/// all blocking threads, and with them the password checks of the others.
pub(super) const READS_AT_A_TIME: usize = 16;

impl Service {
    /// Runs a query on a read-only connection, off the async threads.
    pub(super) async fn read<T, F>(&self, query: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let turn = self.reading.acquire().await;
        let _turn = turn.map_err(|_| verdict::internal("the node reads no more"))?;
        self.readers.run(query).await.map_err(|error| match error {
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
