//! Log jobs: vote, append, truncate, purge, identity. They are carried out in order, many in one transaction, and
//! acknowledged after COMMIT.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::install::Cleanup;
use super::{LOG_ROWS_MAX, StateJob, Writer};
use crate::entry::{LogId, LogRow};
use crate::state::integers::int;
use crate::store::api::fatal;
use crate::store::{Identity, Job, StoreError};

/// Jobs that are held for a snapshot that was not submitted yet. If more come before it, no snapshot is on its way.
const HELD_MAX: usize = 1_024;

/// Values to publish when the transaction is committed.
#[derive(Default)]
struct Published {
    vote: Option<String>,
    identity: Option<Identity>,
    appends: u32,
}

impl Writer {
    /// Carries out the log jobs that wait; false if there are none.
    pub(super) fn log_piece(&mut self) -> Result<bool, StoreError> {
        let run = self.take_valid_jobs().map_err(write_failed)?;
        if run.is_empty() {
            return Ok(false);
        }
        // A lost purge is repeated; everything else is promised by its acknowledgement.
        let durable = run.iter().any(|job| !matches!(job, Job::Purge { .. }));
        let mut published = Published::default();
        let result = self.log_transaction(run, durable, &mut published);
        result.map_err(write_failed)?;
        self.shared
            .log
            .synced_commits
            .fetch_add(u64::from(durable), Ordering::Relaxed);
        self.publish(published);
        self.acknowledge();
        self.publish_applied();
        Ok(true)
    }

    /// Takes the jobs for one transaction. An append that does not continue the log is held until the snapshot before
    /// it is installed; so is a purge of entries that are not applied. All jobs behind them are held too, but for votes
    /// and identities. Without that, a crash before the switch would leave a log with a hole, or a purged log without
    /// its state. The append may even come before the snapshot is submitted, because another task of Raft does that.
    fn take_valid_jobs(&mut self) -> Result<Vec<Job>, LogError> {
        let installing = self.installing();
        let applied = *self.shared.applied.borrow();
        let mut end = self.disk.end;
        let mut run = Vec::new();
        let mut kept = VecDeque::new();
        let mut hole = None;
        // A log that never held anything may begin anywhere.
        let mut begun = self.disk.purged || self.disk.end > self.disk.begin;
        let mut count = 0;
        while count < LOG_ROWS_MAX
            && let Some(job) = self.log.pop_front()
        {
            let holding = !kept.is_empty();
            let hold = match &job {
                Job::Append { rows, .. } => {
                    let first = rows
                        .first()
                        .map(|first| first.id.index)
                        .filter(|first| *first > end);
                    let first = first.filter(|_| installing || begun);
                    hole = hole.or(first.filter(|_| !holding));
                    holding || first.is_some()
                }
                Job::Purge { through, .. } => {
                    holding
                        || (installing
                            && applied.is_none_or(|applied| through.index > applied.index))
                }
                Job::Truncate { .. } => holding,
                _ => false,
            };
            if hold {
                kept.push_back(job);
                continue;
            }
            match &job {
                Job::Append { rows, .. } => {
                    end = rows.last().map_or(end, |last| last.id.index + 1);
                    begun = true;
                    count += rows.len();
                }
                Job::Truncate { keep_through, .. } => {
                    end = end
                        .min(keep_through.map_or(0, |index| index + 1))
                        .max(self.disk.begin);
                }
                Job::Purge { through, .. } => end = end.max(through.index + 1),
                _ => {}
            }
            run.push(job);
        }
        let held = kept.len();
        kept.append(&mut self.log);
        self.log = kept;
        if let Some(first) =
            hole.filter(|first| !installing && (held > HELD_MAX || self.applies_from(*first)))
        {
            // Back into the queue, so that all of them fail with the error.
            self.log.extend(run);
            return Err(LogError::Hole { end, first });
        }
        Ok(run)
    }

    /// Whether an apply of an entry from `first` on waits. Raft submits one only after the snapshot before it.
    fn applies_from(&self, first: u64) -> bool {
        self.state.iter().any(|job| match job {
            StateJob::Apply { items, .. } => {
                items.back().is_some_and(|last| last.row.id.index >= first)
            }
            StateJob::Install { .. } => false,
        })
    }

    fn log_transaction(
        &mut self,
        run: Vec<Job>,
        durable: bool,
        published: &mut Published,
    ) -> Result<(), LogError> {
        // All acknowledgements first, so that all jobs are told if the first one fails.
        let mut writes = Vec::with_capacity(run.len());
        for job in run {
            let (write, done) = split(job);
            self.unacknowledged.push(done);
            writes.push(write);
        }
        self.db.begin(durable)?;
        let mut changed = false;
        for write in writes {
            match write {
                LogWrite::Vote(vote) => {
                    self.db
                        .conn
                        .prepare_cached("UPDATE node SET vote = ?1")?
                        .execute([&vote])?;
                    published.vote = Some(vote);
                }
                LogWrite::Identity(identity) => {
                    self.save_identity(&identity)?;
                    published.identity = Some(identity);
                }
                LogWrite::Local(write) => write(&self.db.conn)?,
                LogWrite::Append(rows) => {
                    self.append(&rows)?;
                    changed |= !rows.is_empty();
                    published.appends += 1;
                }
                LogWrite::Truncate(keep_through) => {
                    self.cut(keep_through.map_or(0, |index| index + 1))?
                }
                LogWrite::Purge(through) => self.purge(through)?,
            }
        }
        if durable && !changed {
            self.db.dirty_page()?;
        }
        // A vote must not wait for applies.
        if published.appends > 0 && published.vote.is_none() {
            self.piggyback_applies().map_err(LogError::Apply)?;
        }
        Ok(self.db.commit()?)
    }

    fn save_identity(&self, identity: &Identity) -> rusqlite::Result<()> {
        let founders = serde_json::to_string(&identity.founders)
            .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        self.db
            .conn
            .execute(
                "UPDATE node SET cluster_id = ?1, raft_id = ?2, founders = ?3",
                (&identity.cluster_id, int(identity.raft_id), founders),
            )
            .map(drop)
    }

    fn append(&mut self, rows: &[LogRow]) -> Result<(), LogError> {
        let Some(first) = rows.first().map(|row| row.id.index) else {
            return Ok(());
        };
        let disk = &mut self.disk;
        if first > disk.end && (disk.purged || disk.end > disk.begin) {
            return Err(LogError::Hole {
                end: disk.end,
                first,
            });
        }
        if disk.begin == disk.end {
            disk.begin = first;
        }
        if first < self.disk.end {
            self.cut(first)?;
        }
        let (bytes, begun) = self.segments.append(&self.db.conn, rows)?;
        self.disk.end = rows.last().map_or(first, |last| last.id.index + 1);
        self.shared.log.bytes.fetch_add(bytes, Ordering::Relaxed);
        if begun {
            self.publish_segments();
        }
        Ok(())
    }

    /// Removes the entries from `end` on.
    pub(super) fn cut(&mut self, end: u64) -> rusqlite::Result<()> {
        let end = end.max(self.disk.begin);
        if end >= self.disk.end {
            return Ok(());
        }
        let bytes = self.segments.cut(&self.db.conn, end)?;
        self.shared.log.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.disk.end = end;
        self.publish_segments();
        Ok(())
    }

    /// Publishes the ends of the full segments, which the next purge aims at.
    pub(super) fn publish_segments(&self) {
        *self.shared.log.segments.lock() = self.segments.last_entries();
    }

    /// Moves the log's beginning. The rows before it are deleted later, in capped transactions, because a vote may
    /// wait.
    pub(super) fn purge(&mut self, through: LogId) -> rusqlite::Result<()> {
        let begin = through.index + 1;
        if self.disk.purged && begin <= self.disk.begin {
            return Ok(());
        }
        self.db
            .conn
            .prepare_cached(
                "UPDATE node SET purged_term = ?1, purged_leader = ?2, purged_index = ?3",
            )?
            .execute((int(through.term), int(through.leader), int(through.index)))?;
        let disk = &mut self.disk;
        *disk = super::LogBounds {
            begin: disk.begin.max(begin),
            end: disk.end.max(begin),
            purged: true,
            garbage: true,
        };
        self.shared.log.purging.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn publish(&mut self, published: Published) {
        if let Some(vote) = published.vote {
            *self.shared.vote.lock() = Some(vote);
        }
        if let Some(identity) = published.identity {
            *self.shared.identity.lock() = Some(identity);
        }
        let mut tail = self.shared.log.tail.lock();
        for _ in 0..published.appends {
            tail.appended();
        }
        drop(tail);
        if self.disk.garbage && !self.cleanup.contains(&Cleanup::PurgedRows) {
            self.cleanup.push_back(Cleanup::PurgedRows);
        }
    }
}

/// A log job without its acknowledgement.
enum LogWrite {
    Vote(String),
    Identity(Identity),
    Local(crate::store::LocalWrite),
    Append(Vec<LogRow>),
    Truncate(Option<u64>),
    Purge(LogId),
}

fn split(job: Job) -> (LogWrite, crate::store::BoxedDone<()>) {
    match job {
        Job::SaveVote { vote, done } => (LogWrite::Vote(vote), done),
        Job::SaveIdentity { identity, done } => (LogWrite::Identity(identity), done),
        Job::Local { write, done } => (LogWrite::Local(write), done),
        Job::Append { rows, done } => (LogWrite::Append(rows), done),
        Job::Truncate { keep_through, done } => (LogWrite::Truncate(keep_through), done),
        Job::Purge { through, done } => (LogWrite::Purge(through), done),
        // `Writer::take` puts these into the other queue.
        Job::Apply { .. } | Job::InstallSnapshot { .. } => unreachable!("no log job"),
    }
}

enum LogError {
    Sqlite(rusqlite::Error),
    Apply(StoreError),
    Hole { end: u64, first: u64 },
}

fn write_failed(error: LogError) -> StoreError {
    match error {
        LogError::Sqlite(e) => fatal("write the log", e),
        LogError::Apply(error) => error,
        LogError::Hole { end, first } => fatal(
            "append to the log",
            format!("entry {first} would leave a hole after {end} entries"),
        ),
    }
}

impl From<rusqlite::Error> for LogError {
    fn from(error: rusqlite::Error) -> Self {
        LogError::Sqlite(error)
    }
}
