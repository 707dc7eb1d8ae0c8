//! Merges: the index entries of the newest messages go from memory to their tables, a piece at a time.

use super::Writer;
use crate::state::index::Merge;
use crate::store::StoreError;
use crate::store::shared::fatal;

/// Rows that one transaction writes. With rows all over the tables that is as many pages.
const MERGE_ROWS: usize = 1_000;
/// The same while the memory grows faster than it is merged.
const MERGE_ROWS_BEHIND: usize = 2_000;

impl Writer {
    /// One capped transaction of a merge; false if none is due. Not synced: what is lost is merged again.
    pub(super) fn merge_piece(&mut self) -> Result<bool, StoreError> {
        // An install replaces both the tables and the memory.
        if self.install.is_some() {
            return Ok(false);
        }
        let memtable = self.shared.readers.memtable().clone();
        let Some(mut merge) = self.merge.take().or_else(|| Merge::begin(&memtable)) else { return Ok(false) };
        let rows = if memtable.backlog() > 0 { MERGE_ROWS_BEHIND } else { MERGE_ROWS };
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
