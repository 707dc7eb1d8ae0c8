//! `mbctl`, the operator's program: makes keys, starts and stops nodes of this machine, and asks any node of the
//! cluster over the peer port with the admin certificate. It knows nothing of Raft and opens no data file itself.
//!
//! A map, from the rim inwards:
//! - [`cli`] is the grammar; [`command`] has a file for each command.
//! - [`cluster`] asks all nodes, one node or the leader, through [`peer_client`] (one connection); [`judge`] decides in pure
//!   code what their answers mean together.
//! - [`keys`] and [`publish`] make what is in `pki/`; [`machine`] and [`process`] know which nodes run here.
//! - [`throwaway`] is a cluster for one command, gone with it.
//! - [`output`] is the only place that prints; [`table`] lays out; [`error`] and [`exit`] say how it ended.

#![deny(missing_docs)]

pub mod cli;
pub mod cluster;
pub mod command;
pub mod error;
pub mod exit;
pub mod interruption;
pub mod judge;
pub mod keys;
pub mod machine;
pub mod output;
pub mod password;
pub mod peer_client;
pub mod poll;
pub mod process;
pub mod publish;
pub mod table;
pub mod throwaway;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;

/// Parses the arguments, runs the command and tells how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let output = Output::new(cli.json);
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(e) => {
            let error = CtlError::failed("runtime", "failed to start the async runtime").because(e);
            return output.fail(&error).into();
        }
    };
    let ended = match runtime.block_on(command::run(cli, &output)) {
        Ok(exit) => exit,
        Err(e) => output.fail(&e),
    };
    // A lookup of a host name or a read of the terminal that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    ended.into()
}

/// `--help` and `--version` are successes to clap's eyes and ours; all else is a usage error, in JSON if that was asked.
fn usage(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    if error.use_stderr() && json {
        let text = error.render().to_string();
        let message = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned();
        return Output::new(true)
            .fail(&CtlError::usage(message).hint("see `mbctl --help`"))
            .into();
    }
    // Nothing is left to do when the terminal is gone.
    let _ = error.print();
    if error.use_stderr() {
        Exit::Usage.into()
    } else {
        Exit::Done.into()
    }
}
