//! Answers to the frames of peers. A frame that can't be handled is answered [`Reply::Failed`], never by a panic.

use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::limits::WRITE_DEADLINE;
use openraft::AsyncRuntime;
use openraft::async_runtime::Instant;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
};

use super::api::{Draft, Wire};
use super::barrier::Barriers;
use super::core::Core;
use super::frame::{
    Reply, Request, TransferReply, append_from_wire, append_reply_to_wire, decode, encode,
    from_wire_vote, to_wire_vote, vote_reply_to_wire, vote_request,
};
use super::leadership::Leadership;
use super::pending_requests::PendingRequests;
use super::probe::Prober;
use super::propose::{Origin, Proposer};
use super::snapshot_receiver::SnapshotReceiver;
use super::suspicion::Suspicion;
use super::types::{Types, from_log_id, to_log_id};

/// Answers peers, by the parts of the replica that know.
pub(super) struct PeerService<R: AsyncRuntime, W: Wire> {
    pub(super) core: Arc<Core<R, W>>,
    pub(super) proposer: Arc<Proposer<R, W>>,
    pub(super) barriers: Arc<Barriers<R, W>>,
    pub(super) leadership: Arc<Leadership<R, W>>,
    pub(super) prober: Arc<Prober<R, W>>,
    pub(super) suspicion: Arc<Suspicion<R, W>>,
    pub(super) snapshots: SnapshotReceiver<R, W>,
    pub(super) pending: Arc<PendingRequests>,
}

impl<R: AsyncRuntime, W: Wire> PeerService<R, W> {
    /// Answers one frame of the peer `from_raft_id`. Frames may be handled concurrently. Those of a
    /// [`Purpose::Snapshot`](messagebase_protocol::peer::Purpose::Snapshot) connection come one at a time, because their
    /// sender waits for each answer.
    pub(super) async fn serve(&self, from_raft_id: u64, frame: Vec<u8>) -> Vec<u8> {
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

    /// Large futures are boxed: appends are many, and must not carry their room along.
    async fn handle(&self, from: u64, request: Request) -> Result<Reply, String> {
        let raft = &self.core.raft;
        Ok(match request {
            Request::Append {
                vote,
                prev,
                entries,
                commit,
            } => {
                let rpc = append_from_wire::<R>(vote, prev, entries, commit)?;
                self.append(rpc).await?
            }
            Request::Vote {
                vote,
                last,
                transfer,
            } => {
                let voted = raft.vote(vote_request::<R>(vote, last, transfer)).await;
                vote_reply_to_wire::<R>(&voted.map_err(|e| e.to_string())?)
            }
            Request::PreVote { vote, last } => {
                let voted = raft.pre_vote(vote_request::<R>(vote, last, false)).await;
                vote_reply_to_wire::<R>(&voted.map_err(|e| e.to_string())?)
            }
            Request::TransferLeader { from, to, last } => {
                let to_this =
                    TransferLeaderRequest::new(from_wire_vote(from), to, last.map(from_log_id));
                self.take_over(to_this).await?
            }
            Request::SnapshotChunk {
                transfer,
                offset,
                bytes,
            } => {
                let next_offset =
                    Box::pin(self.snapshots.receive_chunk(from, transfer, offset, bytes)).await?;
                Reply::SnapshotChunk { next_offset }
            }
            Request::SnapshotEnd {
                transfer,
                bytes,
                vote,
            } => Reply::SnapshotEnd {
                vote: Box::pin(self.snapshots.install(from, transfer, bytes, vote)).await?,
            },
            Request::Forward { drafts, wait_ms } => self.forwarded(from, drafts, wait_ms).await?,
            Request::ReadIndex { wait_ms } => self.read_index(from, wait_ms).await?,
            Request::Alive => {
                let (vote, leads) = self.leadership.current();
                Reply::Alive {
                    vote: to_wire_vote(&vote),
                    leads,
                }
            }
            Request::Suspect { vote, last: _ } => {
                Box::pin(self.suspicion.answer_suspect(vote)).await
            }
            Request::Drop { vote } => {
                self.prober.drop_lease(from_wire_vote(vote)).await?;
                Reply::Done
            }
            Request::Stand { vote } => {
                self.suspicion
                    .campaign_as_most_up_to_date(from_wire_vote(vote));
                Reply::Done
            }
        })
    }

    async fn append(&self, rpc: AppendEntriesRequest<Types<R>>) -> Result<Reply, String> {
        // The leader lived when this came. A stall of our disk is no silence of the leader, and a frame from before its death
        // is no sign of life afterwards.
        let came = R::Instant::now();
        if rpc.vote == self.core.vote() {
            self.core.heard_of_leader(came);
        }
        let appended = self.core.raft.append_entries(rpc).await;
        let reply = appended.map_err(|e| e.to_string())?;
        if !matches!(reply, AppendEntriesResponse::HigherVote(_)) {
            self.core.heard_of_leader(came);
        }
        Ok(Reply::Append(append_reply_to_wire(reply)))
    }

    /// The peer answers its caller only after it has applied what is answered here, as with a read index.
    async fn forwarded(
        &self,
        from: u64,
        drafts: Vec<Draft>,
        wait_ms: u64,
    ) -> Result<Reply, String> {
        let _pending = self.pending.of(from).begin();
        let deadline = asked_deadline::<R>(wait_ms);
        let proposing = Box::pin(self.proposer.propose_here(Origin::Peer, &drafts, deadline));
        let reply = self.core.unless_stopped(proposing).await;
        Ok(Reply::Forward(reply.ok_or("stopping")?))
    }

    async fn read_index(&self, from: u64, wait_ms: u64) -> Result<Reply, String> {
        let _pending = self.pending.of(from).begin();
        let deadline = asked_deadline::<R>(wait_ms);
        let confirming = Box::pin(self.barriers.read_index_here(deadline));
        let reply = self.core.unless_stopped(confirming).await;
        Ok(Reply::ReadIndex(reply.ok_or("stopping")?))
    }

    async fn take_over(&self, request: TransferLeaderRequest<Types<R>>) -> Result<Reply, String> {
        let taken = self.core.raft.handle_transfer_leader(request).await;
        Ok(Reply::Transfer(match taken.map_err(|e| e.to_string())? {
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
        }))
    }
}

/// The asking node has its own deadline. This node's is never later than that of any write.
fn asked_deadline<R: AsyncRuntime>(wait_ms: u64) -> R::Instant {
    R::Instant::now() + Duration::from_millis(wait_ms).min(WRITE_DEADLINE)
}
