//! How long the door waits for a client.

use std::time::Duration;

use messagebase_protocol::limits::{LOGIN_WAIT, PIPE_UNFINISHED, SESSION_IDLE};

/// How long a connection may take in each state. Production uses the default; tests shorten it.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Silence of a logged-in connection.
    pub idle: Duration,
    /// From connecting to logging in.
    pub login: Duration,
    /// A buffer of the pipe dialect without its newline.
    pub unfinished_line: Duration,
    /// The answers to requests taken in before the connection closes; longer than a held write.
    pub drain: Duration,
    /// The same while the node stops, which takes 5 s in all.
    pub shutdown_drain: Duration,
    /// A write of at most 64 KiB.
    pub write: Duration,
    /// Writing the last lines of a connection that is being closed; then once more, for the other side to close.
    pub grace: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            idle: SESSION_IDLE,
            login: LOGIN_WAIT,
            unfinished_line: PIPE_UNFINISHED,
            drain: Duration::from_secs(10),
            shutdown_drain: Duration::from_millis(2_000),
            write: Duration::from_secs(10),
            grace: Duration::from_millis(1_000),
        }
    }
}
