//! What passes between the handle ([`crate::Client`]) and the task behind it (`driver`): orders one way, the
//! state of the connection the other.

use std::sync::Arc;

use messagebase_protocol::json::Sent;
use tokio::sync::oneshot;

use crate::connection::Connection;
use crate::error::{ClientError, Unavailable};
use crate::outbox::Entry;

/// Where the answer to a message goes.
pub(crate) type SendWaiter = oneshot::Sender<Result<Sent, ClientError>>;

/// What the handle wants of the task.
pub(crate) enum Order {
    Send(Entry<SendWaiter>),
    Withdraw(u64),
    /// A login succeeded on the connection of this generation.
    LoggedIn {
        generation: u64,
        user: String,
        token: String,
    },
    /// A token from an earlier run; the answer is whether it is good.
    Resume {
        user: String,
        token: String,
        cluster_id: Option<String>,
        good: oneshot::Sender<bool>,
    },
    /// The user is about to end the session: its `closing` is no news.
    Leaving,
    /// The end of the session was refused.
    Staying,
    /// The session is over by the user's will.
    Forget,
    /// The session goes on without this client.
    Detach,
    /// The node of this generation does not do its work.
    Suspect {
        generation: u64,
    },
    /// Messages up to this id were shown.
    Acknowledge(u64),
    /// Whether incoming messages are wanted.
    Receive(bool),
    /// The user agreed to send what was held back.
    ReleaseOutbox,
    /// The user wants nothing of it.
    DropOutbox,
}

/// A connection that serves.
#[derive(Debug)]
pub struct Up {
    /// Counts connections of this client.
    pub generation: u64,
    /// The node's number.
    pub node: u16,
    /// The cluster's name for people.
    pub cluster: String,
    /// The cluster's identity.
    pub cluster_id: Option<String>,
    /// Carries the requests.
    pub(crate) connection: Arc<Connection>,
}

/// What the handle can see of the task.
#[derive(Debug, Clone)]
pub struct Link {
    /// Who is logged in.
    pub user: Option<String>,
    /// The connection, or why there is none.
    pub state: Result<Arc<Up>, Unavailable>,
}
