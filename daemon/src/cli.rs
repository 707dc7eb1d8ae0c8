//! The command line of `mbd`: arguments, logging, exit codes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use messagebase_config::{Config, ConfigError, pki};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tracing::Level;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::prelude::*;

use crate::hooks::Hooks;
use crate::{memory, node};

/// Exit code for an unknown node, a bad configuration or key file.
const EXIT_CONFIG: u8 = 2;
/// Exit code for everything else.
const EXIT_FAILED: u8 = 1;
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

/// Parses the arguments and runs one node until it is to stop. Returns the exit code of the process.
pub fn main(hooks: Hooks) -> ExitCode {
    memory::return_freed_at_once();
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
        .and_then(|own| Ok((own, async_threads("clients", client_threads())?)));
    let (own, clients) = match started {
        Ok(started) => started,
        Err(e) => return leave(EXIT_FAILED, &format!("failed to start the runtime: {e}")),
    };
    let ended = own.block_on(node::run(
        Arc::new(config),
        arguments.node,
        tls,
        clients.handle().clone(),
        hooks,
    ));
    // Tasks that hang on a dead peer must not delay the exit.
    clients.shutdown_background();
    own.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => leave(EXIT_FAILED, &format!("{e:#}")),
    }
}

/// Prints the result to standard output as one line of JSON for `mbctl`; errors also go to standard error as usual.
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
    // The restore is done even when nobody reads the line.
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

/// All processors but one, at least one. Replication has a thread of its own: when thousands of clients come back at once,
/// their handshakes fill these threads, and a heartbeat behind them would come so late that the leader is suspected.
fn client_threads() -> usize {
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
    let (levels, unusable) = levels(std::env::var("RUST_LOG").ok().as_deref());
    // Standard error may be a pipe that nobody reads any more; reporting that there would panic.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(levels);
    match format {
        LogFormat::Text => registry
            .with(lines.with_ansi(false).with_target(false))
            .init(),
        LogFormat::Json => registry.with(lines.json()).init(),
    }
    if let Some(e) = unusable {
        tracing::warn!("RUST_LOG is ignored: {e}; it is a level, or a list of target=level");
    }
}

/// The levels to log at, by `RUST_LOG`; the default, and why, when that is not usable.
fn levels(wanted: Option<&str>) -> (Targets, Option<ParseError>) {
    // At `warn` openraft repeats with every heartbeat that a dead peer is dead; `raft` logs what an operator must know.
    let default = Targets::new()
        .with_default(Level::INFO)
        .with_target("openraft", Level::ERROR);
    match wanted.filter(|wanted| !wanted.trim().is_empty()) {
        None => (default, None),
        Some(wanted) => match wanted.parse() {
            Ok(levels) => (levels, None),
            Err(e) => (default, Some(e)),
        },
    }
}

/// The reason is the last line, so that it is found at the end of `mbd.log`.
fn leave(code: u8, why: &str) -> ExitCode {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "error: {why}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_log_is_a_level_or_a_list_and_nonsense_is_the_default() {
        let enabled = |wanted, target: &str, level: Level| {
            let (levels, unusable) = levels(wanted);
            (levels.would_enable(target, &level), unusable.is_some())
        };
        for unset in [None, Some(" ")] {
            assert_eq!(
                enabled(unset, "messagebase_daemon::node", Level::INFO),
                (true, false)
            );
            assert_eq!(enabled(unset, "openraft", Level::WARN), (false, false));
        }
        assert_eq!(
            enabled(Some("debug"), "openraft", Level::DEBUG),
            (true, false)
        );
        let list = Some("info,openraft=warn");
        assert_eq!(enabled(list, "openraft", Level::WARN), (true, false));
        assert_eq!(enabled(list, "openraft", Level::INFO), (false, false));
        assert_eq!(
            enabled(list, "messagebase_daemon", Level::INFO),
            (true, false)
        );
        assert_eq!(
            enabled(
                Some("info,openraft=loud"),
                "messagebase_daemon",
                Level::INFO
            ),
            (true, true)
        );
    }
}
