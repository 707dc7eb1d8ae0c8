//! The JSON dialect: one request, reply or event a line. Unknown fields are ignored; absent values are `null`,
//! never left out (except where a field is marked optional in `docs/PROTOCOL.md`).

mod reply;
mod request;

pub use reply::{
    Ack, Campaign, ClosingReason, DirectoryEntry, Empty, Event, Hello, Inbox, Incoming,
    LogPosition, LoggedIn, MemberInfo, Message, MessageRecord, Ping, Records, Registered,
    ReplicaView, Reply, ReplyLine, Resumed, Sent, Status, Users, encode_event, encode_failure,
    encode_ok, parse_incoming,
};
pub use request::{Consistency, Malformed, Op, Request};
