//! Requests. Parsed in two steps, so that a refusal can name the id of a request whose other fields are malformed.

use serde::{Deserialize, Serialize};

use crate::code::{Code, Failure};
use crate::limits::REQUEST_ID_END;

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began; needs a quorum.
    #[default]
    Linear,
    /// Sees what this node has applied; needs no quorum.
    Local,
}

impl<'de> Deserialize<'de> for Consistency {
    /// `null` is the default, as for every optional field.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Named {
            Linear,
            Local,
        }
        Ok(match Option::<Named>::deserialize(deserializer)? {
            None => Consistency::default(),
            Some(Named::Linear) => Consistency::Linear,
            Some(Named::Local) => Consistency::Local,
        })
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Chosen by the client; its reply carries it.
    pub id: u64,
    /// The operation.
    pub op: Op,
}

/// A line that is not a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// `None` becomes `"id":null` in the reply.
    pub id: Option<u64>,
    /// `bad_request`, `unknown_op`.
    pub failure: Failure,
}

/// Declares the operations once: the enum that the node matches on, its parser and its writer.
macro_rules! operations {
    ($( $(#[$doc:meta])* $wire:literal $variant:ident { $( $(#[$fattr:meta])* $field:ident : $ty:ty ),* $(,)? } )*) => {
        /// An operation with its fields.
        #[derive(Clone, PartialEq, Eq, Serialize)]
        #[serde(untagged)]
        pub enum Op { $( $(#[$doc])* $variant { $( #[doc = concat!("`", stringify!($field), "` of `", $wire, "`.")] $(#[$fattr])* $field: $ty ),* } ),* }

        impl Op {
            /// Every operation's name on the wire, in the order of the documentation.
            pub const NAMES: &'static [&'static str] = &[ $( $wire ),* ];

            /// The operation's name on the wire.
            pub fn name(&self) -> &'static str {
                match self { $( Op::$variant { .. } => $wire ),* }
            }

            fn parse(name: &str, line: &str) -> Option<Result<Op, serde_json::Error>> {
                match name {
                    $( $wire => {
                        #[derive(Deserialize)]
                        struct Fields { $( $(#[$fattr])* $field: $ty ),* }
                        Some(serde_json::from_str::<Fields>(line).map(|fields| {
                            let Fields { $( $field ),* } = fields;
                            Op::$variant { $( $field ),* }
                        }))
                    } )*
                    _ => None,
                }
            }
        }
    };
}

operations! {
    /// Tells node, cluster and protocol version.
    "hello" Hello {}
    /// Makes an account; does not log in.
    "register" Register { user: String, password: String, key: String }
    /// Begins a session.
    "login" Login { user: String, password: String }
    /// Resumes a session on this connection, without hashing a password.
    "resume" Resume { token: String, #[serde(default)] consistency: Consistency }
    /// Ends the session on every node.
    "logout" Logout {}
    /// Changes the password; ends the user's other sessions.
    "password" Password { old: String, new: String, key: String }
    /// Deletes the account. With `user` (and without a session) only a repetition under a used key is answered.
    "delete" Delete { password: String, key: String, #[serde(default)] user: Option<String> }
    /// Lists or searches users by glob.
    "users" Users {
        #[serde(default)] pattern: Option<String>,
        #[serde(default)] after: Option<String>,
        #[serde(default)] limit: Option<u32>,
        #[serde(default)] consistency: Consistency,
    }
    /// Sends a message; answered once it is on disk on a majority and applied.
    "send" Send { to: String, body: String, key: String }
    /// Undelivered messages to me.
    "inbox" Inbox {
        #[serde(default)] after: Option<u64>,
        #[serde(default)] limit: Option<u32>,
        #[serde(default)] consistency: Consistency,
    }
    /// All messages to or from me with a greater id.
    "sync" Sync {
        after: u64,
        #[serde(default)] limit: Option<u32>,
        #[serde(default)] consistency: Consistency,
    }
    /// Messages to me up to this id are delivered.
    "ack" Ack { through: u64 }
    /// The conversation with one user, both directions.
    "history" History {
        with: String,
        #[serde(default)] before: Option<u64>,
        #[serde(default)] limit: Option<u32>,
        #[serde(default)] consistency: Consistency,
    }
    /// What this node knows of itself and the cluster.
    "status" Status {}
    /// Asks this node to make sure that there is a leader, by an election if necessary.
    "campaign" Campaign {}
    /// Keeps a session alive.
    "ping" Ping {}
}

impl std::fmt::Debug for Op {
    /// Only the name: fields hold passwords, tokens and bodies, and a debug line may be logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default)]
    id: Option<&'a serde_json::value::RawValue>,
    #[serde(borrow, default)]
    op: Option<&'a serde_json::value::RawValue>,
}

impl Request {
    /// Parses one line, without its newline.
    pub fn parse(line: &str) -> Result<Request, Malformed> {
        let refuse = |id, code, message: String| Malformed {
            id,
            failure: Failure::not_done(code, message),
        };
        // serde also reads a struct from an array; a request is an object.
        if !line.trim_start().starts_with('{') {
            return Err(refuse(
                None,
                Code::BadRequest,
                "not a JSON object on one line".into(),
            ));
        }
        let head: Head<'_> = serde_json::from_str(line).map_err(|e| {
            refuse(
                None,
                Code::BadRequest,
                format!("not a JSON object on one line: {e}"),
            )
        })?;
        let id = head
            .id
            .and_then(|raw| serde_json::from_str::<u64>(raw.get()).ok())
            .filter(|id| *id < REQUEST_ID_END)
            .ok_or_else(|| {
                refuse(
                    None,
                    Code::BadRequest,
                    "`id` must be an integer from 0 to 2^53 - 1".into(),
                )
            })?;
        let op = head
            .op
            .and_then(|raw| serde_json::from_str::<String>(raw.get()).ok())
            .ok_or_else(|| refuse(Some(id), Code::BadRequest, "`op` must be a string".into()))?;
        match Op::parse(&op, line) {
            Some(Ok(op)) => Ok(Request { id, op }),
            Some(Err(e)) => Err(refuse(
                Some(id),
                Code::BadRequest,
                format!("{op}: {}", without_position(&e)),
            )),
            None => Err(refuse(
                Some(id),
                Code::UnknownOp,
                "no such operation; see docs/PROTOCOL.md".into(),
            )),
        }
    }

    /// The line of this request, including its `\n`.
    pub fn encode(&self) -> String {
        #[derive(Serialize)]
        struct Whole<'a> {
            id: u64,
            op: &'static str,
            #[serde(flatten)]
            fields: &'a Op,
        }
        let whole = Whole {
            id: self.id,
            op: self.op.name(),
            fields: &self.op,
        };
        #[allow(clippy::expect_used, reason = "proven")]
        // Proof: strings, integers and enums without data always serialize.
        let mut line = serde_json::to_string(&whole).expect("a request is plain JSON");
        line.push('\n');
        line
    }
}

/// serde_json's message without "at line 1 column 7", which helps nobody in a one-line request. Values are not repeated: the
/// message could carry a password into a log.
fn without_position(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    if text.starts_with("invalid type")
        || text.starts_with("invalid value")
        || text.starts_with("unknown variant")
    {
        return "a field has a value of the wrong type or range".into();
    }
    text.to_owned()
}
