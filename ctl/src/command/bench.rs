//! `mbctl bench …`: becomes `mbbench`, if it is there. Benchmarks link the client library and etcd's protocol, which an
//! operator's tool does not need.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::cli::BenchArgs;
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;
use crate::process;

const PROGRAM: &str = "mbbench";

/// Runs the command: replaces this process.
///
/// # Errors
/// The program is not there, or can't be started (exit 1).
pub fn run(flag: Option<&Path>, arguments: &BenchArgs, output: &Output) -> Result<Exit, CtlError> {
    let program = process::program(PROGRAM).map_err(|e| {
        e.hint("`cargo build --profile dist --workspace --bins` builds it beside mbctl, in target/dist")
    })?;
    let mut command = Command::new(&program);
    if let Some(config) = flag {
        command.arg("--config").arg(config);
    }
    if output.is_json() {
        command.arg("--json");
    }
    let error = command.args(&arguments.arguments).exec();
    let message = format!("failed to start {}", program.display());
    Err(CtlError::failed("start", message).because(error))
}
