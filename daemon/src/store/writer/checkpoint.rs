//! Copying the WAL into the database, so that it can begin anew.
//!
//! A copy of some thousand pages, with the syncs before and after it, takes tens of milliseconds: on the writer's thread
//! every append would wait for it. So a thread of its own copies on a connection of its own. But what is written
//! meanwhile lies behind its copy, and the WAL begins anew only when a copy has reached its end: the writer, between two
//! transactions, copies the last, small rest itself.
//!
//! The simulation has no threads; there the writer copies everything.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::Connection;

use super::foreign_lock::{WARN_EVERY, is_foreign_lock};
use crate::store::connect;

/// WAL frames (4 KiB) after which an idle moment is used for a checkpoint: 4 MiB.
const IDLE_FRAMES: u32 = 1_024;
/// WAL frames after which a checkpoint is made also under load: 16 MiB.
const LOAD_FRAMES: u32 = 4_096;
/// WAL frames that the writer copies itself at the end; with more, the thread goes on first: 2 MiB.
const REST_FRAMES: u32 = 512;
/// Times that the thread goes on before the writer copies whatever is left: a disk that is slower than its writer.
const COPIES_MAX: u32 = 4;
/// WAL frames that a reader may keep from being recycled before it is warned of, and that the thread may be behind before
/// the writer waits for it: 64 MiB.
const WARN_FRAMES: u32 = 16_384;

/// When to copy, and who does.
pub(super) struct Checkpoints {
    /// WAL frames at which the next one is due at the earliest.
    under_load: u32,
    when_idle: u32,
    background: Option<Background>,
    warned: Option<Instant>,
}

/// How many WAL frames there were, and how many of them are in the database now.
#[derive(Debug, Clone, Copy)]
struct Copied {
    frames: u32,
    copied: u32,
}

/// The thread that copies.
struct Background {
    ask: SyncSender<()>,
    answers: Receiver<rusqlite::Result<Copied>>,
    /// Copies asked for since the writer last copied a rest.
    asked: u32,
    busy: bool,
    thread: JoinHandle<()>,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Checkpoints {
            under_load: LOAD_FRAMES,
            when_idle: IDLE_FRAMES,
            background: None,
            warned: None,
        }
    }
}

impl Checkpoints {
    /// From now on a thread copies. Fails when the system gives none, or the file can't be opened again.
    pub fn in_background(
        &mut self,
        file: &Path,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let conn = connect::read_write(file)?;
        let (ask, asked) = sync_channel(1);
        let (answer, answers) = sync_channel(1);
        let copy = move || {
            while let Ok(()) = asked.recv() {
                if answer.send(copy(&conn)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn(copy)?;
        self.background = Some(Background {
            ask,
            answers,
            asked: 0,
            busy: false,
            thread,
        });
        Ok(())
    }

    /// The WAL has begun anew.
    pub fn begun_anew(&mut self) {
        (self.under_load, self.when_idle) = (LOAD_FRAMES, IDLE_FRAMES);
    }

    /// To be called between transactions with the number of frames in the WAL; copies, or has copied, if it is time to.
    ///
    /// # Errors
    /// SQLite's, and final: a sync of the database that failed must not be repeated. The kernel tells of a page that it
    /// could not write once, and then holds it for written; SQLite, asked again, would begin the WAL anew, which still
    /// has the page. Behind a COMMIT of the writer SQLite notes a copy as made without having synced it.
    pub fn consider(&mut self, conn: &Connection, frames: u32, idle: bool) -> rusqlite::Result<()> {
        let due = frames
            >= if idle {
                self.when_idle
            } else {
                self.under_load
            };
        let next = match &mut self.background {
            None if due => Next::CopyRest,
            None => Next::Nothing,
            Some(background) => background.next(frames, due)?,
        };
        match next {
            Next::Nothing => Ok(()),
            Next::CopyRest => self.copy_rest(conn, frames),
        }
    }

    /// Ends the thread, after the copy that it is at if it is `awaited`: on a disk that has failed that may never be.
    pub fn end(&mut self, awaited: bool) {
        if let Some(Background { ask, thread, .. }) = self.background.take() {
            drop(ask);
            if awaited {
                // A panic in it was told when it happened.
                let _ = thread.join();
            }
        }
    }

    fn copy_rest(&mut self, conn: &Connection, frames: u32) -> rusqlite::Result<()> {
        // Whether or not all of it can be copied: not again before the WAL has grown by as much once more.
        (self.under_load, self.when_idle) = (frames + LOAD_FRAMES, frames + IDLE_FRAMES);
        let Copied { frames, copied } = copy(conn)?;
        if copied < frames && frames > WARN_FRAMES {
            self.warn(frames);
        }
        Ok(())
    }

    fn warn(&mut self, frames: u32) {
        if self.warned.is_none_or(|at| at.elapsed() > WARN_EVERY) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                wal_bytes = u64::from(frames) * 4096,
                "messagebase.db-wal keeps growing, because a reader holds an old state of messagebase.db. \
                 Hint: unless a backup is being taken, end long transactions of sqlite3 and other programs on the file"
            );
        }
    }
}

/// What the writer is to do.
enum Next {
    Nothing,
    CopyRest,
}

impl Background {
    fn next(&mut self, frames: u32, due: bool) -> rusqlite::Result<Next> {
        if !self.busy {
            return Ok(if due { self.ask() } else { Next::Nothing });
        }
        let answer = match self.answers.try_recv() {
            // So much was written meanwhile that the writer has to wait: the WAL must not grow without bound.
            Err(TryRecvError::Empty) if frames > WARN_FRAMES => self.answers.recv().ok(),
            Err(TryRecvError::Empty) => return Ok(Next::Nothing),
            Err(TryRecvError::Disconnected) => None,
            Ok(answer) => Some(answer),
        };
        self.busy = false;
        match answer.transpose()? {
            // Not held up by a reader, only too slow.
            Some(Copied {
                frames: seen,
                copied,
            }) if seen.saturating_sub(copied) <= REST_FRAMES
                && frames.saturating_sub(seen) > REST_FRAMES
                && frames < WARN_FRAMES
                && self.asked < COPIES_MAX =>
            {
                Ok(self.ask())
            }
            // Also when the thread is gone: the writer copies itself.
            _ => {
                self.asked = 0;
                Ok(Next::CopyRest)
            }
        }
    }

    fn ask(&mut self) -> Next {
        self.asked += 1;
        // It is not busy, so there is room.
        self.busy = self.ask.try_send(()).is_ok();
        if self.busy {
            Next::Nothing
        } else {
            Next::CopyRest
        }
    }
}

/// As much as no reader still needs to find in the WAL.
fn copy(conn: &Connection) -> rusqlite::Result<Copied> {
    let copied = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        // -1 when another connection is at it.
        let count = |column| {
            row.get::<_, i64>(column)
                .map(|count| count.try_into().unwrap_or(0))
        };
        Ok(Copied {
            frames: count(1)?,
            copied: count(2)?,
        })
    });
    match copied {
        Err(error) if is_foreign_lock(&error) => Ok(Copied {
            frames: 0,
            copied: 0,
        }),
        copied => copied,
    }
}
