//! `cargo demo`, `cargo xtask arrows`, `cargo xtask tidy` and `cargo xtask storm`: what cargo itself can't do for this workspace.
//!
//! Depends on nothing, so that it is built in a second before the long build that it announces. Everything that a
//! person meets at run time is in `mbctl`; this only gets them there.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool talks to its user"
)]

mod arrows;
mod demo;
mod sources;
mod storm;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo demo [ARGUMENTS OF mbctl demo] | cargo xtask arrows | cargo xtask tidy | cargo xtask storm --seeds 1-100";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next().unwrap_or_default();
    match command.to_str() {
        Some("demo") => demo::run(&workspace_root(), arguments.collect()),
        Some("arrows") => arrows::run(&workspace_root()),
        Some("tidy") => tidy::run(&workspace_root()),
        Some("storm") => storm::run(&workspace_root(), arguments.collect()),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// The directory of the workspace's `Cargo.toml`. Cargo says at run time where this package is; what it said at build
/// time is the fallback for a binary that is started by hand.
fn workspace_root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map(PathBuf::from).unwrap_or(package)
}
