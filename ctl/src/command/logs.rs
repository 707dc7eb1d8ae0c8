//! `mbctl logs N`: the daemon's log of a node that `mbctl up` started on this machine.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use messagebase_config::Config;

use crate::cli::LogsArgs;
use crate::cluster::unknown_node;
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;
use crate::process::log_file;

/// How often a followed log is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Runs the command.
///
/// # Errors
/// There is no such node (exit 2), or no log of it here (exit 1).
pub async fn run(config: &Config, arguments: &LogsArgs, output: &Output) -> Result<Exit, CtlError> {
    let node = arguments.node;
    if config.node(node).is_none() {
        return Err(unknown_node(config, node));
    }
    let path = log_file(config, node);
    let mut file = open(&path, node)?;
    let mut ticks = tokio::time::interval(FOLLOW_EVERY);
    loop {
        copy(&mut file, &path, output)?;
        if !arguments.follow {
            return Ok(Exit::Done);
        }
        ticks.tick().await;
        if replaced(&file, &path) {
            file = open(&path, node)?;
        }
    }
}

fn open(path: &Path, node: u16) -> Result<File, CtlError> {
    File::open(path).map_err(|e| {
        CtlError::failed("no_log", format!("there is no log of node {node} at {}", path.display()))
            .because(e)
            .hint("only `mbctl up` writes it; a daemon that something else started logs to that one's standard error")
    })
}

/// Prints what is there to the end.
fn copy(file: &mut File, path: &Path, output: &Output) -> Result<(), CtlError> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let failed =
        |e| CtlError::failed("io", format!("failed to read {}", path.display())).because(e);
    loop {
        match file.read(&mut chunk).map_err(failed)? {
            0 => return Ok(()),
            read => output.raw(&chunk[..read]),
        }
    }
}

/// Whether the log was rotated: another file has its name, or it was cut to less than was read.
fn replaced(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), std::fs::metadata(path)) else {
        return false;
    };
    let read = (&mut &*file).stream_position().unwrap_or(0);
    open.ino() != named.ino() || named.len() < read
}
