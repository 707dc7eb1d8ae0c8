//! The command line of `mbd`: arguments, logging, exit codes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use messagebase_config::{Config, ConfigError, pki};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

use crate::{memory, node};

/// Exit code for an unknown node, a bad configuration or key file.
const EXIT_CONFIG: u8 = 2;
/// Exit code for everything else.
const EXIT_FAILED: u8 = 1;
/// Levels when RUST_LOG says nothing: openraft repeats at `warn`, every heartbeat, that a dead peer is dead;
/// what an operator must know of it is said by `raft`.
const DEFAULT_LEVELS: &str = "info,openraft=error";

/// One node of a MessageBase cluster. Runs in the foreground and logs to standard error.
#[derive(Parser)]
#[command(name = "mbd", version)]
struct Arguments {
    /// Number of this node in the configuration file.
    #[arg(long, value_name = "N")]
    node: u16,
    /// Configuration file [default: $MESSAGEBASE_CONFIG, else ./messagebase.toml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How log lines are written.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Make this node, on an empty data directory, the only member of a new cluster with what is in a backup, and end.
    /// `mbctl restore` does that and says what comes next.
    #[arg(long, value_name = "FILE")]
    restore: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Parses, runs one node until it is told to stop, and says with what success.
pub fn main() -> ExitCode {
    memory::bound();
    let arguments = Arguments::parse();
    log_to_standard_error(arguments.log_format);
    let (config, tls) = match load(&arguments) {
        Ok(loaded) => loaded,
        Err(e) => return leave(EXIT_CONFIG, &e.to_string()),
    };
    if let Some(file) = &arguments.restore {
        return restore(&config, arguments.node, file);
    }
    let started = async_threads("replication", 1)
        .and_then(|own| Ok((own, async_threads("clients", for_clients())?)));
    let (own, clients) = match started {
        Ok(started) => started,
        Err(e) => return leave(EXIT_FAILED, &format!("failed to start the runtime: {e}")),
    };
    let ended = own.block_on(node::run(
        Arc::new(config),
        arguments.node,
        tls,
        clients.handle().clone(),
    ));
    // Tasks that hang on a dead peer must not delay the exit.
    clients.shutdown_background();
    own.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => leave(EXIT_FAILED, &format!("{e:#}")),
    }
}

/// What came of it goes to standard output for `mbctl`, one line of JSON; what failed is said to people as ever.
fn restore(config: &Config, node: u16, file: &Path) -> ExitCode {
    let restored = match config.node(node) {
        Some(node) => node::restore(config, node, file),
        // Proof for the default: `load` checked that the node is configured.
        None => return leave(EXIT_CONFIG, "there is no such node"),
    };
    let (line, ended) = match &restored {
        Ok(restored) => (json!(restored), ExitCode::SUCCESS),
        Err(e) => {
            let why = e.to_string();
            (
                json!({ "error": { "code": e.code(), "message": why } }),
                leave(EXIT_FAILED, &why),
            )
        }
    };
    // What was done is done, whether somebody reads it or not.
    let _ = writeln!(std::io::stdout(), "{line}");
    ended
}

fn async_threads(name: &str, threads: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
}

/// All processors but one, at least one. Replication has a thread to itself: when thousands of clients come back at once,
/// their handshakes queue for these, and a heartbeat behind them would be so late that the leader is taken for dead.
fn for_clients() -> usize {
    std::thread::available_parallelism()
        .map_or(1, |processors| processors.get().saturating_sub(1).max(1))
}

fn load(arguments: &Arguments) -> Result<(Config, pki::NodeTls), ConfigError> {
    let config = Config::find(arguments.config.as_deref())?;
    if config.node(arguments.node).is_none() {
        let known: Vec<String> = config
            .nodes
            .iter()
            .map(|node| node.id.to_string())
            .collect();
        return Err(ConfigError {
            file: config.path.clone(),
            line: None,
            key: Some("node.id".into()),
            message: format!(
                "there is no node {}; the file has {}",
                arguments.node,
                known.join(", ")
            ),
            hint: Some(format!(
                "mbd --node {}",
                known.first().map_or("N", String::as_str)
            )),
        });
    }
    let tls = pki::node_tls(&config.pki_dir, arguments.node)?;
    Ok((config, tls))
}

fn log_to_standard_error(format: LogFormat) {
    let levels =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LEVELS));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(levels)
        .with_writer(std::io::stderr);
    // Standard error may be a pipe that nobody reads any more; complaining about that there would panic.
    let lines = lines.log_internal_errors(false);
    match format {
        LogFormat::Text => lines.with_ansi(false).with_target(false).init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// The reason is the last line, so that it is found at the end of `mbd.log`.
fn leave(code: u8, why: &str) -> ExitCode {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "error: {why}");
    ExitCode::from(code)
}
