//! `mbctl down` and `mbctl stop`: a graceful stop through the peer port, or by SIGTERM where it does not answer.

use std::time::Duration;

use messagebase_protocol::peer::AdminRequest;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cluster::{CALL_DEADLINE, Cluster, explain, peer_client_error, unknown_node};
use crate::command::{name_nodes, these_or_here};
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;
use crate::peer_client::{PeerClient, PeerClientError};
use crate::poll::{Look, Patience, until};
use crate::process;

/// How long a node may take: it promises 5 s.
const STOP_PATIENCE: Patience = Patience {
    limit: Duration::from_secs(10),
    every: Duration::from_millis(50),
    speak: Duration::from_secs(3),
};

/// What was done.
#[derive(Debug, Default, Serialize)]
pub struct Stopped {
    /// Nodes that stopped.
    pub stopped: Vec<u16>,
    /// Nodes that did not run.
    pub not_running: Vec<u16>,
}

/// `mbctl down`: this machine's nodes, unless others are named.
///
/// # Errors
/// A node is still there after 10 s (exit 1).
pub async fn run(cluster: &Cluster, named: &[u16], output: &Output) -> Result<Exit, CtlError> {
    let nodes = these_or_here(&cluster.config, named)?;
    let stopped = take_down(cluster, &nodes, output).await?;
    output.data(&stopped, text);
    Ok(Exit::Done)
}

/// `mbctl stop`: the named nodes, wherever they run; one that doesn't run is an error.
///
/// # Errors
/// A node doesn't run (exit 3) or is still there after 10 s (exit 1).
pub async fn stop(cluster: &Cluster, nodes: &[u16], output: &Output) -> Result<Exit, CtlError> {
    let stopped = take_down(cluster, nodes, output).await?;
    if !stopped.not_running.is_empty() {
        return Err(CtlError::no_node(format!(
            "{} does not answer",
            name_nodes(&stopped.not_running)
        ))
        .hint("`mbctl status` shows which nodes run"));
    }
    output.data(&stopped, text);
    Ok(Exit::Done)
}

fn text(stopped: &Stopped) -> String {
    let mut lines = Vec::new();
    if !stopped.stopped.is_empty() {
        lines.push(format!("Stopped {}.", name_nodes(&stopped.stopped)));
    }
    if !stopped.not_running.is_empty() {
        lines.push(format!(
            "Not running: {}.",
            name_nodes(&stopped.not_running)
        ));
    }
    lines.join("\n")
}

/// Asks all nodes to stop and waits until they are gone.
///
/// # Errors
/// A node is still there after 10 s (exit 1), refuses (exit 1), or belongs to another cluster (exit 3).
pub async fn take_down(
    cluster: &Cluster,
    nodes: &[u16],
    output: &Output,
) -> Result<Stopped, CtlError> {
    for node in nodes {
        check_is_known(cluster, *node).await?;
    }
    let mut leaving = Leaving::default();
    for node in nodes {
        leaving.stop(cluster, *node, output).await?;
    }
    leaving.wait(cluster, output).await
}

/// A node that is not in the file may have been added elsewhere; a number that no member has is a typing error.
async fn check_is_known(cluster: &Cluster, node: u16) -> Result<(), CtlError> {
    let known = cluster.config.node(node).is_some()
        || cluster
            .survey()
            .await
            .rows
            .iter()
            .any(|row| row.node == node);
    if known {
        Ok(())
    } else {
        Err(unknown_node(&cluster.config, node))
    }
}

/// Nodes that were asked to stop.
#[derive(Default)]
struct Leaving {
    /// Of this machine, with their processes.
    processes: Vec<(u16, Pid)>,
    /// Of other machines: each task ends when the node closes the connection.
    connections: JoinSet<u16>,
    not_running: Vec<u16>,
    failed: Option<CtlError>,
}

impl Leaving {
    /// Asks one node. A failure is kept, because the other nodes are to stop all the same: the operator named them all,
    /// or meant all of this machine.
    async fn stop(
        &mut self,
        cluster: &Cluster,
        node: u16,
        output: &Output,
    ) -> Result<(), CtlError> {
        let pid = process::running(&cluster.config, node);
        match (ask(cluster, node).await, pid) {
            (Ok(_), Some(pid)) => self.processes.push((node, pid)),
            (Ok(mut client), None) => {
                self.connections.spawn(async move {
                    client.closed().await;
                    node
                });
            }
            // It answered. A node that refuses the request is not stopped through its pid.
            (
                Err(
                    e @ (PeerClientError::Untrusted { .. }
                    | PeerClientError::OtherCluster { .. }
                    | PeerClientError::Refused { .. }),
                ),
                _,
            ) => self.fail(e),
            (Err(e), Some(pid)) => {
                output.note(format!("{}; sending SIGTERM to process {pid}", explain(&e)));
                process::signal(pid, Signal::SIGTERM)?;
                self.processes.push((node, pid));
            }
            (Err(PeerClientError::Unreachable { .. }), None) => self.not_running.push(node),
            (Err(e), None) => self.fail(e),
        }
        Ok(())
    }

    /// Keeps the first failure.
    fn fail(&mut self, e: PeerClientError) {
        if self.failed.is_none() {
            self.failed = Some(peer_client_error(e));
        }
    }

    async fn wait(self, cluster: &Cluster, output: &Output) -> Result<Stopped, CtlError> {
        let late = |what: String| {
            CtlError::failed("still_running", format!("waited 10 s for {what}"))
                .hint("`mbctl logs N` says what a node does; `mbctl kill N` ends it at once and loses nothing acknowledged")
        };
        let ended = until(output, STOP_PATIENCE, || async {
            // `process::running` checks the command line: a process id that was used again is not taken for the node.
            let there =
                |(node, pid): &&(u16, Pid)| process::running(&cluster.config, *node) == Some(*pid);
            let there = self.processes.iter().filter(there);
            let there: Vec<u16> = there.map(|(node, _)| *node).collect();
            if there.is_empty() {
                return Ok::<_, CtlError>(Look::Found(()));
            }
            Ok(Look::Missing(format!("{} to finish", name_nodes(&there))))
        });
        ended.await?.map_err(late)?;
        let mut stopped: Vec<u16> = self.processes.iter().map(|(node, _)| *node).collect();
        match timeout(STOP_PATIENCE.limit, self.connections.join_all()).await {
            Ok(nodes) => stopped.extend(nodes),
            Err(_) => return Err(late("a node on another machine to finish".into())),
        }
        stopped.sort_unstable();
        match self.failed {
            Some(e) => Err(e),
            None => Ok(Stopped {
                stopped,
                not_running: self.not_running,
            }),
        }
    }
}

/// The connection on which the node said that it stops; it closes when that is done.
async fn ask(cluster: &Cluster, node: u16) -> Result<PeerClient, PeerClientError> {
    let peer = match cluster.config.node(node) {
        Some(found) => found.peer.to_string(),
        None => cluster
            .survey()
            .await
            .rows
            .into_iter()
            .find(|row| row.node == node)
            .map_or_else(String::new, |row| row.peer),
    };
    let mut client = cluster.connect_to(node, &peer).await?;
    match client.call(AdminRequest::Stop, CALL_DEADLINE).await {
        Ok(Ok(_)) | Err(PeerClientError::Lost { .. }) => Ok(client),
        Ok(Err(e)) => Err(PeerClientError::Refused {
            node,
            reason: e.message,
        }),
        Err(e) => Err(e),
    }
}
