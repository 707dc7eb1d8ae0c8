//! The benchmarks, a file each. An interruption ends each as an error does, so that what it started ends with it.

mod compare;
mod connections;
mod failover;
mod growth;
mod load;
mod logins;

use messagebase_ctl::error::CtlError;
use messagebase_ctl::exit::Exit;
use messagebase_ctl::interruption::Interruption;
use messagebase_ctl::output::Output;

use crate::cli::{BenchCommand, Cli};

/// Runs the command.
///
/// # Errors
/// What the benchmark failed with, or that it was interrupted (exit 1).
pub async fn run(cli: Cli, output: &Output) -> Result<Exit, CtlError> {
    let flag = cli.config.as_deref();
    // Listened for before anything is started: by default they end the program on the spot.
    let mut interruption = Interruption::listen()?;
    let benchmark = async {
        match &cli.command {
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
