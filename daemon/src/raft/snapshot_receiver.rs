//! Receives snapshots: chunks into a file, then the install.

use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::AsyncRuntime;
use openraft::async_runtime::Instant;
use parking_lot::Mutex;

use super::api::Wire;
use super::blocking::blocking;
use super::core::Core;
use super::frame::{WireVote, from_wire_vote, to_wire_vote};
use super::state_machine::snapshot_of;
use crate::store::SnapshotFile;

/// A snapshot that is being received.
struct Incoming {
    from: u64,
    transfer: u64,
    /// Grows with every file that this process receives.
    serial: u64,
    path: PathBuf,
    file: std::fs::File,
    next_offset: u64,
}

/// Receives one snapshot at a time.
pub(super) struct SnapshotReceiver<R: AsyncRuntime, W: Wire> {
    core: Arc<Core<R, W>>,
    /// Taken out while a chunk is written, so never locked across an await.
    incoming: Mutex<Option<Incoming>>,
    /// Files begun so far; numbers their names.
    files: AtomicU64,
}

impl<R: AsyncRuntime, W: Wire> SnapshotReceiver<R, W> {
    pub(super) fn new(core: Arc<Core<R, W>>) -> Self {
        SnapshotReceiver {
            core,
            incoming: Mutex::default(),
            files: AtomicU64::new(0),
        }
    }

    /// Returns the offset that is expected next.
    pub(super) async fn receive_chunk(
        &self,
        from: u64,
        transfer: u64,
        offset: u64,
        bytes: Vec<u8>,
    ) -> Result<u64, String> {
        let taken = self.incoming.lock().take();
        let incoming = match taken {
            Some(incoming)
                if offset != 0 && (incoming.from, incoming.transfer) == (from, transfer) =>
            {
                incoming
            }
            other if offset != 0 => {
                // A late chunk of a transfer that was given up. The current one goes on.
                if let Some(other) = other {
                    self.keep(other).await;
                }
                return Ok(0);
            }
            other => {
                // Our own number: the sender's restarts with its process, and an install may still read the file of
                // that number.
                let serial = self.files.fetch_add(1, Ordering::Relaxed);
                let path = self
                    .core
                    .store
                    .snapshot_dir()
                    .join(format!("receiving-{serial}.db"));
                let file = blocking::<R, _, _>(move || {
                    if let Some(old) = other {
                        remove(&old.path);
                    }
                    create_private(&path).map(|file| (path, file))
                });
                let (path, file) = flatten(file.await)
                    .map_err(|e| format!("failed to create a file for the snapshot: {e}"))?;
                Incoming {
                    from,
                    transfer,
                    serial,
                    path,
                    file,
                    next_offset: 0,
                }
            }
        };
        let written = blocking::<R, _, _>(move || {
            let mut incoming = incoming;
            if incoming.next_offset == offset {
                let at = incoming.file.seek(SeekFrom::Start(offset));
                if let Err(error) = at.and_then(|_| incoming.file.write_all(&bytes)) {
                    // Most likely the disk is full: free its space.
                    remove(&incoming.path);
                    return Err(error);
                }
                incoming.next_offset += bytes.len() as u64;
            }
            Ok(incoming)
        });
        let incoming =
            flatten(written.await).map_err(|e| format!("failed to write the snapshot: {e}"))?;
        let next = incoming.next_offset;
        self.keep(incoming).await;
        Ok(next)
    }

    /// Keeps an incoming snapshot for its next chunk. If another one began meanwhile, the newer one stays.
    async fn keep(&self, incoming: Incoming) {
        let older = {
            let mut slot = self.incoming.lock();
            match slot.take() {
                Some(newer) if newer.serial > incoming.serial => {
                    *slot = Some(newer);
                    Some(incoming)
                }
                older => {
                    *slot = Some(incoming);
                    older
                }
            }
        };
        if let Some(older) = older {
            self.remove_file(older.path).await;
        }
    }

    /// Best effort; the next start removes what stays.
    async fn remove_file(&self, path: PathBuf) {
        if let Err(error) = blocking::<R, _, _>(move || remove(&path)).await {
            tracing::warn!(%error, "failed to remove an unfinished snapshot");
        }
    }

    /// Installs what was received; returns this node's vote.
    pub(super) async fn install(
        &self,
        from: u64,
        transfer: u64,
        bytes: u64,
        vote: WireVote,
    ) -> Result<WireVote, String> {
        const INCOMPLETE: &str = "the snapshot's pieces are not all here";
        let taken = self.incoming.lock().take();
        let incoming = match taken {
            Some(ours) if (ours.from, ours.transfer) == (from, transfer) => ours,
            Some(other) => {
                self.keep(other).await;
                return Err(INCOMPLETE.into());
            }
            None => return Err(INCOMPLETE.into()),
        };
        if incoming.next_offset != bytes {
            self.remove_file(incoming.path).await;
            return Err(INCOMPLETE.into());
        }
        let cluster_id = self.core.config.cluster_id.clone();
        let path = incoming.path.clone();
        let checked = blocking::<R, _, _>(move || {
            incoming.file.sync_all()?;
            SnapshotFile::open_checked(&incoming.path, &cluster_id).map_err(std::io::Error::other)
        });
        let file = match flatten(checked.await) {
            Ok(file) => file,
            Err(error) => {
                self.remove_file(path).await;
                return Err(format!("the received snapshot is refused: {error}"));
            }
        };
        tracing::info!(
            from,
            index = file.last.index,
            bytes,
            "installing a snapshot of the leader"
        );
        let snapshot = snapshot_of(file).map_err(|e| e.to_string())?;
        let came = R::Instant::now();
        let reply = self
            .core
            .raft
            .install_full_snapshot(from_wire_vote(vote), snapshot)
            .await;
        // After an error an install may still read it.
        let reply = reply.map_err(|e| e.to_string())?;
        self.core.heard_of_leader(came);
        // An installed file has another name by now. This removes one that was not needed.
        self.remove_file(path).await;
        Ok(to_wire_vote(&reply.vote))
    }
}

fn flatten<T>(result: std::io::Result<std::io::Result<T>>) -> std::io::Result<T> {
    result.and_then(|inner| inner)
}

/// Readable for its owner alone: the file holds all messages. Never a file that exists already: an install may read it.
fn create_private(path: &std::path::Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Removes the file if it is there.
fn remove(path: &std::path::Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "failed to remove an unfinished snapshot");
    }
}
