//! What replicas say to each other: postcard inside the peer door's opaque Raft frames. Our own shapes, so that an
//! upgrade of openraft changes no wire. New kinds are added at the end.

use std::sync::Arc;

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::{AsyncRuntime, EntryPayload};
use serde::{Deserialize, Serialize};

use super::api::Draft;
use super::types::{
    Command, Entry, LeaderId, Types, Vote, from_log_id, membership_from_json, membership_to_json,
    to_log_id,
};
use crate::change::{Envelope, Outcome};
use crate::entry::LogId;

/// A vote on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireVote {
    pub term: u64,
    pub leader: u64,
    pub committed: bool,
}

/// An entry on the wire.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum WirePayload {
    Blank,
    Change(Arc<Envelope>),
    /// JSON as in the log.
    Membership(String),
}

/// A question of one replica to another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    Append {
        vote: WireVote,
        prev: Option<LogId>,
        entries: Vec<(LogId, WirePayload)>,
        commit: Option<LogId>,
    },
    Vote {
        vote: WireVote,
        last: Option<LogId>,
        transfer: bool,
    },
    PreVote {
        vote: WireVote,
        last: Option<LogId>,
    },
    TransferLeader {
        from: WireVote,
        to: u64,
        last: Option<LogId>,
    },
    /// A piece of a snapshot file; `transfer` tells one sending from the next. Pieces come in order from offset 0.
    SnapshotChunk {
        transfer: u64,
        offset: u64,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// All pieces were sent: check and install the file.
    SnapshotEnd {
        transfer: u64,
        bytes: u64,
        vote: WireVote,
    },
    /// Propose this, as leader only, at most `wait_ms`.
    Forward {
        drafts: Vec<Draft>,
        wait_ms: u64,
    },
    /// Confirm leadership and tell the read index, at most `wait_ms`.
    ReadIndex {
        wait_ms: u64,
    },
    /// Do you lead?
    Alive,
    /// The sender has evidence that the leader of `vote` is dead: look for yourself.
    Suspect {
        vote: WireVote,
        last: Option<LogId>,
    },
    /// A quorum agreed: drop the lease of this vote's leader.
    Drop {
        vote: WireVote,
    },
    /// The leases are dropped, and of those who agreed the receiver is the most up to date: stand for election.
    Stand {
        vote: WireVote,
    },
}

/// What a frame asks, for people who follow frames (the simulation's trace).
pub fn kind(frame: &[u8]) -> &'static str {
    match decode::<Request>(frame) {
        Ok(Request::Append { entries, .. }) if entries.is_empty() => "heartbeat",
        Ok(Request::Append { .. }) => "append",
        Ok(Request::Vote { .. }) => "vote",
        Ok(Request::PreVote { .. }) => "pre-vote",
        Ok(Request::TransferLeader { .. }) => "transfer",
        Ok(Request::SnapshotChunk { .. }) => "snapshot-chunk",
        Ok(Request::SnapshotEnd { .. }) => "snapshot-end",
        Ok(Request::Forward { .. }) => "forward",
        Ok(Request::ReadIndex { .. }) => "read-index",
        Ok(Request::Alive) => "alive",
        Ok(Request::Suspect { .. }) => "suspect",
        Ok(Request::Drop { .. }) => "drop-lease",
        Ok(Request::Stand { .. }) => "stand",
        Err(_) => "unreadable",
    }
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Reply {
    Append(AppendReply),
    Vote {
        vote: WireVote,
        granted: bool,
        last: Option<LogId>,
    },
    Transfer(TransferReply),
    /// The receiver holds the file up to this offset; another one than expected means: begin anew.
    SnapshotChunk {
        next_offset: u64,
    },
    SnapshotEnd {
        vote: WireVote,
    },
    Forward(ForwardReply),
    ReadIndex(ReadReply),
    Alive {
        vote: WireVote,
        leads: bool,
    },
    Suspect {
        agrees: bool,
        last: Option<LogId>,
    },
    Done,
    /// The request could not be handled; for the log.
    Failed(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum AppendReply {
    Success,
    Partial(Option<LogId>),
    Conflict,
    HigherVote(WireVote),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum TransferReply {
    Ok,
    VoteChanged {
        expected: WireVote,
        actual: WireVote,
    },
    LogNotFlushed {
        expected: Option<LogId>,
        actual: Option<LogId>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ForwardReply {
    /// One a draft; `None` when its entry was lost with a leader or the time ran out: ask again.
    Answered(Vec<Option<(u64, Outcome)>>),
    /// Nothing was proposed.
    NotLeader { hint: Option<u64> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ReadReply {
    /// A node that has applied this has seen all that was acknowledged before the question.
    Index(u64),
    NotLeader {
        hint: Option<u64>,
    },
    /// No quorum confirmed the leadership in time.
    Unconfirmed,
}

/// Bytes of a frame.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    postcard::to_allocvec(value).map_err(|e| format!("failed to encode a Raft frame: {e}"))
}

/// A frame of these bytes.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    postcard::from_bytes(bytes).map_err(|e| format!("failed to decode a Raft frame: {e}"))
}

pub(crate) fn to_wire_vote(vote: &Vote) -> WireVote {
    WireVote {
        term: vote.leader_id.term,
        leader: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn from_wire_vote(vote: WireVote) -> Vote {
    Vote {
        leader_id: LeaderId {
            term: vote.term,
            node_id: vote.leader,
        },
        committed: vote.committed,
    }
}

pub(crate) fn append_to_wire<R: AsyncRuntime>(rpc: AppendEntriesRequest<Types<R>>) -> Request {
    let wire = |entry: Entry| {
        let payload = match entry.payload {
            EntryPayload::Blank => WirePayload::Blank,
            EntryPayload::Normal(command) => WirePayload::Change(command.0),
            EntryPayload::Membership(m) => WirePayload::Membership(membership_to_json(&m)),
        };
        (to_log_id(entry.log_id), payload)
    };
    Request::Append {
        vote: to_wire_vote(&rpc.vote),
        prev: rpc.prev_log_id.map(to_log_id),
        entries: rpc.entries.into_iter().map(wire).collect(),
        commit: rpc.leader_commit.map(to_log_id),
    }
}

pub(crate) fn append_from_wire<R: AsyncRuntime>(
    vote: WireVote,
    prev: Option<LogId>,
    entries: Vec<(LogId, WirePayload)>,
    commit: Option<LogId>,
) -> Result<AppendEntriesRequest<Types<R>>, String> {
    let entry = |(id, payload): (LogId, WirePayload)| {
        let payload = match payload {
            WirePayload::Blank => EntryPayload::Blank,
            WirePayload::Change(envelope) => EntryPayload::Normal(Command(envelope)),
            WirePayload::Membership(json) => {
                EntryPayload::Membership(membership_from_json(&json).map_err(|e| e.to_string())?)
            }
        };
        Ok::<Entry, String>(Entry {
            log_id: from_log_id(id),
            payload,
        })
    };
    Ok(AppendEntriesRequest {
        vote: from_wire_vote(vote),
        prev_log_id: prev.map(from_log_id),
        entries: entries.into_iter().map(entry).collect::<Result<_, _>>()?,
        leader_commit: commit.map(from_log_id),
    })
}

pub(crate) fn append_reply_to_wire<R: AsyncRuntime>(
    reply: AppendEntriesResponse<Types<R>>,
) -> AppendReply {
    match reply {
        AppendEntriesResponse::Success => AppendReply::Success,
        AppendEntriesResponse::PartialSuccess(id) => AppendReply::Partial(id.map(to_log_id)),
        AppendEntriesResponse::Conflict => AppendReply::Conflict,
        AppendEntriesResponse::HigherVote(vote) => AppendReply::HigherVote(to_wire_vote(&vote)),
    }
}

pub(crate) fn append_reply_from_wire<R: AsyncRuntime>(
    reply: AppendReply,
) -> AppendEntriesResponse<Types<R>> {
    match reply {
        AppendReply::Success => AppendEntriesResponse::Success,
        AppendReply::Partial(id) => AppendEntriesResponse::PartialSuccess(id.map(from_log_id)),
        AppendReply::Conflict => AppendEntriesResponse::Conflict,
        AppendReply::HigherVote(vote) => AppendEntriesResponse::HigherVote(from_wire_vote(vote)),
    }
}

pub(crate) fn vote_request<R: AsyncRuntime>(
    vote: WireVote,
    last: Option<LogId>,
    transfer: bool,
) -> VoteRequest<Types<R>> {
    let mut request = VoteRequest::new(from_wire_vote(vote), last.map(from_log_id));
    request.leadership_transfer = transfer;
    request
}

pub(crate) fn vote_reply_to_wire<R: AsyncRuntime>(reply: &VoteResponse<Types<R>>) -> Reply {
    Reply::Vote {
        vote: to_wire_vote(&reply.vote),
        granted: reply.vote_granted,
        last: reply.last_log_id.map(to_log_id),
    }
}

pub(crate) fn transfer_to_wire<R: AsyncRuntime>(
    request: &TransferLeaderRequest<Types<R>>,
) -> Request {
    Request::TransferLeader {
        from: to_wire_vote(request.from_leader()),
        to: *request.to_node_id(),
        last: request.last_log_id().copied().map(to_log_id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, LOG_VERSION};

    #[test]
    fn an_append_survives_the_wire() {
        let envelope = Envelope {
            v: LOG_VERSION,
            at: 5,
            actor: Some(7),
            body: Change::Logout {},
            secrets: None,
        };
        let id = LogId {
            term: 2,
            leader: 65_537,
            index: 9,
        };
        let request = Request::Append {
            vote: WireVote {
                term: 2,
                leader: 65_537,
                committed: true,
            },
            prev: None,
            entries: vec![(id, WirePayload::Change(Arc::new(envelope.clone())))],
            commit: Some(id),
        };
        let bytes = encode(&request).unwrap();
        let Request::Append {
            entries, commit, ..
        } = decode(&bytes).unwrap()
        else {
            panic!("another kind came back")
        };
        assert_eq!(commit, Some(id));
        let [(back, WirePayload::Change(change))] = entries.as_slice() else {
            panic!("{entries:?}")
        };
        assert_eq!((*back, change.as_ref()), (id, &envelope));
    }

    #[test]
    fn kinds_keep_their_numbers() {
        // postcard writes a variant's number first; an upgrade must not renumber.
        assert_eq!(encode(&Request::Alive).unwrap(), [8]);
        assert_eq!(encode(&Request::ReadIndex { wait_ms: 1 }).unwrap(), [7, 1]);
        let vote = WireVote {
            term: 1,
            leader: 2,
            committed: true,
        };
        assert_eq!(encode(&Request::Stand { vote }).unwrap(), [11, 1, 2, 1]);
        assert_eq!(encode(&Reply::Done).unwrap(), [9]);
    }

    #[test]
    fn rubbish_is_an_error() {
        assert!(decode::<Request>(&[200, 1, 2]).is_err());
        assert!(decode::<Request>(&[]).is_err());
    }
}
