//! The client of MessageBase: a library that keeps a person (or a program) connected to a cluster while nodes come and
//! go, and the command `mbclient` on top of it. It knows the line protocol's JSON dialect and nothing of Raft.
//!
//! # For programs
//!
//! [`Client::start`] returns at once; each call waits for a node and goes on through failovers until it is answered or
//! [`Options::patience`] ends. What arrives comes out of [`client::Events`] once, in order, and comes again in the next
//! run until [`Client::acknowledge`] was called. `client/examples/` has an echo bot and a send with a stable key.
//!
//! ```no_run
//! # async fn example() -> Result<(), messagebase_client::ClientError> {
//! use messagebase_client::{Client, ClientEvent, Options};
//!
//! let config = messagebase_config::Config::find(None)?;
//! let options = Options { receive: true, ..Options::default() };
//! let (client, mut events) = Client::start(&config, options)?;
//! client.login("ben", "a password").await?;
//! client.send("anna", "hello").await?;
//! while let Some(event) = events.recv().await {
//!     if let ClientEvent::Message(message) = event {
//!         client.acknowledge(message.id).await?;
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A test puts a network of its own under the client with [`dial::Transport::Custom`].
//!
//! # A map, from the socket upwards
//!
//! - [`connection`]: one connection to one node; requests out, replies and events in.
//! - [`dial`]: reaches nodes over TLS; [`election`] decides, in pure code, where to go; [`failover`] goes there.
//! - [`outbox`] keeps what was sent and not answered; [`feed`] puts what arrives in order, once, without a gap.
//! - `driver`: the task that owns all of these and goes from connection to connection; `connected` serves one of them,
//!   `state` and `mailbox` are what outlives it.
//! - [`client`]: the handle that programs use, its calls repeated in `retry`; [`link`]: what passes between it and the task.
//! - [`token`]: what is kept between two runs.
//! - [`run`]: the program; [`cli`] its command line, [`repl`] the prompt of a terminal, [`scripted`] commands of a shell
//!   script, `execute` what both do alike. Only these write to standard output.
//!
//! The library below them never talks to the user: it reports [`Notice`]s and errors.

#![deny(missing_docs)]

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
mod retry;
pub mod run;
pub mod scripted;
mod secret;
mod show;
mod state;
pub mod token;

pub use client::{Client, Events, Options, Pending};
pub use error::ClientError;
pub use notice::{ClientEvent, Notice};
