//! The client of MessageBase: a library that keeps a person (or a program) connected to a cluster while nodes come and
//! go, and the command `mbclient` on top of it. It knows the line protocol's JSON dialect and nothing of Raft.
//!
//! A map, from the socket upwards:
//! - [`connection`]: one connection to one node; requests out, replies and events in.
//! - [`dial`]: reaches nodes over TLS; [`election`] decides, in pure code, where to go; [`failover`] goes there.
//! - [`outbox`] keeps what was sent and not answered; [`feed`] puts what arrives in order, once, without a gap.
//! - [`session`]: the task that owns all of these; [`client`]: the handle that programs use.
//! - [`token`]: what is kept between two runs.
//! - [`run`]: the program; [`cli`] its command line, [`repl`] the prompt of a terminal, [`scripted`] commands of a shell
//!   script. Only these write to standard output.
//!
//! The library below them never talks to the user: it reports [`Notice`]s and errors.

#![deny(missing_docs)]

pub mod cli;
pub mod client;
pub mod command;
pub mod connection;
pub mod dial;
pub mod election;
pub mod error;
pub mod exit;
pub mod failover;
#[cfg(test)]
mod failover_tests;
#[cfg(test)]
mod fake;
pub mod feed;
pub mod notice;
pub mod outbox;
pub mod random;
pub mod repl;
pub mod run;
pub mod scripted;
mod secret;
mod serve;
pub mod session;
mod show;
pub mod token;

pub use client::{Client, Options};
pub use error::ClientError;
pub use notice::{ClientEvent, Notice};
