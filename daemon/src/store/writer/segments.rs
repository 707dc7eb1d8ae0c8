//! The tables of the change log: segments in a ring, as in other logs.
//!
//! A segment that nobody needs any more is emptied as a whole. With a single table, deleting the oldest rows wrote each
//! of their pages to the WAL and then to the file again, as much as appending them had. SQLite's WAL gets every page
//! that a transaction changed, even one that is free at the end (`pagerWalFrames` in SQLite's pager.c; without a WAL
//! `PGHDR_DONT_WRITE` saves them). Emptying a whole table changes none of its leaves (`clearDatabasePage` in btree.c).
//! For 8 MiB of log it takes 4 ms and 20 KiB of WAL, instead of 29 ms and 8.6 MiB.

use rusqlite::{Connection, Result};

use crate::entry::LogRow;
use crate::state::integers::int;
use crate::store::log_rows;
use crate::store::schema::LOG_TABLES;

/// Segments of a log at its configured length. Two fewer than there are, because the log grows beyond that length
/// before it is purged.
const IN_USE: u64 = LOG_TABLES.len() as u64 - 2;
/// Bytes of a segment that is emptied at once, which takes 5 to 13 ms with its pages in the system's cache: a vote may
/// be waiting. A longer one first loses rows until it is this short. It is longer if the log is configured to more than
/// six times this, or if the next segment was not empty.
const EMPTY_AT_ONCE_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// Rows that one transaction deletes from a segment that is not emptied.
const DELETE_AT_ONCE_MAX_ROWS: u64 = 1_000;

/// The contents of the tables. They are filled in turn: after the active one in the ring comes the oldest.
#[derive(Debug)]
pub(in crate::store) struct Segments {
    all: [Segment; LOG_TABLES.len()],
    /// The segment that is appended to.
    active: usize,
    /// Bytes after which the next one is begun.
    full_at: u64,
}

/// The entries `[first, end)`. If they have a gap, everything before it is purged.
#[derive(Debug, Clone, Copy, Default)]
struct Segment {
    first: u64,
    end: u64,
    bytes: u64,
}

impl Segment {
    fn is_empty(&self) -> bool {
        self.first == self.end
    }
}

impl Segments {
    /// Reads the contents of the tables, for a log of `log_bytes`.
    pub fn load(conn: &Connection, log_bytes: u64) -> Result<Segments> {
        let mut all = [Segment::default(); LOG_TABLES.len()];
        for (segment, table) in all.iter_mut().zip(LOG_TABLES) {
            if let Some((first, last)) = log_rows::ends(conn, table)? {
                let end = last + 1;
                *segment = Segment {
                    first,
                    end,
                    bytes: log_rows::stored_bytes(conn, table, first, end)?,
                };
            }
        }
        let mut segments = Segments {
            all,
            active: 0,
            full_at: (log_bytes / IN_USE).max(1),
        };
        segments.active = segments.newest().unwrap_or(0);
        Ok(segments)
    }

    /// Index of the oldest row, and of the newest plus one.
    pub fn ends(&self) -> Option<(u64, u64)> {
        let held = || self.all.iter().filter(|segment| !segment.is_empty());
        held()
            .map(|segment| segment.first)
            .min()
            .zip(held().map(|segment| segment.end).max())
    }

    /// Bytes of all rows.
    pub fn bytes(&self) -> u64 {
        self.all.iter().map(|segment| segment.bytes).sum()
    }

    /// The last entries of the full segments, ascending.
    pub fn last_entries(&self) -> Vec<u64> {
        let full = self
            .all
            .iter()
            .enumerate()
            .filter(|(at, segment)| *at != self.active && !segment.is_empty());
        let mut last: Vec<u64> = full.map(|(_, segment)| segment.end - 1).collect();
        last.sort_unstable();
        last
    }

    /// Appends rows that follow the last one. Returns their bytes, and whether they began another segment.
    pub fn append(&mut self, conn: &Connection, rows: &[LogRow]) -> Result<(u64, bool)> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return Ok((0, false));
        };
        let next = (self.active + 1) % LOG_TABLES.len();
        let Segment { end, bytes, .. } = self.all[self.active];
        // Also after a gap, which an installed snapshot filled: the rows before it are purged, to be emptied as a
        // whole.
        let full =
            bytes >= self.full_at || (!self.all[self.active].is_empty() && end != first.id.index);
        let begun = full && self.all[next].is_empty();
        if begun {
            self.active = next;
        }
        let bytes = log_rows::insert(conn, LOG_TABLES[self.active], rows)?;
        let active = &mut self.all[self.active];
        if active.is_empty() {
            active.first = first.id.index;
        }
        active.end = last.id.index + 1;
        active.bytes += bytes;
        Ok((bytes, begun))
    }

    /// Removes the entries from `end` on; returns their bytes.
    pub fn cut(&mut self, conn: &Connection, end: u64) -> Result<u64> {
        let mut removed = 0;
        for (segment, table) in self.all.iter_mut().zip(LOG_TABLES) {
            if segment.end <= end {
                continue;
            }
            if segment.first >= end {
                removed += empty(conn, segment, table)?;
            } else {
                let bytes = log_rows::stored_bytes(conn, table, end, segment.end)?;
                conn.prepare_cached(&format!("DELETE FROM {table} WHERE log_index >= ?1"))?
                    .execute([int(end)])?;
                *segment = Segment {
                    end,
                    bytes: segment.bytes - bytes,
                    ..*segment
                };
                removed += bytes;
            }
        }
        self.active = self.newest().unwrap_or(self.active);
        Ok(removed)
    }

    /// Removes some of the entries before `begin`, as many as one transaction may. Returns their bytes, or `None` if
    /// there are none.
    pub fn delete_before(&mut self, conn: &Connection, begin: u64) -> Result<Option<u64>> {
        let held = self
            .all
            .iter_mut()
            .zip(LOG_TABLES)
            .filter(|(segment, _)| !segment.is_empty());
        let Some((oldest, table)) = held.min_by_key(|(segment, _)| segment.first) else {
            return Ok(None);
        };
        if oldest.first >= begin {
            return Ok(None);
        }
        if oldest.end <= begin && oldest.bytes <= EMPTY_AT_ONCE_MAX_BYTES {
            return empty(conn, oldest, table).map(Some);
        }
        let to = begin
            .min(oldest.end)
            .min(oldest.first + DELETE_AT_ONCE_MAX_ROWS);
        let bytes = log_rows::stored_bytes(conn, table, oldest.first, to)?;
        conn.prepare_cached(&format!("DELETE FROM {table} WHERE log_index < ?1"))?
            .execute([int(to)])?;
        // Not `to`: behind it there may be a gap of millions of indexes.
        let first = log_rows::ends(conn, table)?.map_or(oldest.end, |(first, _)| first);
        *oldest = Segment {
            first,
            bytes: oldest.bytes - bytes,
            ..*oldest
        };
        Ok(Some(bytes))
    }

    fn newest(&self) -> Option<usize> {
        let held = self
            .all
            .iter()
            .enumerate()
            .filter(|(_, segment)| !segment.is_empty());
        held.max_by_key(|(_, segment)| segment.end)
            .map(|(at, _)| at)
    }
}

/// Empties a table. Without a WHERE, because SQLite would delete row by row with one.
fn empty(conn: &Connection, segment: &mut Segment, table: &str) -> Result<u64> {
    conn.prepare_cached(&format!("DELETE FROM {table}"))?
        .execute([])?;
    Ok(std::mem::take(segment).bytes)
}
