//! Everything that crosses a socket: the line protocol of clients and the peer protocol of nodes and operators, with their
//! limits and error codes. No I/O and no async runtime here: bytes in, values out.
//!
//! Where to go next: [`json`] and [`pipe`] are the two dialects of the line protocol, [`mod@line`] cuts the byte
//! stream into lines, [`peer`] is what nodes and `mbctl` send to a node, [`limits`], [`code`] and [`role`] are shared.

#![deny(missing_docs)]

pub mod code;
pub mod json;
pub mod limits;
pub mod line;
pub mod name;
pub mod peer;
pub mod pipe;
pub mod quorum;
pub mod role;
mod string_enum;
pub mod time;
