//! The end of the log in memory, and the log as readers see it: an appended entry is readable before it is on disk, a
//! truncated one is gone before it is deleted there.
//!
//! **Invariant:** entries of `[begin, end - rows.len())` are on disk and current; an entry that is not yet durable is
//! always in `rows`.

use std::collections::VecDeque;
use std::ops::Range;

use super::log_rows::memory_bytes;
use crate::entry::{LogId, LogRow};

/// Beyond this, durable entries are dropped from memory. Entries that are not durable stay; Raft bounds how many are in
/// flight.
const TAIL_BYTES: usize = 8 * 1024 * 1024;

struct TailRow {
    row: LogRow,
    /// Number of the append that brought it.
    append: u64,
    bytes: usize,
}

/// The log as readers see it.
pub(super) struct Tail {
    rows: VecDeque<TailRow>,
    bytes: usize,
    begin: u64,
    end: u64,
    purged: Option<LogId>,
    /// Appends submitted and appends made durable. They are counted, because an index can be appended again after a
    /// cut: an append becomes durable, not an index.
    submitted: u64,
    durable: u64,
    /// Grows with every cut. A reader compares it, to notice that its rows from disk and from memory do not belong
    /// together.
    epoch: u64,
}

/// Where the rows of a range are.
pub(super) struct ReadPlan {
    /// Read these from disk first.
    pub disk: Range<u64>,
    /// These follow, from memory.
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

    /// The last entry: its id, or only its index when the id has to be read from disk.
    pub fn last(&self) -> Option<Result<LogId, u64>> {
        match self.rows.back() {
            Some(last) => Some(Ok(last.row.id)),
            None if self.end > self.begin => Some(Err(self.end - 1)),
            None => None,
        }
    }

    /// Makes the rows, which are consecutive, readable.
    pub fn append(&mut self, rows: &[LogRow]) {
        self.submitted += 1;
        let Some(first) = rows.first().map(|row| row.id.index) else {
            return;
        };
        if first < self.end {
            self.cut(first);
        }
        if first > self.end {
            // Either an empty log begins here, or a snapshot that fills the hole is being installed.
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

    /// To be called when one more append is on disk.
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

    /// To be called when a snapshot replaced the log through `last`. The durable entries behind it stay only if they
    /// continue from `last`.
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

    /// Where to read `range`.
    pub fn plan(&self, range: &Range<u64>) -> ReadPlan {
        let from = range.start.max(self.begin);
        let to = range.end.min(self.end);
        let in_memory = self.end - self.rows.len() as u64;
        let skip = usize::try_from(from.saturating_sub(in_memory)).unwrap_or(usize::MAX);
        let take = usize::try_from(to.saturating_sub(from.max(in_memory))).unwrap_or(usize::MAX);
        ReadPlan {
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
