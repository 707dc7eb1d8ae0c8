//! What a client is told: answers and events.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Call;

/// A message, as `send`, pages and events tell of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Ids only grow.
    pub id: u64,
    /// Sender's name.
    pub from: String,
    /// Recipient's name.
    pub to: String,
    /// The body, or the same digest of it that the recorder of its `send` took.
    pub body: String,
    /// Unix ms.
    pub sent_at: u64,
    /// Unix ms; `None` while queued, and where it is not told (events, `inbox`).
    #[serde(default)]
    pub delivered_at: Option<u64>,
}

/// Whether a refused request may have had an effect, now or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing was and nothing will be written.
    NotDone,
    /// Perhaps.
    Unknown,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// `ok`.
    Ok(Reply),
    /// `error`.
    Refused {
        /// The code on the wire.
        code: String,
        /// As told.
        outcome: Outcome,
    },
    /// None: the connection was lost, or the history ended. May have had an effect, or may still have it.
    Nothing,
}

/// The contents of an `ok`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields are those of the line protocol")]
pub enum Reply {
    /// To `register`.
    Registered { user: String },
    /// To `login`.
    LoggedIn { user: String, token: String },
    /// To `resume`.
    Resumed { user: String, linear: bool },
    /// To `send`.
    Sent {
        id: u64,
        sent_at: u64,
        duplicate: bool,
    },
    /// To `inbox`, `sync` and `history`.
    Page { messages: Vec<Message>, more: bool },
    /// To `users`.
    Users { names: Vec<String>, more: bool },
    /// To everything that has nothing to say.
    Done,
}

/// What a node says unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields are those of the line protocol")]
pub enum Event {
    /// A message to the user, or sent by another session of theirs.
    Message(Message),
    /// Messages of this user were delivered.
    Delivered { through: u64, by: String },
    /// The connection closes.
    Closing { reason: String },
}

impl Answer {
    /// From `code` and `outcome` as they stand on the wire. An outcome that is not `not_done` counts as unknown.
    pub fn refused(code: &str, outcome: &str) -> Answer {
        let outcome = if outcome == "not_done" {
            Outcome::NotDone
        } else {
            Outcome::Unknown
        };
        Answer::Refused {
            code: code.to_owned(),
            outcome,
        }
    }

    /// The reply of an `ok`.
    pub fn ok(&self) -> Option<&Reply> {
        match self {
            Answer::Ok(reply) => Some(reply),
            Answer::Refused { .. } | Answer::Nothing => None,
        }
    }

    /// The code of a refusal that nothing came of.
    pub fn not_done(&self) -> Option<&str> {
        match self {
            Answer::Refused {
                code,
                outcome: Outcome::NotDone,
            } => Some(code),
            _ => None,
        }
    }
}

/// The `ok` objects on the wire.
mod wire {
    use serde::Deserialize;

    use super::Message;

    #[derive(Deserialize)]
    pub struct User {
        pub user: String,
    }
    #[derive(Deserialize)]
    pub struct LoggedIn {
        pub user: String,
        pub token: String,
    }
    #[derive(Deserialize)]
    pub struct Resumed {
        pub user: String,
        pub linear: bool,
    }
    #[derive(Deserialize)]
    pub struct Sent {
        pub id: u64,
        pub sent_at: u64,
        pub duplicate: bool,
    }
    #[derive(Deserialize)]
    pub struct Page {
        pub messages: Vec<Message>,
        pub more: bool,
    }
    #[derive(Deserialize)]
    pub struct Entry {
        pub name: String,
    }
    #[derive(Deserialize)]
    pub struct Users {
        pub users: Vec<Entry>,
        pub more: bool,
    }
}

impl Reply {
    /// Reads the `ok` object that answers `call`.
    ///
    /// # Errors
    /// When a field is missing or of another type.
    pub fn read(call: &Call, ok: Value) -> Result<Reply, serde_json::Error> {
        Ok(match call {
            Call::Register { .. } => {
                let wire::User { user } = serde_json::from_value(ok)?;
                Reply::Registered { user }
            }
            Call::Login { .. } => {
                let wire::LoggedIn { user, token } = serde_json::from_value(ok)?;
                Reply::LoggedIn { user, token }
            }
            Call::Resume { .. } => {
                let wire::Resumed { user, linear } = serde_json::from_value(ok)?;
                Reply::Resumed { user, linear }
            }
            Call::Send { .. } => {
                let wire::Sent {
                    id,
                    sent_at,
                    duplicate,
                } = serde_json::from_value(ok)?;
                Reply::Sent {
                    id,
                    sent_at,
                    duplicate,
                }
            }
            Call::Inbox { .. } | Call::Sync { .. } | Call::History { .. } => {
                let wire::Page { messages, more } = serde_json::from_value(ok)?;
                Reply::Page { messages, more }
            }
            Call::Users { .. } => {
                let wire::Users { users, more } = serde_json::from_value(ok)?;
                Reply::Users {
                    names: users.into_iter().map(|entry| entry.name).collect(),
                    more,
                }
            }
            Call::Logout
            | Call::Password { .. }
            | Call::Delete { .. }
            | Call::Ack { .. }
            | Call::Free { .. } => Reply::Done,
        })
    }
}

impl Event {
    /// Reads an event line; `None` for a kind that is not judged.
    ///
    /// # Errors
    /// When a field is missing or of another type.
    pub fn read(line: Value) -> Result<Option<Event>, serde_json::Error> {
        #[derive(Deserialize)]
        #[serde(tag = "event", rename_all = "snake_case")]
        enum Line {
            Message {
                message: Message,
            },
            Delivered {
                through: u64,
                by: String,
            },
            Closing {
                reason: String,
            },
            #[serde(other)]
            Other,
        }
        Ok(match serde_json::from_value(line)? {
            Line::Message { message } => Some(Event::Message(message)),
            Line::Delivered { through, by } => Some(Event::Delivered { through, by }),
            Line::Closing { reason } => Some(Event::Closing { reason }),
            Line::Other => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_of_the_protocol_are_read() {
        let send = Call::Send {
            to: "b".into(),
            body: "x".into(),
            key: "k".into(),
        };
        let sent = json!({"id": 4, "sent_at": 9, "duplicate": true, "online": false});
        assert_eq!(
            Reply::read(&send, sent).expect("reads"),
            Reply::Sent {
                id: 4,
                sent_at: 9,
                duplicate: true
            }
        );
        let inbox = Call::Inbox {
            after: 0,
            limit: None,
            linear: true,
        };
        let page = json!({"messages": [{"id": 1, "from": "a", "to": "b", "body": "x", "sent_at": 3}], "more": false});
        let Ok(Reply::Page {
            messages,
            more: false,
        }) = Reply::read(&inbox, page)
        else {
            panic!("no page")
        };
        assert_eq!((messages[0].id, messages[0].delivered_at), (1, None));
        assert!(Reply::read(&inbox, json!({"more": true})).is_err());

        let event =
            Event::read(json!({"event": "delivered", "through": 3, "by": "b"})).expect("reads");
        assert_eq!(
            event,
            Some(Event::Delivered {
                through: 3,
                by: "b".into()
            })
        );
        assert_eq!(
            Event::read(json!({"event": "tomorrow", "x": 1})).expect("reads"),
            None
        );
    }
}
