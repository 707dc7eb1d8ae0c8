//! The only writing connection, and the order in which jobs are carried out.
//!
//! A step takes all jobs that wait. Log jobs go first, in their order, in one durable transaction, which carries some
//! of the waiting applies too (piggybacked). Then comes one piece of other work. The kinds take turns: the state (at
//! most `APPLY_ROWS_MAX` applied rows, or one chunk of a snapshot install), the index of messages, cleaning up. Before
//! each piece the writer takes new jobs, so that a vote never waits for more than one piece (and rarely for the end of
//! a checkpoint). It also does before it chooses applies to piggyback: a follower's apply is submitted just behind its
//! append.
//!
//! Applies may come after log jobs that were submitted later, but never before ones that were submitted earlier. While
//! a snapshot is being installed, log jobs that are valid only after it wait for it (`log`).

mod apply;
mod checkpoint;
mod db;
mod foreign_lock;
mod install;
mod log;
mod merge;
mod segments;

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

pub(super) use db::Db;
pub(super) use segments::Segments;

use self::apply::Applying;
use self::install::{Cleanup, Install};
use super::api::fatal;
use super::inner::StoreInner;
use super::{ApplyItem, BoxedDone, EffectSink, Job, SnapshotFile, StoreError};
use crate::state::Machine;
use crate::state::index::Merge;

/// Bytes of entries after which a transaction applies no further one.
const APPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Rows after which a log transaction takes no further job.
const LOG_ROWS_MAX: usize = 4_096;
/// Jobs that are accepted and not done; with more, jobs wait in the queue.
const TAKEN_MAX: usize = 2_048;

/// Where the log on disk begins and ends (exclusive).
#[derive(Debug, Clone, Copy)]
pub(super) struct LogBounds {
    pub begin: u64,
    pub end: u64,
    /// Whether anything was ever purged. Until then an empty log may begin anywhere.
    pub purged: bool,
    /// Whether rows before `begin` still wait to be deleted.
    pub garbage: bool,
}

/// The kinds of work, in the order of their turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// All log jobs that are valid now, in one durable transaction.
    Log,
    /// Some applies, or a chunk of a snapshot install.
    State,
    /// A chunk of the message index.
    Merge,
    /// A chunk of deletions that nobody waits for.
    Cleanup,
}

impl Piece {
    /// One round.
    pub const ALL: [Piece; 4] = [Piece::Log, Piece::State, Piece::Merge, Piece::Cleanup];
}

/// Work on the state, carried out in order.
enum StateJob {
    Apply {
        items: VecDeque<ApplyItem>,
        done: BoxedDone<()>,
    },
    Install {
        file: SnapshotFile,
        done: BoxedDone<()>,
    },
}

/// Owns the only writing connection.
pub struct Writer {
    shared: Arc<StoreInner>,
    jobs: mpsc::Receiver<Job>,
    effects: Arc<dyn EffectSink>,
    db: Db,
    disk: LogBounds,
    segments: Segments,
    log: VecDeque<Job>,
    state: VecDeque<StateJob>,
    install: Option<Install>,
    cleanup: VecDeque<Cleanup>,
    merge: Option<Merge>,
    /// The merge continues when the memtable has received this many messages.
    next_merge: u64,
    machine: Machine,
    /// Acknowledgements of the log jobs in the open transaction.
    unacknowledged: Vec<BoxedDone<()>>,
    /// What the open transaction applied.
    applying: Applying,
    observer: Option<Observer>,
}

/// Sees each job that the writer accepts, and may replace it.
pub type Observer = Box<dyn FnMut(Job) -> Job + Send>;

impl Writer {
    pub(super) fn new(
        shared: Arc<StoreInner>,
        jobs: mpsc::Receiver<Job>,
        db: Db,
        disk: (LogBounds, Segments),
        effects: Arc<dyn EffectSink>,
    ) -> Writer {
        let (disk, segments) = disk;
        let machine = Machine::new(shared.readers.memtable().clone());
        Writer {
            shared,
            jobs,
            effects,
            db,
            disk,
            segments,
            log: VecDeque::new(),
            state: VecDeque::new(),
            install: None,
            cleanup: VecDeque::new(),
            merge: None,
            next_merge: 0,
            machine,
            unacknowledged: Vec::new(),
            applying: Applying::default(),
            observer: None,
        }
    }

    /// Sets the observer. The simulation learns from the jobs what must be on disk.
    pub fn observe(&mut self, observer: Observer) {
        self.observer = Some(observer);
    }

    /// Waits for the next job; `None` once all handles are gone. For the simulation, which carries out the parts of
    /// [`Writer::step`] one by one: [`Writer::accept`], [`Writer::piece`] and [`Writer::checkpoint`].
    pub async fn recv(&mut self) -> Option<Job> {
        self.jobs.recv().await
    }

    /// The next job, if one waits and may be accepted now.
    pub fn try_recv(&mut self) -> Option<Job> {
        if self.log.len() + self.state.len() < TAKEN_MAX {
            self.jobs.try_recv().ok()
        } else {
            None
        }
    }

    /// Accepts a job, without beginning it.
    ///
    /// # Errors
    /// After a final error, with which the job is acknowledged.
    pub fn accept(&mut self, job: Job) -> Result<(), StoreError> {
        if let Some(error) = self.shared.fatal.get().cloned() {
            job.fail(&error);
            return Err(error);
        }
        self.take(job);
        Ok(())
    }

    /// Carries out one piece of the accepted jobs, at most one transaction. False if there is none of its kind.
    ///
    /// # Errors
    /// Final: nothing more is done or acknowledged.
    pub fn piece(&mut self, piece: Piece) -> Result<bool, StoreError> {
        let worked = match piece {
            Piece::Log => self.log_piece(),
            Piece::State => self.state_piece(),
            Piece::Merge => self.merge_piece(),
            Piece::Cleanup => self.cleanup_piece(),
        };
        worked.inspect_err(|error| self.abort(error))
    }

    /// Makes a checkpoint if one is due, or has it made. `idle`: no job waits.
    ///
    /// # Errors
    /// Final, as those of [`Writer::piece`].
    pub fn checkpoint(&mut self, idle: bool) -> Result<(), StoreError> {
        let copied = self
            .db
            .checkpoint(idle)
            .map_err(|e| fatal("copy the write-ahead log into the file", e));
        copied.inspect_err(|error| self.abort(error))
    }

    /// Frames in the WAL after the last COMMIT.
    #[cfg(test)]
    pub(super) fn wal_frames(&self) -> u32 {
        self.db.frames()
    }

    /// Carries out `first` and all jobs that wait behind it.
    ///
    /// # Errors
    /// As those of [`Writer::piece`].
    pub fn step(&mut self, first: Job) -> Result<(), StoreError> {
        self.accept(first)?;
        self.work()
    }

    /// Steps until all handles are gone (`Ok`) or a final error.
    pub fn run(mut self) -> Result<(), StoreError> {
        if let Err(error) = self.db.checkpoint_in_background(&self.shared.file) {
            tracing::warn!(
                error,
                "failed to start a thread for checkpoints; the writer makes them itself"
            );
        }
        while let Some(job) = self.jobs.blocking_recv() {
            self.step(job)?;
        }
        let ended = self
            .db
            .end()
            .map_err(|e| fatal("copy the write-ahead log into the file", e));
        ended.inspect_err(|error| self.abort(error))
    }

    fn work(&mut self) -> Result<(), StoreError> {
        loop {
            let mut worked = false;
            for piece in [Piece::State, Piece::Merge, Piece::Cleanup] {
                while let Some(job) = self.try_recv() {
                    self.take(job);
                    // Its kind may have had its turn in this round, so there must be another one.
                    worked = true;
                }
                worked |= self.piece(Piece::Log)?;
                // Before each piece, so that one transaction at most exceeds the WAL's bound.
                self.checkpoint(false)?;
                worked |= self.piece(piece)?;
            }
            self.checkpoint(!worked)?;
            if !worked {
                return Ok(());
            }
        }
    }

    fn take(&mut self, job: Job) {
        let job = match &mut self.observer {
            Some(observer) => observer(job),
            None => job,
        };
        match job {
            Job::Apply { items, done } => self.state.push_back(StateJob::Apply {
                items: items.into(),
                done,
            }),
            Job::InstallSnapshot { file, done } => {
                self.state.push_back(StateJob::Install { file, done })
            }
            log => self.log.push_back(log),
        }
    }

    fn state_piece(&mut self) -> Result<bool, StoreError> {
        if self.install.is_some() {
            return self.install_piece().map(|()| true);
        }
        match self.state.front() {
            None => Ok(false),
            Some(StateJob::Apply { .. }) => self.apply_piece().map(|()| true),
            // The last install's old tables still have the names that this one needs.
            Some(StateJob::Install { .. }) if !self.cleanup.is_empty() => Ok(true),
            Some(StateJob::Install { .. }) => self.begin_install().map(|()| true),
        }
    }

    fn installing(&self) -> bool {
        self.install.is_some()
            || self
                .state
                .iter()
                .any(|job| matches!(job, StateJob::Install { .. }))
    }

    /// After COMMIT: acknowledges the log jobs.
    fn acknowledge(&mut self) {
        for done in self.unacknowledged.drain(..) {
            done(Ok(()));
        }
    }

    /// After a final error: all jobs fail with it, and nothing is acknowledged any more.
    fn abort(&mut self, error: &StoreError) {
        tracing::error!(%error, "the store failed; this node acknowledges nothing more");
        // It can't be set already: only the writer sets it, once.
        let _ = self.shared.fatal.set(error.clone());
        self.db.roll_back();
        self.fail_all(error);
    }

    fn fail_all(&mut self, error: &StoreError) {
        self.jobs.close();
        for done in self
            .unacknowledged
            .drain(..)
            .chain(self.applying.finished.drain(..))
        {
            done(Err(error.clone()));
        }
        if let Some(install) = self.install.take() {
            (install.done)(Err(error.clone()));
        }
        for job in self.log.drain(..) {
            job.fail(error);
        }
        for job in self.state.drain(..) {
            match job {
                StateJob::Apply { done, .. } | StateJob::Install { done, .. } => {
                    done(Err(error.clone()))
                }
            }
        }
        while let Ok(job) = self.jobs.try_recv() {
            job.fail(error);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.fail_all(&StoreError::Closed);
    }
}

/// Runs the writer on a thread of its own; `on_fatal` is called on it after a final error.
pub fn spawn_writer(
    writer: Writer,
    on_fatal: impl FnOnce(StoreError) + Send + 'static,
) -> JoinHandle<()> {
    let run = move || {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.run()));
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => on_fatal(error),
            // The unwinding dropped the writer, which failed all jobs. Without this call the node would go on without
            // answering.
            Err(_) => on_fatal(StoreError::Fatal("the writer panicked".into())),
        }
    };
    #[allow(clippy::expect_used, reason = "proven")]
    // Proof: made at the node's start, and there is no node without this thread.
    std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(run)
        .expect("a thread can be started")
}
