//! `mbctl kill`: ends nodes at once, as by SIGKILL. A node of this machine that hangs is found by its pid file.

use std::time::Duration;

use messagebase_protocol::peer::AdminRequest;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::Serialize;

use crate::cluster::{Cluster, peer_client_error, unknown_node};
use crate::command::name_nodes;
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;
use crate::peer_client::PeerClientError;
use crate::poll::{Look, Patience, until};
use crate::process;

/// A node that has not died after this time hangs.
const KILL_DEADLINE: Duration = Duration::from_secs(1);
/// How long the system may take to end a process.
const GONE_PATIENCE: Patience = Patience {
    limit: Duration::from_secs(5),
    every: Duration::from_millis(10),
    speak: Duration::from_secs(2),
};

#[derive(Serialize)]
struct Killed {
    killed: Vec<u16>,
}

/// Runs the command.
///
/// # Errors
/// A node doesn't run, or hangs on another machine (exit 3).
pub async fn run(cluster: &Cluster, nodes: &[u16], output: &Output) -> Result<Exit, CtlError> {
    let mut failed = None;
    let mut killed = Vec::new();
    for node in nodes {
        match kill(cluster, *node, output).await {
            Ok(()) => killed.push(*node),
            // The other nodes are killed all the same: the operator named them all.
            Err(e) if failed.is_none() => failed = Some(e),
            Err(e) => output.note(format!("error: {e}")),
        }
    }
    if let Some(e) = failed {
        if !killed.is_empty() {
            output.note(format!("Killed {}.", name_nodes(&killed)));
        }
        return Err(e);
    }
    output.data(&Killed { killed }, |done| {
        format!("Killed {}.", name_nodes(&done.killed))
    });
    Ok(Exit::Done)
}

/// Kills one node and waits until its process is gone, where it can be seen.
///
/// # Errors
/// As [`run`].
pub async fn kill(cluster: &Cluster, node: u16, output: &Output) -> Result<(), CtlError> {
    let pid = process::running(&cluster.config, node);
    match (by_request(cluster, node).await, pid) {
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(pid)) => gone(cluster, node, pid, output).await,
        // It answered. A node that refuses the request is not killed through its pid.
        (Err(Stays::Refuses(e)), _) => Err(e),
        (Err(Stays::Hangs(_)), Some(pid)) => {
            // It hangs, is stopped or does not listen yet. SIGKILL ends it in each case.
            process::signal(pid, Signal::SIGKILL)?;
            gone(cluster, node, pid, output).await
        }
        (Err(Stays::Hangs(e)), None) => Err(e),
    }
}

/// Why a node did not die by a request.
enum Stays {
    /// No answer.
    Hangs(CtlError),
    /// It answered and refused.
    Refuses(CtlError),
}

impl From<PeerClientError> for Stays {
    fn from(e: PeerClientError) -> Self {
        match e {
            PeerClientError::Untrusted { .. }
            | PeerClientError::OtherCluster { .. }
            | PeerClientError::Refused { .. } => Stays::Refuses(peer_client_error(e)),
            PeerClientError::Unreachable { .. }
            | PeerClientError::Silent { .. }
            | PeerClientError::Lost { .. }
            | PeerClientError::Garbled { .. } => Stays::Hangs(peer_client_error(e)),
        }
    }
}

/// Asks the node to kill itself. It did if the connection breaks; a killed process can't answer.
async fn by_request(cluster: &Cluster, node: u16) -> Result<(), Stays> {
    let mut client = match cluster.config.node(node) {
        Some(found) => cluster.connect_to(node, &found.peer.to_string()).await?,
        None => cluster
            .connect(node)
            .await
            .map_err(|_| Stays::Refuses(unknown_node(&cluster.config, node)))?,
    };
    match client.call(AdminRequest::Kill, KILL_DEADLINE).await {
        Err(PeerClientError::Lost { .. }) => Ok(()),
        Err(e) => Err(e.into()),
        Ok(Err(e)) => Err(Stays::Refuses(e.into())),
        Ok(Ok(_)) => {
            let message = format!("node {node} says that it died, so it did not");
            Err(Stays::Refuses(CtlError::failed("internal", message)))
        }
    }
}

/// Waits until a process is gone.
///
/// # Errors
/// It is still there after 5 s (exit 1).
pub async fn gone(cluster: &Cluster, node: u16, pid: Pid, output: &Output) -> Result<(), CtlError> {
    let waited = until(output, GONE_PATIENCE, || async {
        if process::running(&cluster.config, node) == Some(pid) {
            return Ok::<_, CtlError>(Look::Missing(format!(
                "process {pid} of node {node} to end"
            )));
        }
        Ok(Look::Found(()))
    });
    waited.await?.map_err(|_| {
        CtlError::failed(
            "still_running",
            format!("process {pid} of node {node} does not end"),
        )
        .hint("a process that the system can't end waits for its disk: look at `dmesg`")
    })
}
