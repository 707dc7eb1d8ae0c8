//! The only writing connection, and the order in which jobs are carried out.
//!
//! A step takes everything that waits. Log jobs go first, in their order, in one durable transaction, in which some of
//! the applies that wait ride along. Then comes one piece of other work: on the state (at most `APPLY_ROWS_MAX` applied
//! rows, or one chunk of a snapshot install), on the index of messages, or of cleaning up, in turn; before each it looks
//! for new jobs again, so that a vote never waits for more than one of them (and now and then for the end of a checkpoint).
//! So it does before riders are chosen: what an append brought a follower to apply is submitted just behind it.
//!
//! Applies may come after log jobs that were submitted later, never before ones that were submitted earlier. While a
//! snapshot is being installed, log jobs that make sense only behind it are held until it is (`log`).

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

/// Bytes of entries that one transaction applies before it takes no more.
const APPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Rows after which a log transaction takes no further job.
const LOG_ROWS_MAX: usize = 4_096;
/// Jobs taken over and not done yet; beyond it they wait in the queue.
const TAKEN_MAX: usize = 2_048;

/// Where the log on disk begins and ends (exclusive).
#[derive(Debug, Clone, Copy)]
pub(super) struct LogBounds {
    pub begin: u64,
    pub end: u64,
    /// Whether anything was ever purged: until then an empty log may begin anywhere.
    pub purged: bool,
    /// Rows before `begin` are still to be deleted.
    pub garbage: bool,
}

/// The kinds of work, in the order in which the writer comes by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// All log jobs that may go, in one durable transaction.
    Log,
    /// Some applies, or a chunk of a snapshot install.
    State,
    /// A chunk of the message index, to be written or read again.
    Merge,
    /// A chunk of what nobody waits for.
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
    /// When the memtable has been given so many messages, the merge goes on.
    next_merge: u64,
    machine: Machine,
    /// Of log jobs inside the open transaction.
    unacknowledged: Vec<BoxedDone<()>>,
    /// What the open transaction has applied.
    applying: Applying,
    observer: Option<Observer>,
}

/// Sees each job that the writer takes over, and may replace it.
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

    /// From now on `observer` sees the jobs. For the simulation, which knows from them what must be on disk.
    pub fn observe(&mut self, observer: Observer) {
        self.observer = Some(observer);
    }

    /// Waits for the next job; `None` once all handles are gone. For the simulation, which then does in pieces what
    /// [`Writer::step`] does at once: [`Writer::accept`], [`Writer::piece`] and [`Writer::checkpoint`].
    pub async fn recv(&mut self) -> Option<Job> {
        self.jobs.recv().await
    }

    /// The next job if one waits and may be taken over now.
    pub fn try_recv(&mut self) -> Option<Job> {
        if self.log.len() + self.state.len() < TAKEN_MAX {
            self.jobs.try_recv().ok()
        } else {
            None
        }
    }

    /// Takes a job over, without beginning it.
    ///
    /// # Errors
    /// After a final error; the job is told.
    pub fn accept(&mut self, job: Job) -> Result<(), StoreError> {
        if let Some(error) = self.shared.fatal.get().cloned() {
            job.fail(&error);
            return Err(error);
        }
        self.take(job);
        Ok(())
    }

    /// Carries out one piece of what was taken over, at most one transaction; false if there is none of its kind.
    /// After an error nothing more is done or acknowledged.
    pub fn piece(&mut self, piece: Piece) -> Result<bool, StoreError> {
        let worked = match piece {
            Piece::Log => self.log_piece(),
            Piece::State => self.state_piece(),
            Piece::Merge => self.merge_piece(),
            Piece::Cleanup => self.cleanup_piece(),
        };
        worked.inspect_err(|error| self.die(error))
    }

    /// Copies the WAL into the database if it is time to, or has it copied; `idle`: nothing waits.
    ///
    /// # Errors
    /// Final, as those of [`Writer::piece`].
    pub fn checkpoint(&mut self, idle: bool) -> Result<(), StoreError> {
        let copied = self
            .db
            .checkpoint(idle)
            .map_err(|e| fatal("copy the write-ahead log into the file", e));
        copied.inspect_err(|error| self.die(error))
    }

    /// Frames in the WAL after the last COMMIT.
    #[cfg(test)]
    pub(super) fn wal_frames(&self) -> u32 {
        self.db.frames()
    }

    /// Carries out `first` and everything that waits behind it. After an error nothing more is done or acknowledged.
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
        ended.inspect_err(|error| self.die(error))
    }

    fn work(&mut self) -> Result<(), StoreError> {
        loop {
            let mut worked = false;
            for piece in [Piece::State, Piece::Merge, Piece::Cleanup] {
                while let Some(job) = self.try_recv() {
                    self.take(job);
                    // Perhaps of a kind whose turn in this round is over: there must be another round.
                    worked = true;
                }
                worked |= self.piece(Piece::Log)?;
                // Here, and not only once a round: the WAL's bound is then exceeded by one transaction at most.
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
            // Its tables' names are still taken by what the last install put aside.
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

    /// COMMIT has happened: tell everybody.
    fn acknowledge(&mut self) {
        for done in self.unacknowledged.drain(..) {
            done(Ok(()));
        }
    }

    /// Nothing is acknowledged any more; everybody who waits is told why.
    fn die(&mut self, error: &StoreError) {
        tracing::error!(%error, "the store failed; this node acknowledges nothing more");
        // Somebody else's error can't be there: only the writer sets it, once.
        let _ = self.shared.fatal.set(error.clone());
        self.db.abandon();
        self.fail_all(error);
    }

    fn fail_all(&mut self, error: &StoreError) {
        self.jobs.close();
        for done in self
            .unacknowledged
            .drain(..)
            .chain(self.applying.ended.drain(..))
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
            // Dropped by the unwinding, the writer has failed all jobs; without this the node would only stop
            // answering.
            Err(_) => on_fatal(StoreError::Fatal("the writer panicked".into())),
        }
    };
    // Proof for the expect: the one thread without which there is no node, made at its start.
    std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(run)
        .expect("a thread can be started")
}
