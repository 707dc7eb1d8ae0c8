//! Merges: the index entries of the newest messages go from memory to their tables, a piece at a time.

use super::Writer;
use crate::state::index::{MERGE_AT, Merge};
use crate::store::StoreError;
use crate::store::shared::fatal;

/// Rows that one transaction writes. With rows all over the tables that is as many pages.
const MERGE_ROWS: usize = 512;
/// The same for each whole merge that waits while one is under way: a follower that catches up.
const MERGE_ROWS_BEHIND: usize = 2_048;
/// Merges that wait count as this many at most.
const BEHIND_MAX: usize = 8;
/// A merge of more keys and places in lists than this comes from catching up too, and does not wait for messages.
const MERGE_PACED: usize = 6 * MERGE_AT;
/// For so many rows another message must have come before the next transaction: a message has between one row and three,
/// so that a merge takes a tenth to a quarter of the time until the next one, in steps that no append waits for long.
const ROWS_A_MESSAGE: u64 = 12;
/// Keys that are read at a time after a start, less than a millisecond's work.
const FILTER_ROWS: usize = 1_000;

impl Writer {
    /// One capped transaction of a merge, or else some reading after a start; false if there is neither. Not synced: what
    /// is lost is merged again.
    pub(super) fn merge_piece(&mut self) -> Result<bool, StoreError> {
        // An install replaces both the tables and the memory.
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
            let filled = memtable.fill_filter(&self.db.conn, FILTER_ROWS);
            return filled.map_err(|e| fatal("read the keys of messages", e));
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
