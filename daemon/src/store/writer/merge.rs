//! Merges: the index of the newest messages goes from memory to its table, a piece at a time.

use super::Writer;
use crate::state::index::{MERGE_AT, Merge};
use crate::store::StoreError;
use crate::store::api::fatal;

/// Rows that one transaction writes. If they are spread over the table, it writes as many pages.
const MERGE_ROWS: usize = 512;
/// The same, for each whole merge that waits behind the current one: on a follower that catches up.
const MERGE_ROWS_BEHIND: usize = 2_048;
/// Waiting merges that count, at most.
const BEHIND_MAX: usize = 8;
/// A merge of more rows than this comes from catching up too, and does not wait for messages: those of two merges.
const MERGE_PACED: usize = 4 * MERGE_AT;
/// Pace of a merge: one transaction may write this many rows for each message received since the last one. A message
/// has two rows, so a merge takes a sixth of the time until the next one, in steps that no append waits for long.
const ROWS_A_MESSAGE: u64 = 12;

impl Writer {
    /// One capped transaction of a merge; false if none is due. Not synced: what is lost is merged again.
    pub(super) fn merge_piece(&mut self) -> Result<bool, StoreError> {
        // An install replaces both the table and the memtable.
        if self.install.is_some() {
            return Ok(false);
        }
        let memtable = self.shared.readers.memtable().clone();
        let behind = memtable.backlog().min(BEHIND_MAX);
        let added = memtable.added();
        let waits =
            |merge: &Merge| behind == 0 && added < self.next_merge && merge.left() < MERGE_PACED;
        let due = match self.merge.take_if(|merge| !waits(merge)) {
            None if self.merge.is_none() => Merge::begin(&memtable),
            due => due,
        };
        let Some(mut merge) = due else {
            return Ok(false);
        };
        let rows = if behind > 0 {
            behind * MERGE_ROWS_BEHIND
        } else {
            MERGE_ROWS
        };
        self.next_merge = added + rows as u64 / ROWS_A_MESSAGE;
        let mut write = || {
            self.db.begin(false)?;
            let last = merge.piece(&self.db.conn, &memtable, rows)?;
            self.db.commit()?;
            Ok(last)
        };
        if write().map_err(|e: rusqlite::Error| fatal("write the index of messages", e))? {
            merge.committed(&memtable);
        } else {
            self.merge = Some(merge);
        }
        Ok(true)
    }
}
