//! `mbctl bench …`: measures a cluster through the client library. Each benchmark is a file of its own; here is what
//! all of them need: an interruption ends them as an error does, so that what they started goes with them.

use std::path::Path;

use crate::cli::BenchCommand;
use crate::error::CtlError;
use crate::exit::Exit;
use crate::interruption::Interruption;
use crate::output::Output;

mod compare;
mod connections;
mod failover;
mod growth;
mod load;
mod logins;
mod stand;

/// Runs the command.
///
/// # Errors
/// What the benchmark failed with, or that it was interrupted (exit 1).
pub async fn run(
    flag: Option<&Path>,
    command: &BenchCommand,
    output: &Output,
) -> Result<Exit, CtlError> {
    // Listened for before anything is started: by default they end the program on the spot.
    let mut interruption = Interruption::listen()?;
    let benchmark = async {
        match command {
            BenchCommand::Failover(arguments) => failover::run(flag, arguments, output).await,
            BenchCommand::Load(arguments) => load::run(flag, arguments, output).await,
            BenchCommand::Compare(arguments) => compare::run(flag, arguments, output).await,
            BenchCommand::Connections(arguments) => connections::run(flag, arguments, output).await,
            BenchCommand::Growth(arguments) => growth::run(flag, arguments, output).await,
            BenchCommand::Logins(arguments) => logins::run(flag, arguments, output).await,
        }
    };
    tokio::select! {
        ended = benchmark => ended,
        // The benchmark is dropped, and with it what it started.
        which = interruption.came() => {
            Err(CtlError::failed("interrupted", format!("{which}; there is no result"))
                .hint("fewer `--rounds` end sooner"))
        }
    }
}
