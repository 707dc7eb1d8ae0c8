//! openraft's log storage and log reader on the store. Decides nothing: order and durability are the writer's.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, Range, RangeBounds};

use futures_util::stream::{self, Stream, StreamExt};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{AsyncRuntime, LogState, OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use super::blocking::blocking;
use super::types::{
    Entry, RaftLogId, Types, Vote, entry_to_row, from_log_id, row_to_entry, store_failed,
    to_log_id, vote_from_json, vote_to_json,
};
use crate::entry::{LogPayload, LogRow};
use crate::store::{BoxedDone, Job, Store, StoreError};

/// Bytes of entries in one append to a follower; keeps a frame far below its limit, and short what a heartbeat's answer
/// waits for: the peer's disk must have what came before it.
pub(crate) const APPEND_BYTES: usize = 1024 * 1024;
/// Bytes of entries read at once from the file when a range isn't in the tail.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Entries read at once for apply.
const READ_ENTRIES: u64 = 2_000;

/// Log storage and reader; clones are the same log.
pub(crate) struct LogStore<R> {
    store: Store,
    runtime: PhantomData<fn() -> R>,
}

impl<R> Clone for LogStore<R> {
    fn clone(&self) -> Self {
        LogStore {
            store: self.store.clone(),
            runtime: PhantomData,
        }
    }
}

impl<R: AsyncRuntime> LogStore<R> {
    pub(crate) fn new(store: Store) -> Self {
        LogStore {
            store,
            runtime: PhantomData,
        }
    }

    /// Rows of `range` from its begin on, without a hole, perhaps fewer than asked for.
    async fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<LogRow>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(rows) = self.store.read_tail(range.clone()) {
            return Ok(rows);
        }
        let store = self.store.clone();
        blocking::<R, _, _>(move || store.read_log(range, max_bytes))
            .await?
            .map_err(store_failed)
    }

    /// All rows of `range` that there are.
    async fn read_all(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut start = range.start;
        while start < range.end {
            let rows = self.read(start..range.end, READ_BYTES).await?;
            let Some(last) = rows.last() else { break };
            start = last.id.index.saturating_add(1);
            for row in rows {
                entries.push(row_to_entry(row)?);
            }
        }
        Ok(entries)
    }

    /// An open range ends with the log.
    async fn bounds(&self, range: &impl RangeBounds<u64>) -> io::Result<Range<u64>> {
        let start = match range.start_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(i) => i.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(i) => i.saturating_add(1),
            Bound::Excluded(i) => *i,
            Bound::Unbounded => {
                let store = self.store.clone();
                let state = blocking::<R, _, _>(move || store.raft_state())
                    .await?
                    .map_err(store_failed)?;
                state.last.map_or(0, |id| id.index.saturating_add(1))
            }
        };
        Ok(start..end.max(start))
    }
}

/// A `done` that resolves a receiver.
pub(crate) fn acknowledged() -> (BoxedDone<()>, oneshot::Receiver<Result<(), StoreError>>) {
    let (tx, rx) = oneshot::channel();
    let done = Box::new(move |result| {
        // Nobody waits any more when Raft was shut down meanwhile.
        let _ = tx.send(result);
    });
    (done, rx)
}

/// Waits for an acknowledgement.
pub(crate) async fn durable(rx: oneshot::Receiver<Result<(), StoreError>>) -> io::Result<()> {
    match rx.await {
        Ok(result) => result.map_err(store_failed),
        Err(_) => Err(store_failed(StoreError::Closed)),
    }
}

/// Roughly what an entry adds to a frame.
fn row_bytes(row: &LogRow) -> usize {
    use crate::change::Change;
    const FIXED: usize = 128;
    FIXED
        + match &row.payload {
            LogPayload::Blank => 0,
            LogPayload::Membership(json) => json.len(),
            LogPayload::Change(envelope) => match &envelope.body {
                Change::Send { to, body, key, .. } => to.len() + body.len() + key.len(),
                _ => 256,
            },
        }
}

impl<R: AsyncRuntime> RaftLogReader<Types<R>> for LogStore<R> {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // Copied out before the await: the bound does not promise `Sync`.
        let (start, end) = (range.start_bound().cloned(), range.end_bound().cloned());
        let range = self.bounds(&(start, end)).await?;
        self.read_all(range).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let rows = self.read(start..end, APPEND_BYTES).await?;
        let mut bytes = 0;
        let fits = |row: &LogRow| {
            let first = bytes == 0;
            bytes += row_bytes(row);
            first || bytes <= APPEND_BYTES
        };
        rows.into_iter()
            .take_while(fits)
            .map(row_to_entry)
            .collect()
    }

    /// In chunks: a node that was away applies hundreds of thousands of entries at a stretch.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = (range.start_bound().cloned(), range.end_bound().cloned());
        let bounds = self.bounds(&(start, end)).await;
        let reader = self.clone();
        let chunks = stream::unfold(Some(bounds), move |state| {
            let reader = reader.clone();
            async move {
                let range = match state? {
                    Ok(range) if range.is_empty() => return None,
                    Ok(range) => range,
                    Err(error) => return Some((vec![Err(error)], None)),
                };
                let end = range.end.min(range.start.saturating_add(READ_ENTRIES));
                match reader.read_all(range.start..end).await {
                    Ok(entries) => {
                        let next = entries
                            .last()
                            .map(|entry| Ok(entry.log_id.index.saturating_add(1)..range.end));
                        Some((entries.into_iter().map(Ok).collect(), next))
                    }
                    Err(error) => Some((vec![Err(error)], None)),
                }
            }
        });
        Box::pin(chunks.flat_map(stream::iter))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.store
            .vote()
            .map(|json| vote_from_json(&json))
            .transpose()
    }
}

impl<R: AsyncRuntime> RaftLogStorage<Types<R>> for LogStore<R> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types<R>>, io::Error> {
        let store = self.store.clone();
        let state = blocking::<R, _, _>(move || store.raft_state())
            .await?
            .map_err(store_failed)?;
        let last = state.last.or(state.purged);
        Ok(LogState {
            last_purged_log_id: state.purged.map(from_log_id),
            last_log_id: last.map(from_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, rx) = acknowledged();
        let job = Job::SaveVote {
            vote: vote_to_json(vote),
            done,
        };
        self.store.submit(job).await.map_err(store_failed)?;
        durable(rx).await
    }

    /// Returns once the rows are readable; `callback` comes after the fsync.
    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<Types<R>>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let rows: Vec<LogRow> = entries.into_iter().map(entry_to_row).collect();
        let done: BoxedDone<()> =
            Box::new(move |result| callback.io_completed(result.map_err(store_failed)));
        if rows.is_empty() {
            done(Ok(()));
            return Ok(());
        }
        self.store.append(rows, done).await.map_err(store_failed)
    }

    /// Returns once readers see it: the core awaits this, and whatever it writes next is queued behind it.
    async fn truncate_after(&mut self, last_log_id: Option<RaftLogId>) -> Result<(), io::Error> {
        let done = logged("cut the change log");
        self.store
            .truncate(last_log_id.map(|id| id.index), done)
            .await
            .map_err(store_failed)
    }

    /// Returns once readers see it; a purge that a crash loses is repeated.
    async fn purge(&mut self, log_id: RaftLogId) -> Result<(), io::Error> {
        let done = logged("purge the change log");
        self.store
            .purge(to_log_id(log_id), done)
            .await
            .map_err(store_failed)
    }
}

/// Nobody waits for it: a failure of the writer is final and stops the node anyway.
fn logged(what: &'static str) -> BoxedDone<()> {
    Box::new(move |result| {
        if let Err(error) = result {
            tracing::error!(%error, "failed to {what}");
        }
    })
}
