//! openraft's network on [`Wire`]: one object a peer and purpose. Votes and transfers share a connection. Appends, heartbeats
//! and snapshots have one each, so that none delays another. All but those for snapshots are kept ([`PeerLinks`]).

use std::future::Future;
use std::io::{Read, Seek, SeekFrom};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::Stream;
use messagebase_protocol::peer::{CHUNK_BYTES, Purpose};
use openraft::async_runtime::Select2;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AsyncRuntime, OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use super::api::{Link, Target, Wire, WireError};
use super::blocking::blocking;
use super::commit_notify::CommitGate;
use super::frame::{
    Reply, Request, TransferReply, append_reply_from_wire, append_to_wire, decode, encode,
    from_wire_vote, to_wire_vote, transfer_to_wire,
};
use super::peer_links::PeerLinks;
use super::pending_requests::{PeerRequests, PendingRequests};
use super::pipeline::{Answer, Told, pipelined};
use super::snapshot_transfers::SnapshotTransfers;
use super::state_machine::{Snapshot, SnapshotData};
use super::types::{Node, Types, Vote, from_log_id, to_log_id};
use crate::store::Store;

/// An append's answer waits for the follower's fsync, and stalls of half a second were seen. Giving up earlier would only
/// send the same entries again. openraft's own limit, the heartbeat interval, is meant for heartbeats.
const APPEND_ANSWER: Duration = Duration::from_millis(1_000);
/// Installing a snapshot rewrites the receiver's tables.
const SNAPSHOT_INSTALL: Duration = Duration::from_secs(120);
/// One chunk: read, sent, written.
const SNAPSHOT_CHUNK: Duration = Duration::from_secs(10);
/// After a snapshot that could not be built.
const BUILD_RETRY: Duration = Duration::from_secs(5);
/// Pauses before a peer that could not be reached is tried again; the last one repeats.
const RETRY_PAUSES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
];

/// An opened stream of appends: its answers.
type Opened<'s, R> = BoxFuture<'s, Result<BoxStream<'s, Answer<R>>, RPCError<Types<R>>>>;

/// Makes the connections of one replica.
pub(super) struct Network<R: AsyncRuntime, W: Wire> {
    me: u64,
    /// For snapshots, whose connections are not kept.
    wire: W,
    links: Arc<PeerLinks<W>>,
    /// Numbers transfers of snapshots.
    transfer_ids: Arc<AtomicU64>,
    transfers: Arc<SnapshotTransfers<R::Instant>>,
    pending: Arc<PendingRequests>,
    store: Store,
}

impl<R: AsyncRuntime, W: Wire> Network<R, W> {
    pub(super) fn new(
        me: u64,
        store: Store,
        wire: W,
        links: Arc<PeerLinks<W>>,
        transfers: Arc<SnapshotTransfers<R::Instant>>,
        pending: Arc<PendingRequests>,
    ) -> Self {
        Network {
            me,
            wire,
            links,
            transfer_ids: Arc::default(),
            transfers,
            pending,
            store,
        }
    }

    fn peer(&self, target: Target, link: Arc<W::Link>, answer: Duration) -> Peer<R, W> {
        let raft_id = target.raft_id;
        let control = self.links.control.to(target);
        let (transfer_ids, transfers) = (self.transfer_ids.clone(), self.transfers.clone());
        let (requests, store) = (self.pending.of(raft_id), self.store.clone());
        Peer {
            me: self.me,
            raft_id,
            link,
            control,
            transfer_ids,
            transfers,
            requests,
            store,
            answer,
        }
    }
}

impl<R: AsyncRuntime, W: Wire> RaftNetworkFactory<Types<R>> for Network<R, W> {
    type Network = Peer<R, W>;

    async fn new_client(&mut self, target: u64, node: &Node) -> Self::Network {
        let target = target_of(target, node);
        let link = self.links.append.to(target.clone());
        self.peer(target, link, APPEND_ANSWER)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> Self::Network {
        let target = target_of(target, node);
        let link = self.links.heartbeat.to(target.clone());
        self.peer(target, link, Duration::ZERO)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Node) -> Self::Network {
        let target = target_of(target, node);
        let link = Arc::new(self.wire.link(target.clone(), Purpose::Snapshot));
        self.peer(target, link, APPEND_ANSWER)
    }
}

fn target_of(raft_id: u64, node: &Node) -> Target {
    Target {
        raft_id,
        node: node.node,
        peer: node.peer.clone(),
    }
}

/// The connections to one peer that one of openraft's tasks uses.
pub(super) struct Peer<R: AsyncRuntime, W: Wire> {
    me: u64,
    raft_id: u64,
    link: Arc<W::Link>,
    control: Arc<W::Link>,
    transfer_ids: Arc<AtomicU64>,
    transfers: Arc<SnapshotTransfers<R::Instant>>,
    requests: Arc<PeerRequests>,
    store: Store,
    /// An append's answer is waited for at least this long.
    answer: Duration,
}

/// Why a call failed, before it is translated to openraft's terms.
enum CallError {
    Unreachable(String),
    Lost(String),
}

impl From<WireError> for CallError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Refused(why) | WireError::Unreachable(why) => CallError::Unreachable(why),
            WireError::Lost(why) => CallError::Lost(why),
        }
    }
}

async fn call<L: Link>(link: &L, request: &Request, timeout: Duration) -> Result<Reply, CallError> {
    call_frame(link, encode(request).map_err(CallError::Lost)?, timeout).await
}

async fn call_frame<L: Link>(
    link: &L,
    frame: Vec<u8>,
    timeout: Duration,
) -> Result<Reply, CallError> {
    let answer = link.call(frame, timeout).await?;
    match decode(&answer).map_err(CallError::Lost)? {
        // A node that is stopping answers so too: the peer is left alone for a while.
        Reply::Failed(why) => Err(CallError::Unreachable(why)),
        reply => Ok(reply),
    }
}

fn unexpected(reply: &Reply) -> CallError {
    let kind = format!("{reply:?}");
    CallError::Lost(format!(
        "an answer of another kind: {}",
        kind.split([' ', '(']).next().unwrap_or_default()
    ))
}

impl<R: AsyncRuntime, W: Wire> Peer<R, W> {
    fn rpc_error(
        &self,
        error: CallError,
        action: RPCTypes,
        timeout: Duration,
    ) -> RPCError<Types<R>> {
        match error {
            CallError::Unreachable(why) => RPCError::Unreachable(Unreachable::from_string(why)),
            CallError::Lost(_) if action == RPCTypes::Vote => RPCError::Timeout(Timeout {
                action,
                id: self.me,
                target: self.raft_id,
                timeout,
            }),
            CallError::Lost(why) => RPCError::Network(NetworkError::from_string(why)),
        }
    }

    async fn vote_call(
        &self,
        request: Request,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        let timeout = option.soft_ttl();
        let result = call(&*self.control, &request, timeout)
            .await
            .and_then(|reply| match reply {
                Reply::Vote {
                    vote,
                    granted,
                    last,
                } => Ok(VoteResponse::new(
                    from_wire_vote(vote),
                    last.map(from_log_id),
                    granted,
                )),
                other => Err(unexpected(&other)),
            });
        result.map_err(|e| self.rpc_error(e, RPCTypes::Vote, timeout))
    }

    /// The frame's bytes, and the call.
    fn append_call(
        &self,
        rpc: AppendEntriesRequest<Types<R>>,
        hard_ttl: Duration,
    ) -> (usize, impl Future<Output = Told<R>> + Send + '_) {
        // openraft drops the call at the hard limit. Giving up earlier would lose the answers of distant peers.
        let timeout = hard_ttl.max(self.answer);
        let frame = encode(&append_to_wire(rpc));
        let bytes = frame.as_ref().map_or(0, Vec::len);
        let call = async move {
            let reply = match frame {
                Ok(frame) => call_frame(&*self.link, frame, timeout).await,
                Err(why) => Err(CallError::Lost(why)),
            };
            let result = reply.and_then(|reply| match reply {
                Reply::Append(reply) => Ok(append_reply_from_wire(reply)),
                other => Err(unexpected(&other)),
            });
            result.map_err(|e| self.rpc_error(e, RPCTypes::AppendEntries, timeout))
        };
        (bytes, call)
    }

    async fn send_file(&self, vote: Vote, data: SnapshotData) -> Result<Vote, CallError> {
        let path = match data.into_file::<R>().await {
            Ok(file) => file.path,
            Err(error) => {
                tracing::error!(%error, "failed to build a snapshot; trying again");
                // Each attempt copies the whole state: on a full disk until there is no room for the log either.
                R::sleep(BUILD_RETRY).await;
                return Err(CallError::Lost(format!(
                    "failed to build the snapshot: {error}"
                )));
            }
        };
        let opened = blocking::<R, _, _>(move || std::fs::File::open(path))
            .await
            .and_then(|result| result);
        let mut source =
            opened.map_err(|e| CallError::Lost(format!("failed to open the snapshot: {e}")))?;
        // Tells one transfer of this replica from the next. A restart may repeat numbers, but offset 0 begins anew.
        let transfer = self.transfer_ids.fetch_add(1, Ordering::Relaxed);
        let mut offset = 0_u64;
        loop {
            let (back, bytes) = read_chunk::<R>(source, offset).await?;
            source = back;
            if bytes.is_empty() {
                break;
            }
            let end = offset.saturating_add(bytes.len() as u64);
            let request = Request::SnapshotChunk {
                transfer,
                offset,
                bytes,
            };
            match call(&*self.link, &request, SNAPSHOT_CHUNK).await? {
                Reply::SnapshotChunk { next_offset } if next_offset == end => offset = end,
                Reply::SnapshotChunk { .. } => {
                    return Err(CallError::Lost("the receiver lost the beginning".into()));
                }
                other => return Err(unexpected(&other)),
            }
        }
        let request = Request::SnapshotEnd {
            transfer,
            bytes: offset,
            vote: to_wire_vote(&vote),
        };
        match call(&*self.link, &request, SNAPSHOT_INSTALL).await? {
            Reply::SnapshotEnd { vote } => Ok(from_wire_vote(vote)),
            other => Err(unexpected(&other)),
        }
    }
}

async fn read_chunk<R: AsyncRuntime>(
    mut source: std::fs::File,
    offset: u64,
) -> Result<(std::fs::File, Vec<u8>), CallError> {
    let read = move || {
        source.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::with_capacity(CHUNK_BYTES);
        (&mut source)
            .take(CHUNK_BYTES as u64)
            .read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>((source, bytes))
    };
    let result = blocking::<R, _, _>(read).await.and_then(|result| result);
    result.map_err(|e| CallError::Lost(format!("failed to read the snapshot: {e}")))
}

impl<R: AsyncRuntime, W: Wire> RaftNetworkV2<Types<R>> for Peer<R, W> {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>> {
        self.append_call(rpc, option.hard_ttl()).1.await
    }

    fn stream_append<'s, S>(&'s mut self, input: S, option: RPCOption) -> Opened<'s, R>
    where
        S: Stream<Item = AppendEntriesRequest<Types<R>>> + OptionalSend + Unpin + 'static,
    {
        let this = &*self;
        let within = option.hard_ttl();
        let store = self.store.clone();
        let gate = CommitGate::new(self.requests.clone(), move || store.last_log_index());
        let answers = pipelined(input, gate, move |rpc| this.append_call(rpc, within));
        Box::pin(async move { Ok(answers) })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        let last = rpc.last_log_id.map(to_log_id);
        let request = Request::Vote {
            vote: to_wire_vote(&rpc.vote),
            last,
            transfer: rpc.leadership_transfer,
        };
        self.vote_call(request, option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        let last = rpc.last_log_id.map(to_log_id);
        self.vote_call(
            Request::PreVote {
                vote: to_wire_vote(&rpc.vote),
                last,
            },
            option,
        )
        .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        let _transfer = self.transfers.begin(self.raft_id);
        let sent = {
            let cancel = pin!(cancel);
            let send = pin!(self.send_file(vote, snapshot.snapshot));
            match R::select2(cancel, send).await {
                Select2::First(closed) => return Err(StreamingError::Closed(closed)),
                Select2::Second(sent) => sent,
            }
        };
        match sent {
            Ok(vote) => Ok(SnapshotResponse::new(vote)),
            Err(error) => Err(self
                .rpc_error(error, RPCTypes::InstallSnapshot, option.soft_ttl())
                .into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<R>>, RPCError<Types<R>>> {
        let timeout = option.soft_ttl();
        let result = call(&*self.control, &transfer_to_wire(&request), timeout)
            .await
            .and_then(|reply| match reply {
                Reply::Transfer(TransferReply::Ok) => Ok(Ok(())),
                Reply::Transfer(TransferReply::VoteChanged { expected, actual }) => {
                    Ok(Err(TransferLeaderError::VoteChanged {
                        expected: from_wire_vote(expected),
                        actual: from_wire_vote(actual),
                    }))
                }
                Reply::Transfer(TransferReply::LogNotFlushed { expected, actual }) => {
                    Ok(Err(TransferLeaderError::LogNotFlushed {
                        expected: expected.map(from_log_id),
                        actual: actual.map(from_log_id),
                    }))
                }
                other => Err(unexpected(&other)),
            });
        result.map_err(|e| self.rpc_error(e, RPCTypes::TransferLeader, timeout))
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = RETRY_PAUSES[RETRY_PAUSES.len() - 1];
        Some(Backoff::new(
            RETRY_PAUSES.into_iter().chain(std::iter::repeat(last)),
        ))
    }
}
