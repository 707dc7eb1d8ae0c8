//! What a connection's lane says, before a dialect has put it into words.

use messagebase_protocol::json::{LoggedIn, Registered, Resumed, Sent};

/// A success of a write.
#[derive(Clone)]
pub(super) enum Answer {
    /// To `register`.
    Registered(Registered),
    /// To `login`.
    LoggedIn(LoggedIn),
    /// To `resume`.
    Resumed(Resumed),
    /// To `send`.
    Sent(Sent),
    /// To `delete`.
    Deleted,
    /// To `logout`, `password` and `ack`.
    Done,
}
