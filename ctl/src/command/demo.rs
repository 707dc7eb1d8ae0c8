//! `mbctl demo`: a cluster and a chat in one step. Without a terminal it plays itself (`play.rs`).

use std::io::IsTerminal;
use std::path::Path;
use std::process::Stdio;

use messagebase_config::{Config, DATABASE_FILE, NodeConfig};
use tokio::process::Command;

use crate::cli::DemoArgs;
use crate::cluster::Cluster;
use crate::command::{name_nodes, up};
use crate::error::CtlError;
use crate::exit::Exit;
use crate::machine;
use crate::output::Output;
use crate::process::program;

mod client;
mod place;
mod play;

/// The account of the first terminal, and the one that is proposed for a second.
const USERS: [&str; 2] = ["anna", "ben"];

/// Runs the command.
///
/// # Errors
/// The cluster can't be made or doesn't serve, or a step of the play failed.
pub async fn run(
    flag: Option<&Path>,
    arguments: &DemoArgs,
    output: &Output,
) -> Result<Exit, CtlError> {
    let place = place::Sources::look(flag, arguments.dir.as_deref())?.place()?;
    let cluster = place.open(output)?;
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
        say(output, &invitation(&cluster.config, &here, brought.leader));
        chat(&cluster).await
    } else {
        play::play(&cluster, &here, output).await
    };
    let stop = format!("{} down", command("mbctl", &place.file));
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

/// What to paste into other terminals. Nodes of other machines can't be started from here, so they are not killed.
fn invitation(config: &Config, here: &[u16], leader: Option<u16>) -> String {
    let [first, second] = USERS;
    let (client, ctl) = (
        command("mbclient", &config.path),
        command("mbctl", &config.path),
    );
    let mut lines = vec![
        String::new(),
        format!(
            "You are {first}; the first time, choose a password. In a second terminal be {second}, then type /msg {second} hello:"
        ),
        format!("  {client} --user {second}"),
    ];
    let killed = leader.filter(|leader| here.contains(leader));
    if let Some(leader) = killed {
        lines.push("In a third, kill the node that leads, then bring it back:".to_owned());
        lines.push(format!("  {ctl} kill {leader}"));
        lines.push(format!("  {ctl} up {leader}"));
    }
    // A node that stays up while the leader is down.
    let other = |node: &&NodeConfig| here.contains(&node.id) && Some(node.id) != killed;
    if let Some(node) = config.nodes.iter().find(other) {
        if let Some(plain) = &node.plain {
            lines.push(
                "Chat without a client (1|cleo|a password, 2|cleo|a password, d|anna|hello):"
                    .to_owned(),
            );
            lines.push(format!("  nc {} {}", plain.host, plain.port));
        }
        let database = config.node_dir(node.id).join(DATABASE_FILE);
        lines.push(format!(
            "Look into the data of node {}, while it runs:",
            node.id
        ));
        lines.push(format!(
            "  sqlite3 -readonly {} 'SELECT * FROM user_summary'",
            quoted(&database.display().to_string())
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// A program and its configuration as a person can paste it into any directory's shell.
fn command(name: &str, config: &Path) -> String {
    let program = program(name).map_or_else(|_| name.to_owned(), |path| path.display().to_string());
    format!(
        "{} --config {}",
        quoted(&program),
        quoted(&config.display().to_string())
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

/// The client on this terminal, as the first user; it registers an account that is missing.
async fn chat(cluster: &Cluster) -> Result<Exit, CtlError> {
    let client = program("mbclient")?;
    let failed =
        |e| CtlError::failed("io", format!("failed to start {}", client.display())).because(e);
    let mut child = Command::new(&client)
        .arg("--config")
        .arg(&cluster.config.path)
        .args(["--user", USERS[0]])
        .stdin(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.map_err(failed)?,
            // Ctrl-C is for the client. Taken here, so that the last lines about the cluster still come after it.
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(Exit::Failed, Exit::Other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::init::{self, Shape};

    #[test]
    fn commands_can_be_pasted() {
        assert_eq!(quoted("/usr/bin/mbctl"), "/usr/bin/mbctl");
        assert_eq!(quoted("/my dir/it's"), r"'/my dir/it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn the_invitation_kills_the_leader_and_looks_at_a_node_that_stays() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("my cluster/messagebase.toml");
        let shape = Shape {
            cluster: "x",
            nodes: 3,
            base_port: 9_000,
            limits: &[],
        };
        let (config, _) = init::make(&file, &shape).expect("made");
        let text = invitation(&config, &[1, 2, 3], Some(1));
        let quoted_file = format!("--config '{}'", file.display());
        for wanted in [
            &format!("mbclient {quoted_file} --user ben"),
            &format!("mbctl {quoted_file} kill 1"),
            &format!("mbctl {quoted_file} up 1"),
            "nc 127.0.0.1 9302",
            "node-2/messagebase.db' 'SELECT",
        ] {
            assert!(text.contains(wanted), "`{wanted}` is not in\n{text}");
        }
        let remote = invitation(&config, &[2], Some(1));
        assert!(
            !remote.contains("kill"),
            "it could not be started again:\n{remote}"
        );
    }
}
