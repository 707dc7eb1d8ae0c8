//! A node's disk: the writer's thread as a task, a piece of work at a time, with virtual time before each. A crash can
//! fall between any two pieces, between taking a job and beginning it, and between a COMMIT and its callback:
//! acknowledgements only wake tasks, and the crash comes before they run.
//!
//! What is kept of a crashed node is its directory as it was at that instant. That is also the place for disk faults
//! to come (writes that were not synced and are lost): they would change the copy.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use messagebase_daemon::entry::{LogId, LogRow};
use messagebase_daemon::store::{Job, Piece, Readers, Store, StoreError, Writer, digest};
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use crate::node_lifetime::lock;
use crate::rng::Rng;
use crate::run_context::RunContext;

/// A transaction, µs.
const PIECE_US: (u64, u64) = (30, 800);
/// This share (per mille) of transactions waits for a busy disk, ms.
const BUSY_PER_MILLE: u64 = 4;
const BUSY_MS: (u64, u64) = (5, 60);
/// The rows are compared after applying an index that this divides.
const DIGEST_EVERY: u64 = 16;
/// Bytes of log read at once when a node comes back; its whole log, in a simulation.
const ALL_BYTES: usize = usize::MAX;

/// How a node's disk behaves, changed by faults.
#[derive(Debug, Clone, Default)]
pub struct DiskMood {
    /// Until then, in virtual time, no transaction ends.
    stalled_until: Arc<Mutex<Duration>>,
    /// Appends are acknowledged before they are written: a planted defect.
    acknowledges_early: Arc<AtomicBool>,
}

impl DiskMood {
    /// No transaction ends before then.
    pub fn stall_until(&self, until: Duration) {
        *lock(&self.stalled_until) = until;
    }

    /// From now on appends are acknowledged before they are on disk.
    pub fn acknowledge_early(&self) {
        self.acknowledges_early.store(true, Ordering::SeqCst);
    }

    fn stall_left(&self, now: Duration) -> Duration {
        lock(&self.stalled_until).saturating_sub(now)
    }
}

/// Carries out a node's jobs until its store is gone.
pub async fn write(
    context: RunContext,
    id: u64,
    readers: Readers,
    mut writer: Writer,
    mood: DiskMood,
    mut rng: Rng,
) {
    let observing = context.clone();
    let disk = mood.clone();
    writer.observe(Box::new(move |job| {
        let early = disk.acknowledges_early.load(Ordering::SeqCst);
        observed(&observing, id, if early { acknowledged(job) } else { job })
    }));
    while let Some(job) = writer.recv().await {
        if writer.accept(job).is_err() {
            return;
        }
        loop {
            let mut worked = false;
            for piece in Piece::ALL {
                while let Some(job) = writer.try_recv() {
                    if writer.accept(job).is_err() {
                        return;
                    }
                    // Perhaps of a kind whose turn in this round is over.
                    worked = true;
                }
                let busy = if rng.hits(BUSY_PER_MILLE) {
                    rng.millis(BUSY_MS.0, BUSY_MS.1)
                } else {
                    rng.micros(PIECE_US.0, PIECE_US.1)
                };
                SimRuntime::sleep(busy.max(mood.stall_left(context.elapsed()))).await;
                match writer.piece(piece) {
                    Ok(false) => {}
                    Ok(true) => {
                        worked = true;
                        // Applies ride in the log's transactions too.
                        if matches!(piece, Piece::Log | Piece::State) {
                            look(&context, id, &readers);
                        }
                    }
                    Err(error) => {
                        context.violated(format!("node {id:#x}: its store failed: {error}"));
                        return;
                    }
                }
            }
            if let Err(error) = writer.checkpoint(!worked) {
                context.violated(format!("node {id:#x}: its store failed: {error}"));
                return;
            }
            if !worked {
                break;
            }
        }
    }
}

/// The state after applying: its clock, and now and then all of its rows.
fn look(context: &RunContext, id: u64, readers: &Readers) {
    let seen = readers.with(|conn| {
        let (term, leader, index, clock): (Option<i64>, Option<i64>, Option<i64>, i64) = conn
            .query_row(
                "SELECT applied_term, applied_leader, applied_index, clock FROM replicated_state",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            )?;
        let applied = term
            .zip(leader)
            .zip(index)
            .map(|((term, leader), index)| LogId {
                term: term.unsigned_abs(),
                leader: leader.unsigned_abs(),
                index: index.unsigned_abs(),
            });
        let sampled = applied.filter(|id| id.index.is_multiple_of(DIGEST_EVERY));
        let rows = sampled
            .map(|id| digest(conn).map(|rows| (id.index, format!("{rows:?}"))))
            .transpose()?;
        Ok((applied, clock.unsigned_abs(), rows))
    });
    match seen {
        Ok((applied, clock, rows)) => {
            let mut checks = context.checks();
            checks.applied(id, applied, clock);
            if let Some((index, rows)) = rows {
                checks.digested(id, index, rows);
            }
        }
        Err(error) => context.violated(format!("node {id:#x}: its file can't be read: {error}")),
    }
}

/// The job, acknowledged already if it appends.
fn acknowledged(job: Job) -> Job {
    match job {
        Job::Append { rows, done } => {
            done(Ok(()));
            let done = Box::new(|_| ());
            Job::Append { rows, done }
        }
        other => other,
    }
}

type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// The job, whose acknowledgement is heard by the invariants first.
fn observed(context: &RunContext, id: u64, job: Job) -> Job {
    let then = |done: Done, tell: Box<dyn FnOnce(&mut crate::checks::Checks) + Send>| -> Done {
        let context = context.clone();
        Box::new(move |result: Result<(), StoreError>| {
            if result.is_ok() {
                tell(&mut context.checks());
            }
            done(result);
        })
    };
    match job {
        Job::SaveVote { vote, done } => {
            context.event(format_args!("disk {id:#x} vote {vote}"));
            let copy = vote.clone();
            Job::SaveVote {
                vote,
                done: then(done, Box::new(move |checks| checks.voted(id, &copy))),
            }
        }
        Job::Append { rows, done } => {
            context.event(format_args!("disk {id:#x} append {:?}", ends(&rows)));
            let copy = rows.clone();
            Job::Append {
                rows,
                done: then(done, Box::new(move |checks| checks.appended(id, &copy))),
            }
        }
        Job::Truncate { keep_through, done } => {
            context.event(format_args!("disk {id:#x} truncate {keep_through:?}"));
            context.count("logs cut");
            Job::Truncate {
                keep_through,
                done: then(
                    done,
                    Box::new(move |checks| checks.truncated(id, keep_through)),
                ),
            }
        }
        Job::Purge { through, done } => {
            context.event(format_args!("disk {id:#x} purge {through:?}"));
            context.count("logs purged");
            Job::Purge {
                through,
                done: then(done, Box::new(move |checks| checks.purged(id, through))),
            }
        }
        Job::Apply { items, done } => {
            let entries: Vec<LogId> = items.iter().map(|item| item.row.id).collect();
            let ends = entries.first().copied().zip(entries.last().copied());
            context.event(format_args!("disk {id:#x} apply {ends:?}"));
            context.checks().applying(id, &entries);
            Job::Apply { items, done }
        }
        Job::InstallSnapshot { file, done } => {
            let last = file.last;
            context.event(format_args!("disk {id:#x} install {last:?}"));
            context.count("snapshots installed");
            Job::InstallSnapshot {
                file,
                done: then(done, Box::new(move |checks| checks.installed(id, last))),
            }
        }
        other @ (Job::Local { .. } | Job::SaveIdentity { .. }) => other,
    }
}

fn ends(rows: &[LogRow]) -> Option<(LogId, LogId)> {
    Some((rows.first()?.id, rows.last()?.id))
}

/// Tells the invariants what a node that comes back has on its disk.
///
/// # Errors
/// When the file can't be read.
pub fn reopened(context: &RunContext, id: u64, store: &Store) -> Result<(), StoreError> {
    let state = store.raft_state()?;
    let begin = store.log_begin();
    let end = state.last.map_or(begin, |last| last.index + 1);
    let rows = if begin < end {
        store.read_log(begin..end, ALL_BYTES)?
    } else {
        Vec::new()
    };
    if rows.last().map_or(begin, |last| last.id.index + 1) < end {
        context.violated(format!(
            "node {id:#x}: its log has a hole between {begin} and {end}"
        ));
    }
    context.checks().reopened(id, &state, &rows);
    Ok(())
}

/// Copies a node's directory as it is: what a kill leaves.
///
/// # Errors
/// When something can't be read or written.
pub fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else if !entry.file_name().to_string_lossy().ends_with("-shm") {
            // The shared memory of a WAL is made anew from the WAL after a crash.
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
