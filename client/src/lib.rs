//! The client of MessageBase: a library that keeps a person (or a program) connected to a cluster while nodes come and
//! go, and the command `mbclient` on top of it. It knows the line protocol's JSON dialect and nothing of Raft.
//!
//! A map, from the socket upwards:
//! - [`connection`]: one connection to one node; requests out, replies and events in.
//! - [`dial`]: reaches nodes over TLS; [`election`] decides, in pure code, where to go; [`failover`] goes there.
//! - [`outbox`] keeps what was sent and not answered; [`feed`] puts what arrives in order, once, without a gap.
//! - `driver`: the task that owns all of these and goes from connection to connection; `connected` serves one of them,
//!   `state` and `mailbox` are what outlives it.
//! - [`client`]: the handle that programs use, its calls repeated in `calls`; [`link`]: what passes between it and the task.
//! - [`token`]: what is kept between two runs.
//! - [`run`]: the program; [`cli`] its command line, [`repl`] the prompt of a terminal, [`scripted`] commands of a shell
//!   script, `execute` what both do alike. Only these write to standard output.
//!
//! The library below them never talks to the user: it reports [`Notice`]s and errors.

#![deny(missing_docs)]

mod calls;
pub mod cli;
pub mod client;
pub mod command;
mod connected;
pub mod connection;
pub mod dial;
mod driver;
pub mod election;
pub mod error;
mod execute;
pub mod exit;
pub mod failover;
#[cfg(test)]
mod failover_tests;
#[cfg(test)]
mod fake_cluster;
pub mod feed;
pub mod link;
mod mailbox;
pub mod notice;
pub mod outbox;
pub mod random;
pub mod repl;
pub mod run;
pub mod scripted;
mod secret;
mod show;
mod state;
pub mod token;

pub use client::{Client, Options};
pub use error::ClientError;
pub use notice::{ClientEvent, Notice};
