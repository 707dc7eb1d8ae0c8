//! `mbctl demo`: a cluster and a chat in one step. Without a terminal it plays itself (`play.rs`).

use std::io::IsTerminal;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use messagebase_config::{CONFIG_ENV, CONFIG_FILE};
use tokio::process::Command;

use crate::cli::DemoArgs;
use crate::cluster::Cluster;
use crate::command::init::{self, BASE_PORT, NODES, Shape};
use crate::command::{name_nodes, up};
use crate::error::CtlError;
use crate::exit::Exit;
use crate::machine;
use crate::output::Output;
use crate::process::program;

mod client;
mod play;

/// Where a new demo cluster goes.
const DIRECTORY: &str = "messagebase-demo";
/// Base ports that are tried when the usual ones are taken.
const BASE_PORTS: std::ops::Range<u16> = BASE_PORT..60_000;
/// From one base port to the next: the four kinds of a cluster's ports lie within 400.
const BASE_PORT_STEP: usize = 500;

/// Runs the command.
///
/// # Errors
/// The cluster can't be made or doesn't serve, or a step of the play failed.
pub async fn run(
    flag: Option<&Path>,
    arguments: &DemoArgs,
    output: &Output,
) -> Result<Exit, CtlError> {
    let file = place(flag, arguments.dir.as_deref())?;
    let cluster = open(&file, output)?;
    let here = machine::nodes_here(&cluster.config);
    let brought = up::bring_up(&cluster, &here, output).await?;
    if !brought.started.is_empty() {
        say(
            output,
            &format!(
                "Started {} in the background.",
                name_nodes(&brought.started)
            ),
        );
    }
    if let Some(leader) = brought.leader {
        say(output, &format!("The cluster serves; node {leader} leads."));
    }
    let person = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let ended = if person {
        chat(&cluster, output).await
    } else {
        play::play(&cluster, &here, output).await
    };
    let stop = format!("{} down", command("mbctl", &file));
    say(
        output,
        &format!("The cluster stays up. To stop it:\n  {stop}"),
    );
    ended
}

/// Progress goes to standard error when standard output is for JSON.
fn say(output: &Output, text: &str) {
    if output.is_json() {
        output.note(text);
    } else {
        output.line(text);
    }
}

/// The configuration that is meant: the one that was named, the one here, or the demo's own.
fn place(flag: Option<&Path>, dir: Option<&Path>) -> Result<PathBuf, CtlError> {
    let named = std::env::var_os(CONFIG_ENV)
        .filter(|named| !named.is_empty())
        .map(PathBuf::from);
    let file = match (flag, dir, named) {
        (Some(_), Some(_), _) => {
            return Err(CtlError::usage("--config and --dir exclude each other"));
        }
        (Some(flag), None, _) => flag.to_owned(),
        (None, Some(dir), _) => dir.join(CONFIG_FILE),
        (None, None, Some(named)) => named,
        (None, None, None) if Path::new(CONFIG_FILE).exists() => PathBuf::from(CONFIG_FILE),
        (None, None, None) => Path::new(DIRECTORY).join(CONFIG_FILE),
    };
    std::path::absolute(&file).map_err(|e| {
        CtlError::usage(format!("`{}` is not a usable path", file.display())).because(e)
    })
}

/// The cluster of a configuration; made, if it is not there, on ports that are free.
fn open(file: &Path, output: &Output) -> Result<Cluster, CtlError> {
    if file.exists() {
        let config = messagebase_config::Config::load(file)?;
        if messagebase_config::pki::admin_pem(&config.pki_dir).exists() {
            return Cluster::of(config);
        }
    }
    let shape = |base_port| Shape {
        cluster: "messagebase",
        nodes: NODES,
        base_port,
        limits: &[],
    };
    let base_port = if file.exists() {
        BASE_PORT
    } else {
        let mut bases = BASE_PORTS.step_by(BASE_PORT_STEP);
        bases.find(|base| init::ports(&shape(*base)).into_iter().all(is_free)).ok_or_else(|| {
            CtlError::failed("no_ports", "found no free ports for a demo cluster").hint(
                "`mbctl init --base-port P` takes ports of your choice, `mbctl demo` then uses that configuration",
            )
        })?
    };
    let (config, made) = init::make(file, &shape(base_port))?;
    if !made.created.is_empty() {
        let at = file.parent().unwrap_or(file);
        say(
            output,
            &format!(
                "Made a cluster of {} nodes in {}.",
                config.nodes.len(),
                at.display()
            ),
        );
    }
    Cluster::of(config)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// A command as a person can paste it.
fn command(name: &str, file: &Path) -> String {
    let program = program(name).map_or_else(|_| name.to_owned(), |path| path.display().to_string());
    format!(
        "{} --config {}",
        quoted(&program),
        quoted(&file.display().to_string())
    )
}

/// Quoted for a shell where it has to be.
fn quoted(text: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '+' | ':' | '@');
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The client on this terminal.
async fn chat(cluster: &Cluster, output: &Output) -> Result<Exit, CtlError> {
    let file = &cluster.config.path;
    say(
        output,
        &format!(
            "Chat with yourself from a second terminal:\n  {}\n",
            command("mbclient", file)
        ),
    );
    let client = program("mbclient")?;
    let failed =
        |e| CtlError::failed("io", format!("failed to start {}", client.display())).because(e);
    let mut child = Command::new(&client)
        .arg("--config")
        .arg(file)
        .stdin(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.map_err(failed)?,
            // Ctrl-C is for the client; taken here, so that the words about the cluster still come after it.
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(Exit::Failed, Exit::Other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_pasted() {
        assert_eq!(quoted("/usr/bin/mbctl"), "/usr/bin/mbctl");
        assert_eq!(quoted("/my dir/it's"), r"'/my dir/it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_taken_port_is_not_free() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        assert!(!is_free(taken.local_addr().expect("bound").port()));
    }
}
