//! `mbctl completions` and `mbctl man`, made from the grammar.

use std::io::Write;
use std::path::Path;

use clap::{Command, CommandFactory};
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

/// One page with all subcommands to standard output, or a page for each command into a directory.
///
/// # Errors
/// The directory can't be written (exit 1).
pub fn man(dir: Option<&Path>, output: &Output) -> Result<Exit, CtlError> {
    let failed = |e| CtlError::failed("io", "failed to write the manual pages").because(e);
    let Some(dir) = dir else {
        output.raw(&page().map_err(failed)?);
        return Ok(Exit::Done);
    };
    atomic_file::directory(dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
    output.note(format!("Wrote the manual pages to {}.", dir.display()));
    Ok(Exit::Done)
}

/// The manual page in roff: `mbctl` itself, then a subsection for each subcommand.
fn page() -> std::io::Result<Vec<u8>> {
    let mut command = Cli::command();
    // Gives each subcommand its whole name, as `mbctl user add`.
    command.build();
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    writeln!(text, ".SH \"THE SUBCOMMANDS\"")?;
    for subcommand in command.get_subcommands() {
        render_subcommand(subcommand, &mut text)?;
    }
    Ok(text)
}

/// What it does, its synopsis and its own options: the global ones stand at the top of the page.
fn render_subcommand(command: &Command, text: &mut Vec<u8>) -> std::io::Result<()> {
    if command.get_name() == "help" {
        return Ok(());
    }
    let name = command.get_bin_name().unwrap_or(command.get_name());
    writeln!(text, ".SS \"{name}\"")?;
    let own = command.clone().mut_args(|argument| {
        let everywhere = argument.is_global_set() || argument.get_id() == "help";
        argument.hide(everywhere)
    });
    let has_own = own.get_arguments().any(|argument| !argument.is_hide_set());
    let man = clap_mangen::Man::new(own);
    let mut sections = Vec::new();
    man.render_description_section(&mut sections)?;
    writeln!(sections, ".PP")?;
    man.render_synopsis_section(&mut sections)?;
    if has_own {
        man.render_options_section(&mut sections)?;
    }
    // Each section brings its heading and the preamble of a page.
    let sections = String::from_utf8_lossy(&sections);
    let extra = |line: &&str| {
        [".SH", ".ie", ".el"]
            .iter()
            .any(|start| line.starts_with(start))
    };
    for line in sections.lines().filter(|line| !extra(line)) {
        writeln!(text, "{line}")?;
    }
    for subcommand in command.get_subcommands() {
        render_subcommand(subcommand, text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_describes_subcommands_and_theirs() {
        let page = String::from_utf8(page().expect("rendered")).expect("UTF-8");
        for part in [
            "mbctl init",
            "base\\-port",
            "mbctl user add",
            "password\\-file",
        ] {
            assert!(page.contains(part), "`{part}` is not in\n{page}");
        }
        assert!(!page.contains("mbctl help\""));
    }
}
