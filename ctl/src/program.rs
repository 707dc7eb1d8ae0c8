//! From arguments to an exit code: what `mbctl` and programs like it do around their commands.

use std::process::ExitCode;

use clap::Parser;

use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;

/// Parses the arguments of `program`, runs the command and returns how it ended. `json`: whether its output is JSON.
pub fn run<C: Parser>(
    program: &str,
    json: impl FnOnce(&C) -> bool,
    command: impl AsyncFnOnce(C, &Output) -> Result<Exit, CtlError>,
) -> ExitCode {
    let cli = match C::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(program, &e),
    };
    let output = Output::new(json(&cli));
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
    let ended = match runtime.block_on(command(cli, &output)) {
        Ok(exit) => exit,
        Err(e) => output.fail(&e),
    };
    // A pending lookup of a host name or read of the terminal must not delay the end.
    runtime.shutdown_background();
    ended.into()
}

/// `--help` and `--version` are successes. Any other failure to parse is a usage error, in JSON if that was asked.
fn usage(program: &str, error: &clap::Error) -> ExitCode {
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
            .fail(&CtlError::usage(message).hint(format!("see `{program} --help`")))
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
