//! The vocabulary of a connection's write queue: what a client asks for, where the answer goes, and a success before a
//! dialect has encoded it.

use messagebase_protocol::code::Failure;
use messagebase_protocol::json::{Consistency, LoggedIn, Registered, Resumed, Sent};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::service::{DeleteRequest, Post, Posted};

/// What the write queue carries out.
pub(super) enum Work {
    /// A change that needs nothing but the session: neighbours are proposed as one batch.
    Post(Post),
    /// A request that takes its turn alone.
    Request(Request),
}

/// A request that is not batched with others.
pub(super) enum Request {
    Register {
        user: String,
        password: String,
        key: String,
    },
    Login {
        user: String,
        password: String,
    },
    Resume {
        token: String,
        consistency: Consistency,
    },
    Password {
        old: String,
        new: String,
        key: String,
    },
    Delete(DeleteRequest),
    /// A read of the pipe dialect, whose replies have no ids and so must not overtake each other.
    PipeRead(PipeRead),
    /// A refusal that must not overtake the replies before it.
    Refuse(Failure),
}

/// A command of the pipe dialect that only reads.
pub(super) enum PipeRead {
    /// Users that match a glob; all without one.
    Users(Option<String>),
    Help,
}

impl Work {
    /// Whether it begins or ends a session: reads that come after it wait for it.
    pub(super) fn changes_session(&self) -> bool {
        match self {
            Work::Post(post) => *post == Post::Logout,
            Work::Request(request) => request.changes_session(),
        }
    }
}

impl Request {
    pub(super) fn begins_session(&self) -> bool {
        matches!(self, Request::Login { .. } | Request::Resume { .. })
    }

    pub(super) fn changes_session(&self) -> bool {
        self.begins_session() || matches!(self, Request::Delete(_))
    }

    /// Whether it proposes a change. All of these hash a password first.
    pub(super) fn writes(&self) -> bool {
        matches!(
            self,
            Request::Register { .. }
                | Request::Login { .. }
                | Request::Password { .. }
                | Request::Delete(_)
        )
    }
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyTo {
    /// The JSON request of this id.
    Id(u64),
    /// The pipe dialect's next reply.
    Next,
    /// Nowhere: the node itself acknowledges for a client of the pipe dialect.
    Nobody,
}

/// Who waits for an answer, and since when.
pub(super) struct Caller {
    pub(super) reply_to: ReplyTo,
    /// Held until the answer is queued: bounds the unanswered requests of a connection.
    pub(super) permit: Option<OwnedSemaphorePermit>,
    /// When the request arrived. Its deadline counts from here.
    pub(super) arrived: Instant,
}

/// An item of the write queue.
pub(super) struct Item {
    pub(super) work: Work,
    pub(super) caller: Caller,
}

/// A success of the write queue.
#[derive(Clone)]
pub(super) enum Success {
    Registered(Registered),
    LoggedIn(LoggedIn),
    Resumed(Resumed),
    Sent(Sent),
    Deleted,
    /// Of `logout`, `password` and `ack`.
    Done,
}

impl From<Posted> for Success {
    fn from(posted: Posted) -> Self {
        match posted {
            Posted::Sent(sent) => Success::Sent(sent),
            Posted::Done => Success::Done,
        }
    }
}
