//! `mbclient` as a whole: finds the configuration, and runs the line editor on a terminal, or one command a line.
#![allow(
    clippy::print_stderr,
    reason = "the program tells the user why it can't go on"
)]

use std::io::IsTerminal;
use std::process::ExitCode;

use messagebase_config::{CONFIG_ENV, CONFIG_FILE, Config, demo_config};

use crate::cli::Cli;
use crate::error::{ClientError, io_error};
use crate::exit::Exit;
use crate::show::complain;
use crate::{repl, scripted};

/// One thread serves the connection, one is spare for a busy terminal.
const WORKER_THREADS: usize = 2;

/// Runs `mbclient` with the process's arguments.
pub fn run() -> ExitCode {
    let cli = match Cli::parse_arguments(std::env::args_os()) {
        Ok(cli) => cli,
        // clap prints help and version to standard output and leaves with 0, errors with 2.
        Err(error) => error.exit(),
    };
    run_with(&cli)
        .unwrap_or_else(|error| complain(&error))
        .code()
}

fn run_with(cli: &Cli) -> Result<Exit, ClientError> {
    let config = find_config(cli)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|e| io_error("/", &e))?;
    let interactive =
        cli.command.is_empty() && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let ended = runtime.block_on(async {
        if interactive {
            repl::run(cli, &config).await
        } else {
            scripted::run(cli, &config).await
        }
    });
    // A thread may still wait for a line that nobody will type.
    runtime.shutdown_background();
    ended
}

/// The configuration that the command line or the environment names, that of this directory, or the demo's. A person
/// who only chats has not run `mbctl init`: the error tells what they need.
fn find_config(cli: &Cli) -> Result<Config, ClientError> {
    let named = cli.config.is_some() || std::env::var_os(CONFIG_ENV).is_some_and(|p| !p.is_empty());
    if named || std::path::Path::new(CONFIG_FILE).exists() {
        return Ok(Config::find(cli.config.as_deref())?);
    }
    let Some(demo) = demo_config() else {
        return Err(ClientError::NoConfig);
    };
    eprintln!("mbclient: the demo's cluster, {}", demo.display());
    Ok(Config::load(&demo)?)
}
