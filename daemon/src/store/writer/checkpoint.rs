//! Checkpoints: copying the WAL into the database, so that SQLite can reset the WAL.
//!
//! Copying some thousand pages, with the syncs before and after, takes tens of milliseconds. On the writer's thread
//! every append would wait for it, so a thread with its own connection copies. But the WAL is reset only when a copy
//! has reached its end, and the writer appends meanwhile. So the writer copies the last, small rest itself, between two
//! transactions.
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
/// WAL frames after which a checkpoint is made under load too: 16 MiB.
const LOAD_FRAMES: u32 = 4_096;
/// WAL frames that the writer copies itself; with more left, the thread copies again first: 2 MiB.
const REST_FRAMES: u32 = 512;
/// Copies of the thread after which the writer copies the rest, however long: the disk is slower than the writer.
const COPIES_MAX: u32 = 4;
/// WAL frames after which the log warns of a reader that prevents the reset, and after which the writer waits for the
/// thread: 64 MiB.
const WARN_FRAMES: u32 = 16_384;

/// Decides when to copy, and on which thread.
pub(super) struct Checkpoints {
    /// WAL frames at which the next checkpoint is due, under load and when idle.
    under_load: u32,
    when_idle: u32,
    background: Option<Background>,
    warned: Option<Instant>,
}

/// How many frames the WAL had, and how many of them are in the database now.
#[derive(Debug, Clone, Copy)]
struct Copied {
    frames: u32,
    copied: u32,
}

/// The thread that copies.
struct Background {
    requests: SyncSender<()>,
    results: Receiver<rusqlite::Result<Copied>>,
    /// Copies requested since the writer last copied a rest.
    requested: u32,
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
    /// Starts the thread.
    ///
    /// # Errors
    /// The system starts no thread, or the file can't be opened again.
    pub fn in_background(
        &mut self,
        file: &Path,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let conn = connect::read_write(file)?;
        let (requests, requested) = sync_channel(1);
        let (result, results) = sync_channel(1);
        let copy = move || {
            while let Ok(()) = requested.recv() {
                if result.send(copy(&conn)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn(copy)?;
        self.background = Some(Background {
            requests,
            results,
            requested: 0,
            busy: false,
            thread,
        });
        Ok(())
    }

    /// To be called when SQLite has reset the WAL.
    pub fn wal_was_reset(&mut self) {
        (self.under_load, self.when_idle) = (LOAD_FRAMES, IDLE_FRAMES);
    }

    /// Copies, or has the thread copy, if a checkpoint is due. To be called between transactions with the number of
    /// frames in the WAL.
    ///
    /// # Errors
    /// SQLite's; final, because a failed sync of the database must not be repeated. The kernel reports a failed write
    /// of a page once and then treats the page as written. At the next checkpoint SQLite would therefore reset the WAL,
    /// which has the only good copy. After a COMMIT of the writer SQLite records a copy as complete without having
    /// synced it.
    pub fn run_if_due(
        &mut self,
        conn: &Connection,
        frames: u32,
        idle: bool,
    ) -> rusqlite::Result<()> {
        let due = frames
            >= if idle {
                self.when_idle
            } else {
                self.under_load
            };
        let action = match &mut self.background {
            None if due => Action::CopyRest,
            None => Action::None,
            Some(background) => background.next(frames, due)?,
        };
        match action {
            Action::None => Ok(()),
            Action::CopyRest => self.copy_rest(conn, frames),
        }
    }

    /// Ends the thread. If `awaited`, waits for the copy that it is making: on a failed disk that copy may never end.
    pub fn end(&mut self, awaited: bool) {
        if let Some(Background {
            requests, thread, ..
        }) = self.background.take()
        {
            drop(requests);
            if awaited {
                // A panic in it was reported when it happened.
                let _ = thread.join();
            }
        }
    }

    fn copy_rest(&mut self, conn: &Connection, frames: u32) -> rusqlite::Result<()> {
        // Also if a reader prevents a complete copy: the next attempt waits until the WAL has grown by as much again.
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

/// What the writer is to do now.
enum Action {
    None,
    CopyRest,
}

impl Background {
    fn next(&mut self, frames: u32, due: bool) -> rusqlite::Result<Action> {
        if !self.busy {
            return Ok(if due { self.request() } else { Action::None });
        }
        let result = match self.results.try_recv() {
            // The WAL must not grow without bound, so the writer waits for the thread.
            Err(TryRecvError::Empty) if frames > WARN_FRAMES => self.results.recv().ok(),
            Err(TryRecvError::Empty) => return Ok(Action::None),
            Err(TryRecvError::Disconnected) => None,
            Ok(result) => Some(result),
        };
        self.busy = false;
        match result.transpose()? {
            // The copy was complete, but the writer has appended much since: the thread copies again.
            Some(Copied {
                frames: seen,
                copied,
            }) if seen.saturating_sub(copied) <= REST_FRAMES
                && frames.saturating_sub(seen) > REST_FRAMES
                && frames < WARN_FRAMES
                && self.requested < COPIES_MAX =>
            {
                Ok(self.request())
            }
            // Also if the thread is gone.
            _ => {
                self.requested = 0;
                Ok(Action::CopyRest)
            }
        }
    }

    fn request(&mut self) -> Action {
        self.requested += 1;
        // The thread is not busy, so the channel has room.
        self.busy = self.requests.try_send(()).is_ok();
        if self.busy {
            Action::None
        } else {
            Action::CopyRest
        }
    }
}

/// Copies the frames that no reader still needs in the WAL.
fn copy(conn: &Connection) -> rusqlite::Result<Copied> {
    let copied = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        // -1 while another connection makes a checkpoint.
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
