//! `mbctl`, the operator's program: makes keys, starts and stops nodes of this machine, and asks any node of the
//! cluster over the peer port with the admin certificate. It knows nothing of Raft and opens no data file itself.
//!
//! A map, from the rim inwards:
//! - [`cli`] is the grammar; [`command`] has a file for each command.
//! - [`cluster`] asks all nodes, one node or the leader, through [`peer_client`] (one connection); [`quorum_view`] decides in pure
//!   code what their answers mean together.
//! - [`keys`] and [`atomic_file`] make what is in `pki/`; [`machine`] and [`process`] know which nodes run here.
//! - [`program`] runs a command line, [`output`] is the only place that prints; [`table`] lays out; [`error`] and [`exit`] say how it ended.

#![deny(missing_docs)]

pub mod atomic_file;
pub mod cli;
pub mod cluster;
pub mod command;
pub mod error;
pub mod exit;
pub mod interruption;
pub mod keys;
pub mod machine;
pub mod output;
pub mod password;
pub mod peer_client;
pub mod poll;
pub mod process;
pub mod program;

pub mod quorum_view;
pub mod table;
#[doc(hidden)]
pub mod testing;

use std::process::ExitCode;

use crate::cli::Cli;

/// Parses the arguments, runs the command and returns how it ended.
pub fn main() -> ExitCode {
    program::run("mbctl", |cli: &Cli| cli.json, command::run)
}
