//! What live sessions are to be told about an applied change. Node-local: never in the log, never in the state.

use messagebase_protocol::json::{ClosingReason, Message};

/// One thing to tell. Handed to fan-out after the transaction's COMMIT, in log order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A new message (never for a duplicate).
    Message {
        /// Sender's id.
        sender: u64,
        /// Recipient's id.
        recipient: u64,
        /// The sending session, which gets the reply instead of the event.
        sending_session: Option<u64>,
        /// The message.
        message: Message,
    },
    /// Messages of `sender` to `by` up to `through` were delivered.
    Delivered {
        /// Whom to tell.
        sender: u64,
        /// Greatest delivered id among their messages.
        through: u64,
        /// Recipient's name.
        by: String,
    },
    /// A session ended; its connections close.
    SessionEnded {
        /// The session.
        session: u64,
        /// Why.
        reason: ClosingReason,
    },
}
