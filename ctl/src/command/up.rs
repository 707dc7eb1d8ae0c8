//! `mbctl up`: starts this machine's nodes in the background and waits until the cluster serves.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use messagebase_config::{Address, Config, NodeConfig};
use messagebase_protocol::role::NodeRole;
use serde::Serialize;

use crate::cluster::{Cluster, Row, Survey, explain};
use crate::command::{name_nodes, these_or_here};
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;
use crate::poll::{Look, Patience, until};
use crate::process::{self, Started};

/// How long the cluster may take to serve.
const SERVE_PATIENCE: Patience = Patience {
    limit: Duration::from_secs(60),
    every: Duration::from_millis(150),
    speak: Duration::from_secs(3),
};

/// How long a port may stay taken: a process that was killed releases its ports a moment after it left the process list.
const PORT_PATIENCE: Patience = Patience {
    limit: Duration::from_secs(1),
    every: Duration::from_millis(50),
    speak: Duration::from_secs(2),
};

/// Every node waits for a moment at its start, until it knows its role. A node that waits longer than this waits for an
/// operator.
const SETTLED_MS: u64 = 5_000;

/// What was done.
#[derive(Debug, Serialize)]
pub struct Brought {
    /// Nodes that were started.
    pub started: Vec<u16>,
    /// Nodes that already ran.
    pub running: Vec<u16>,
    /// Nodes that wait for `member replace`.
    pub waiting: Vec<u16>,
    /// The leader.
    pub leader: Option<u16>,
}

/// Runs the command.
///
/// # Errors
/// A port is taken or a daemon ended early (exit 1), or the cluster doesn't serve in time (exit 3).
pub async fn run(cluster: &Cluster, named: &[u16], output: &Output) -> Result<Exit, CtlError> {
    let nodes = these_or_here(&cluster.config, named)?;
    let brought = bring_up(cluster, &nodes, output).await?;
    output.data(&brought, text);
    Ok(Exit::Done)
}

fn text(brought: &Brought) -> String {
    let mut lines = Vec::new();
    if !brought.started.is_empty() {
        lines.push(format!("Started {}.", name_nodes(&brought.started)));
    }
    if !brought.running.is_empty() {
        lines.push(format!(
            "Running already: {}.",
            name_nodes(&brought.running)
        ));
    }
    for node in &brought.waiting {
        lines.push(format!(
            "Node {node} runs, but waits: `mbctl status` says for what."
        ));
    }
    if let Some(leader) = brought.leader {
        lines.push(format!("The cluster serves; node {leader} leads."));
    }
    lines.join("\n")
}

/// Starts what doesn't run and waits until the cluster serves.
///
/// # Errors
/// As [`run`].
pub async fn bring_up(
    cluster: &Cluster,
    nodes: &[u16],
    output: &Output,
) -> Result<Brought, CtlError> {
    let runs = |node: &u16| process::running(&cluster.config, *node).is_some();
    let (running, stopped): (Vec<u16>, Vec<u16>) = nodes.iter().partition(|node| runs(node));
    check_ports(&cluster.config, &stopped, output).await?;
    let mut started = Vec::new();
    for node in stopped {
        started.push(process::start(&cluster.config, node)?);
    }
    let numbers = started.iter().map(|started| started.node).collect();
    let (leader, waiting) = wait_until_served(cluster, nodes, &mut started, output).await?;
    Ok(Brought {
        started: numbers,
        running,
        waiting,
        leader: Some(leader),
    })
}

/// Checks that the addresses of nodes that are to start are free, so that no node starts if one can't.
///
/// # Errors
/// An address is taken (exit 1).
async fn check_ports(config: &Config, nodes: &[u16], output: &Output) -> Result<(), CtlError> {
    let free = until(output, PORT_PATIENCE, || async {
        let taken = config
            .nodes
            .iter()
            .filter(|node| nodes.contains(&node.id))
            .find_map(|node| Some((node.id, taken_address(node)?)));
        Ok::<_, CtlError>(taken.map_or(Look::Found(()), |(node, address)| {
            Look::Missing(format!(
                "node {node} can't listen on {address}: the port is taken"
            ))
        }))
    });
    free.await?.map_err(|taken| {
        CtlError::failed("port_taken", taken).hint(
            "another cluster may run there; `mbctl init --base-port P --dir DIR` makes one on ports of your choice",
        )
    })
}

/// The first of a node's addresses on which another process listens. Other obstacles are left to `mbd`, which knows them
/// better.
fn taken_address(node: &NodeConfig) -> Option<String> {
    let addresses = [
        Some(node.client_bind.as_ref().unwrap_or(&node.client)),
        Some(node.peer_bind.as_ref().unwrap_or(&node.peer)),
        node.http_bind.as_ref().or(node.http.as_ref()),
        node.plain.as_ref(),
    ];
    let taken = |address: &&Address| {
        TcpListener::bind((address.host.as_str(), address.port))
            .is_err_and(|e| e.kind() == ErrorKind::AddrInUse)
    };
    let address = addresses.into_iter().flatten().find(taken)?;
    Some(address.to_string())
}

async fn wait_until_served(
    cluster: &Cluster,
    nodes: &[u16],
    started: &mut [Started],
    output: &Output,
) -> Result<(u16, Vec<u16>), CtlError> {
    // A cell, because the closure makes a new future for each poll, and each future needs the children.
    let started = std::cell::RefCell::new(started);
    let served = until(output, SERVE_PATIENCE, || async {
        for child in started.borrow_mut().iter_mut() {
            if let Some(status) = child.ended() {
                return Err(ended_early(child, status));
            }
        }
        Ok(served(&cluster.survey().await, nodes))
    });
    served.await?.map_err(|missing| {
        let seconds = SERVE_PATIENCE.limit.as_secs();
        CtlError::no_quorum(format!("the cluster does not serve after {seconds} s: {missing}"))
            .hint("`mbctl status` shows each node, `mbctl logs N` what it says; the nodes were left running")
    })
}

/// Why a daemon that was started has ended: the last lines of its log.
pub fn ended_early(child: &Started, status: std::process::ExitStatus) -> CtlError {
    let node = child.node;
    let lines = child.last_lines().replace('\n', "\n  ");
    let said = if lines.is_empty() {
        " and wrote nothing".into()
    } else {
        format!(". Its last lines:\n  {lines}")
    };
    CtlError::failed(
        "node_ended",
        format!("node {node} ended early ({status}){said}"),
    )
    .hint(format!(
        "`mbctl logs {node}` shows all of its log; other nodes were left as they are"
    ))
}

/// Whether a majority follows a leader, and each of `nodes` serves or waits for an operator.
fn served(survey: &Survey, nodes: &[u16]) -> Look<(u16, Vec<u16>)> {
    let Some(leader) = survey.quorum_view().leader else {
        let silent = survey.rows.iter().filter_map(not_there);
        let waits = survey
            .reports()
            .into_iter()
            .filter_map(|report| report.waiting_for.clone());
        let reasons: Vec<String> = silent.chain(waits).collect();
        let reasons = if reasons.is_empty() {
            survey.why_no_leader()
        } else {
            dedup(reasons).join("; ")
        };
        return Look::Missing(reasons);
    };
    let mut waiting = Vec::new();
    for row in survey.rows.iter().filter(|row| nodes.contains(&row.node)) {
        match &row.answer {
            Ok(report) if report.role == NodeRole::Waiting && report.uptime_ms >= SETTLED_MS => {
                waiting.push(row.node)
            }
            Ok(report) if report.role == NodeRole::Waiting => {
                let what = report
                    .waiting_for
                    .clone()
                    .unwrap_or_else(|| "it has just been started".into());
                return Look::Missing(format!("node {}: {what}", row.node));
            }
            Ok(report) if report.ready => {}
            Ok(_) => return Look::Missing(format!("node {} is not ready yet", row.node)),
            Err(e) => return Look::Missing(explain(e)),
        }
    }
    Look::Found((leader, waiting))
}

fn not_there(row: &Row) -> Option<String> {
    row.answer
        .is_err()
        .then(|| format!("node {} does not answer yet", row.node))
}

fn dedup(mut reasons: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    reasons.retain(|reason| seen.insert(reason.clone()));
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::init::{self, Shape};
    use crate::testing::{report, survey};

    #[tokio::test]
    async fn no_node_starts_while_a_port_of_one_is_taken() {
        let dir = tempfile::tempdir().expect("dir");
        let other = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = other.local_addr().expect("bound").port();
        let shape = Shape {
            cluster: "x",
            nodes: 2,
            base_port: 9_000,
            limits: &[],
        };
        let file = dir.path().join("messagebase.toml");
        let (mut config, _) = init::make(&file, &shape).expect("made");
        for node in &mut config.nodes {
            // Port 0 is always free.
            (node.client.port, node.peer.port) = (0, 0);
            (node.http, node.plain) = (None, None);
        }
        config.nodes[1].peer.port = port;
        let cluster = Cluster::of(config).expect("usable");
        let e = bring_up(&cluster, &[1, 2], &Output::new(false)).await;
        let e = e.expect_err("refused");
        let taken = format!("node 2 can't listen on 127.0.0.1:{port}");
        assert!(e.to_string().starts_with(&taken), "{e}");
        let hint = e.hint_text().unwrap_or_default();
        assert!(hint.contains("--base-port"), "{hint}");
        let started = crate::process::log_file(&cluster.config, 1).exists();
        assert!(!started, "node 1 was not started");
    }

    #[test]
    fn a_cluster_serves_when_every_started_node_is_ready_or_waits_for_an_operator() {
        let all = [1, 2, 3];
        let two = vec![
            report(1, NodeRole::Leader, 4, Some(1), &all),
            report(2, NodeRole::Follower, 4, Some(1), &all),
        ];
        assert!(
            matches!(served(&survey(two.clone()), &[1, 2]), Look::Found((1, waiting)) if waiting.is_empty())
        );
        let mut slow = two.clone();
        slow[1].ready = false;
        assert!(
            matches!(served(&survey(slow), &[1, 2]), Look::Missing(what) if what.contains("node 2"))
        );
        let mut blank = two;
        blank.push(report(3, NodeRole::Waiting, 0, None, &[]));
        let mut fresh = blank.clone();
        fresh[2].uptime_ms = 100;
        assert!(
            matches!(served(&survey(fresh), &[1, 2, 3]), Look::Missing(what) if what.starts_with("node 3: "))
        );
        assert!(
            matches!(served(&survey(blank), &[1, 2, 3]), Look::Found((1, waiting)) if waiting == [3])
        );
        let forming = survey(vec![report(1, NodeRole::Waiting, 0, None, &[])]);
        assert!(
            matches!(served(&forming, &[1]), Look::Missing(what) if what.contains("mbctl member replace"))
        );
    }
}
