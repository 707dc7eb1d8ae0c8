//! The end of the log in memory, and what the log looks like to readers: an appended entry is readable before it is
//! on disk, a truncated one is gone before it is deleted there.
//!
//! **Invariant:** entries of `[begin, end - rows.len())` are on disk and current; an entry that is not yet durable is
//! always in `rows`.

use std::collections::VecDeque;
use std::ops::Range;

use super::rows::memory_bytes;
use crate::entry::{LogId, LogRow};

/// Durable entries are dropped from memory beyond this; entries that are not durable stay, bounded by what Raft has
/// in flight.
const TAIL_BYTES: usize = 8 * 1024 * 1024;

struct TailRow {
    row: LogRow,
    /// Which append brought it.
    append: u64,
    bytes: usize,
}

/// See the file.
pub(super) struct Tail {
    rows: VecDeque<TailRow>,
    bytes: usize,
    begin: u64,
    end: u64,
    purged: Option<LogId>,
    /// Appends submitted and appends made durable. Counted, because an index can be appended again after a cut: being
    /// durable belongs to the append, not to the index.
    submitted: u64,
    durable: u64,
    /// Moves with every cut, so that a reader notices that what it read from disk and from here is not of one piece.
    epoch: u64,
}

/// Where a range is to be found.
pub(super) struct Plan {
    /// To be read from disk first.
    pub disk: Range<u64>,
    /// Then these.
    pub rows: Vec<LogRow>,
    pub epoch: u64,
}

impl Tail {
    pub fn new(begin: u64, end: u64, purged: Option<LogId>) -> Tail {
        Tail {
            rows: VecDeque::new(),
            bytes: 0,
            begin,
            end,
            purged,
            submitted: 0,
            durable: 0,
            epoch: 0,
        }
    }

    pub fn begin(&self) -> u64 {
        self.begin
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The last entry: its id, or its index when it has to be looked up on disk.
    pub fn last(&self) -> Option<Result<LogId, u64>> {
        match self.rows.back() {
            Some(last) => Some(Ok(last.row.id)),
            None if self.end > self.begin => Some(Err(self.end - 1)),
            None => None,
        }
    }

    /// Makes the rows readable. They are consecutive.
    pub fn append(&mut self, rows: &[LogRow]) {
        self.submitted += 1;
        let Some(first) = rows.first().map(|row| row.id.index) else {
            return;
        };
        if first < self.end {
            self.cut(first);
        }
        if first > self.end {
            // An empty log begins here, or a snapshot that fills the hole is being installed.
            self.rows.clear();
            self.bytes = 0;
            self.begin = first;
            self.epoch += 1;
        } else if self.begin == self.end {
            self.begin = first;
        }
        for row in rows {
            let bytes = memory_bytes(row);
            self.bytes += bytes;
            self.end = row.id.index + 1;
            self.rows.push_back(TailRow {
                row: row.clone(),
                append: self.submitted,
                bytes,
            });
        }
    }

    /// Removes the entries from `end` on.
    pub fn cut(&mut self, end: u64) {
        while self
            .rows
            .back()
            .is_some_and(|last| last.row.id.index >= end)
        {
            self.bytes -= self.rows.pop_back().map_or(0, |row| row.bytes);
        }
        self.end = self.end.min(end.max(self.begin));
        self.epoch += 1;
    }

    /// Removes the entries up to `through`.
    pub fn purge(&mut self, through: LogId) {
        let begin = through.index + 1;
        if begin <= self.begin && self.purged.is_some() {
            return;
        }
        while self
            .rows
            .front()
            .is_some_and(|first| first.row.id.index < begin)
        {
            self.bytes -= self.rows.pop_front().map_or(0, |row| row.bytes);
        }
        self.begin = self.begin.max(begin);
        self.end = self.end.max(self.begin);
        self.purged = Some(through);
    }

    /// One more append is on disk.
    pub fn appended(&mut self) {
        self.durable += 1;
        while self.bytes > TAIL_BYTES
            && self
                .rows
                .front()
                .is_some_and(|first| first.append <= self.durable)
        {
            self.bytes -= self.rows.pop_front().map_or(0, |row| row.bytes);
        }
    }

    /// A snapshot replaced the log up to `last`; what was durable behind it stays only if it goes on from there.
    pub fn installed(&mut self, last: LogId, keep_behind: bool) {
        if !keep_behind {
            while self
                .rows
                .front()
                .is_some_and(|first| first.append <= self.durable)
            {
                self.bytes -= self.rows.pop_front().map_or(0, |row| row.bytes);
            }
            self.epoch += 1;
            if self.rows.is_empty() {
                self.end = last.index + 1;
            }
        }
        self.purge(last);
    }

    /// What to read for `range`.
    pub fn plan(&self, range: &Range<u64>) -> Plan {
        let from = range.start.max(self.begin);
        let to = range.end.min(self.end);
        let in_memory = self.end - self.rows.len() as u64;
        let skip = usize::try_from(from.saturating_sub(in_memory)).unwrap_or(usize::MAX);
        let take = usize::try_from(to.saturating_sub(from.max(in_memory))).unwrap_or(usize::MAX);
        Plan {
            disk: from..to.min(in_memory).max(from),
            rows: self
                .rows
                .iter()
                .skip(skip)
                .take(take)
                .map(|tail| tail.row.clone())
                .collect(),
            epoch: self.epoch,
        }
    }
}
