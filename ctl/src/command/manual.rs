//! `mbctl completions` and `mbctl man`, made from the grammar.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::atomic_file;
use crate::cli::Cli;
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;

/// Completions for a shell, to standard output.
///
/// # Errors
/// None.
pub fn completions(shell: Shell, output: &Output) -> Result<Exit, CtlError> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mbctl", &mut text);
    output.raw(&text);
    Ok(Exit::Done)
}

/// One page to standard output, or a page for each command into a directory.
///
/// # Errors
/// The directory can't be written (exit 1).
pub fn man(dir: Option<&Path>, output: &Output) -> Result<Exit, CtlError> {
    let failed = |e| CtlError::failed("io", "failed to write the manual pages").because(e);
    let Some(dir) = dir else {
        let mut text = Vec::new();
        clap_mangen::Man::new(Cli::command())
            .render(&mut text)
            .map_err(failed)?;
        output.raw(&text);
        return Ok(Exit::Done);
    };
    atomic_file::directory(dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
    output.note(format!("Wrote the manual pages to {}.", dir.display()));
    Ok(Exit::Done)
}
