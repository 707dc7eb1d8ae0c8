//! Event lines, rendered at most once for each dialect, however many sessions receive them.

use std::cell::OnceCell;
use std::sync::Arc;

use messagebase_protocol::json::{self, ClosingReason, Event, Message};
use messagebase_protocol::pipe;

/// The spelling of the line protocol on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// One JSON object a line.
    Json,
    /// `1|USER|PASSWORD` and its siblings.
    Pipe,
}

/// An event and the lines rendered so far.
pub(super) struct Rendered {
    event: Event,
    json: OnceCell<Arc<str>>,
    pipe: OnceCell<Arc<str>>,
}

impl Rendered {
    pub(super) fn message(message: Message) -> Self {
        Rendered {
            event: Event::Message { message },
            json: OnceCell::new(),
            pipe: OnceCell::new(),
        }
    }

    pub(super) fn delivered(through: u64, by: String) -> Self {
        Rendered {
            event: Event::Delivered { through, by },
            json: OnceCell::new(),
            pipe: OnceCell::new(),
        }
    }

    /// The line for a session of the message's recipient.
    pub(super) fn to_recipient(&self, dialect: Dialect) -> Option<Arc<str>> {
        match (dialect, &self.event) {
            (Dialect::Json, _) => Some(self.json()),
            (Dialect::Pipe, Event::Message { message }) => Some(
                self.pipe
                    .get_or_init(|| pipe::encode_message(message).into())
                    .clone(),
            ),
            (Dialect::Pipe, _) => None,
        }
    }

    /// The line for a session of the sender. The pipe dialect has no such events: its `MSG` would look received.
    pub(super) fn to_others(&self, dialect: Dialect) -> Option<Arc<str>> {
        (dialect == Dialect::Json).then(|| self.json())
    }

    fn json(&self) -> Arc<str> {
        self.json
            .get_or_init(|| json::encode_event(&self.event).into())
            .clone()
    }
}

/// The last line of a connection that the node closes. `None`: the pipe dialect says nothing after `OK deleted`.
pub fn closing_line(dialect: Dialect, reason: ClosingReason) -> Option<Arc<str>> {
    match dialect {
        Dialect::Json => Some(json::encode_event(&Event::Closing { reason }).into()),
        Dialect::Pipe if matches!(reason, ClosingReason::Deleted | ClosingReason::Logout) => None,
        Dialect::Pipe => Some(
            format!(
                "ERR closing the node closes this connection: {}\n",
                reason.as_str()
            )
            .into(),
        ),
    }
}
