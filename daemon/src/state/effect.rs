//! What live sessions are to be told about an applied change. Node-local: never in the log, never in the state.

use std::sync::Arc;

use messagebase_protocol::json::{ClosingReason, Message};

use crate::change::{Change, Envelope};

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
        message: NewMessage,
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

/// A message as its send brought it. Copies nothing: every node makes one of every send, and few have anybody to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Its id.
    pub id: u64,
    /// Sender's name.
    pub from: Arc<str>,
    /// Recipient's name.
    pub to: Arc<str>,
    /// Unix ms.
    pub sent_at: u64,
    /// The send, which has the text.
    send: Arc<Envelope>,
}

impl NewMessage {
    /// What `send`, a change of that kind, brought.
    pub(super) fn of(
        send: &Arc<Envelope>,
        id: u64,
        from: Arc<str>,
        to: Arc<str>,
        sent_at: u64,
    ) -> NewMessage {
        NewMessage {
            id,
            from,
            to,
            sent_at,
            send: send.clone(),
        }
    }

    /// As clients get it.
    pub fn to_message(&self) -> Message {
        let body = match &self.send.body {
            Change::Send { body, .. } => body.clone(),
            // Proof: `of`, the only way to make one, is called by what carries out a send.
            _ => unreachable!("made of a send"),
        };
        Message {
            id: self.id,
            from: self.from.to_string(),
            to: self.to.to_string(),
            body,
            sent_at: self.sent_at,
        }
    }
}

#[cfg(test)]
impl From<Message> for NewMessage {
    fn from(
        Message {
            id,
            from,
            to,
            body,
            sent_at,
        }: Message,
    ) -> NewMessage {
        let (from, to) = (Arc::<str>::from(from), Arc::<str>::from(to));
        let body = Change::Send {
            user: 1,
            to: to.to_string(),
            body,
            key: "key".into(),
        };
        let send = Arc::new(Envelope {
            v: crate::change::LOG_VERSION,
            at: sent_at,
            actor: None,
            body,
            secrets: None,
        });
        NewMessage::of(&send, id, from, to, sent_at)
    }
}
