//! Answers to the frames of peers. A frame that can't be handled is answered [`Reply::Failed`], never by a panic.

use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use messagebase_protocol::limits::WRITE_DEADLINE;
use openraft::AsyncRuntime;
use openraft::async_runtime::Instant;
use openraft::raft::{AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest};

use super::api::Wire;
use super::blocking::blocking;
use super::frame::{
    Reply, Request, TransferReply, WireVote, append_from_wire, append_reply_to_wire, decode,
    encode, from_wire_vote, to_wire_vote, vote_reply_to_wire, vote_request,
};
use super::propose::Origin;
use super::replica::Replica;
use super::state_machine::snapshot_of;
use super::types::{Types, from_log_id, to_log_id};
use crate::store::SnapshotFile;

/// A snapshot that is being received.
pub(super) struct Incoming {
    from: u64,
    transfer: u64,
    /// Grows with every file that this process receives.
    serial: u64,
    path: PathBuf,
    file: std::fs::File,
    next_offset: u64,
}

impl<R: AsyncRuntime, W: Wire> Replica<R, W> {
    /// Answers one frame of a peer that the peer door has authenticated as `from_raft_id`. Frames may be handled
    /// concurrently; those of a [`Purpose::Snapshot`](messagebase_protocol::peer::Purpose::Snapshot) connection come
    /// one at a time, because their sender waits for each answer.
    pub async fn serve(&self, from_raft_id: u64, frame: Vec<u8>) -> Vec<u8> {
        let reply = match decode::<Request>(&frame) {
            Ok(request) => {
                drop(frame);
                self.handle(from_raft_id, request)
                    .await
                    .unwrap_or_else(Reply::Failed)
            }
            Err(error) => Reply::Failed(error),
        };
        encode(&reply).unwrap_or_else(|error| {
            tracing::error!(%error, "failed to answer a peer");
            // An empty frame decodes to nothing: the peer takes the answer for lost.
            Vec::new()
        })
    }

    /// What needs much room while it waits is boxed: appends are many, and must not carry that room along.
    async fn handle(&self, from: u64, request: Request) -> Result<Reply, String> {
        let fatal = |e: openraft::errors::Fatal<Types<R>>| e.to_string();
        let raft = &self.inner.raft;
        Ok(match request {
            Request::Append {
                vote,
                prev,
                entries,
                commit,
            } => {
                let rpc = append_from_wire::<R>(vote, prev, entries, commit)?;
                // The leader lived when this came, whenever our disk is done with it: our stall is no silence of the
                // leader's, and what it sent before it died is no sign of life afterwards.
                let came = R::Instant::now();
                if from_wire_vote(vote) == self.vote() {
                    self.heard_of_leader(came);
                }
                let reply = raft.append_entries(rpc).await.map_err(|e| e.to_string())?;
                if !matches!(reply, AppendEntriesResponse::HigherVote(_)) {
                    self.heard_of_leader(came);
                }
                Reply::Append(append_reply_to_wire(reply))
            }
            Request::Vote {
                vote,
                last,
                transfer,
            } => {
                let reply = raft
                    .vote(vote_request::<R>(vote, last, transfer))
                    .await
                    .map_err(|e| e.to_string())?;
                vote_reply_to_wire::<R>(&reply)
            }
            Request::PreVote { vote, last } => {
                let reply = raft
                    .pre_vote(vote_request::<R>(vote, last, false))
                    .await
                    .map_err(|e| e.to_string())?;
                vote_reply_to_wire::<R>(&reply)
            }
            Request::TransferLeader { from, to, last } => {
                let request =
                    TransferLeaderRequest::new(from_wire_vote(from), to, last.map(from_log_id));
                Reply::Transfer(
                    match raft.handle_transfer_leader(request).await.map_err(fatal)? {
                        Ok(()) => TransferReply::Ok,
                        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                            TransferReply::VoteChanged {
                                expected: to_wire_vote(&expected),
                                actual: to_wire_vote(&actual),
                            }
                        }
                        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                            TransferReply::LogNotFlushed {
                                expected: expected.map(to_log_id),
                                actual: actual.map(to_log_id),
                            }
                        }
                    },
                )
            }
            Request::SnapshotChunk {
                transfer,
                offset,
                bytes,
            } => {
                let next_offset =
                    Box::pin(self.receive_chunk(from, transfer, offset, bytes)).await?;
                Reply::SnapshotChunk { next_offset }
            }
            Request::SnapshotEnd {
                transfer,
                bytes,
                vote,
            } => Reply::SnapshotEnd {
                vote: Box::pin(self.install_received(from, transfer, bytes, vote)).await?,
            },
            Request::Forward { drafts, wait_ms } => {
                // It answers its own caller once it has applied what is answered here, as it does with a read.
                let _asking = self.inner.askers.of(from).asks();
                let deadline = asked_deadline::<R>(wait_ms);
                let proposing = Box::pin(self.propose_here(Origin::Peer, &drafts, deadline));
                Reply::Forward(self.unless_stopped(proposing).await.ok_or("stopping")?)
            }
            Request::ReadIndex { wait_ms } => {
                let _asking = self.inner.askers.of(from).asks();
                let deadline = asked_deadline::<R>(wait_ms);
                let confirming = Box::pin(self.read_index_here(deadline));
                Reply::ReadIndex(self.unless_stopped(confirming).await.ok_or("stopping")?)
            }
            Request::Alive => {
                let (vote, leads) = self.leadership();
                Reply::Alive {
                    vote: to_wire_vote(&vote),
                    leads,
                }
            }
            Request::Suspect { vote, last: _ } => Box::pin(self.handle_suspect(vote)).await,
            Request::Drop { vote } => {
                self.drop_lease(from_wire_vote(vote)).await?;
                Reply::Done
            }
            Request::Stand { vote } => {
                self.stand(from_wire_vote(vote));
                Reply::Done
            }
        })
    }

    /// Returns the offset that is expected next.
    async fn receive_chunk(
        &self,
        from: u64,
        transfer: u64,
        offset: u64,
        bytes: Vec<u8>,
    ) -> Result<u64, String> {
        let taken = self
            .inner
            .incoming
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let incoming = match taken {
            Some(incoming)
                if offset != 0 && (incoming.from, incoming.transfer) == (from, transfer) =>
            {
                incoming
            }
            other if offset != 0 => {
                // A late piece of a sending that was given up; the one under way goes on.
                if let Some(other) = other {
                    self.keep(other).await;
                }
                return Ok(0);
            }
            other => {
                // A number of our own: the sender's begins anew with its process, and an install of ours may still
                // read the file of that number.
                let serial = self.inner.received.fetch_add(1, Ordering::Relaxed);
                let path = self
                    .inner
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
                    // Most likely the disk is full: give back what it took.
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

    /// Puts a snapshot that is being received back. If another one began meanwhile, the newer one stays.
    async fn keep(&self, incoming: Incoming) {
        let older = {
            let mut slot = self
                .inner
                .incoming
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
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

    /// Best effort; what stays is removed at the next start.
    async fn remove_file(&self, path: PathBuf) {
        if let Err(error) = blocking::<R, _, _>(move || remove(&path)).await {
            tracing::warn!(%error, "failed to remove an unfinished snapshot");
        }
    }

    async fn install_received(
        &self,
        from: u64,
        transfer: u64,
        bytes: u64,
        vote: WireVote,
    ) -> Result<WireVote, String> {
        const INCOMPLETE: &str = "the snapshot's pieces are not all here";
        let taken = self
            .inner
            .incoming
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
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
        let cluster_id = self.inner.config.cluster_id.clone();
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
            .inner
            .raft
            .install_full_snapshot(from_wire_vote(vote), snapshot)
            .await;
        // After an error an install may still read it.
        let reply = reply.map_err(|e| e.to_string())?;
        self.heard_of_leader(came);
        // Installed, it has another name now; this is about one that was not needed.
        self.remove_file(path).await;
        Ok(to_wire_vote(&reply.vote))
    }
}

/// The asking node has its own deadline; ours is never later than any write's.
fn asked_deadline<R: AsyncRuntime>(wait_ms: u64) -> R::Instant {
    R::Instant::now() + Duration::from_millis(wait_ms).min(WRITE_DEADLINE)
}

fn flatten<T>(result: std::io::Result<std::io::Result<T>>) -> std::io::Result<T> {
    result.and_then(|inner| inner)
}

/// The file holds everybody's messages. Never one that is there already: somebody may be reading it.
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
