//! The nodes of the cluster as an operator reaches them: all at once, one by number, or the leader. Decides nothing:
//! [`crate::quorum_view`] does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use messagebase_config::{Config, pki};
use messagebase_protocol::peer::{AdminErrorKind, AdminOk, AdminRequest, NodeReport};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use crate::error::CtlError;
use crate::output::Output;
use crate::peer_client::{PeerClient, PeerClientError};
use crate::poll::{Look, Patience, until};
use crate::quorum_view::{self, QuorumView};

/// A node that has not reported after this long counts as down.
pub const REPORT_DEADLINE: Duration = Duration::from_millis(900);
/// Answer to anything that is read or written once.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// How often "ask the other one" is followed before the answer is that nobody leads.
const LEADER_HOPS_MAX: usize = 4;
/// How long a leader is looked for. An election takes less; longer would only hide that there is none.
const LEADER_PATIENCE: Patience = Patience {
    limit: Duration::from_secs(3),
    every: Duration::from_millis(200),
    speak: Duration::from_secs(2),
};

/// One node and what it said of itself.
pub struct Row {
    /// Its number.
    pub node: u16,
    /// Where it was asked.
    pub peer: String,
    /// Its report, or why there is none.
    pub answer: Result<NodeReport, PeerClientError>,
}

/// What all nodes said, by number.
pub struct Survey {
    /// Every node of the configuration or of the reported membership.
    pub rows: Vec<Row>,
}

impl Survey {
    /// The reports of those that answered.
    pub fn reports(&self) -> Vec<&NodeReport> {
        self.rows
            .iter()
            .filter_map(|row| row.answer.as_ref().ok())
            .collect()
    }

    /// One node's report.
    pub fn report(&self, node: u16) -> Option<&NodeReport> {
        self.reports()
            .into_iter()
            .find(|report| report.node == node)
    }

    /// Who leads and whether there is a quorum.
    pub fn quorum_view(&self) -> QuorumView {
        quorum_view::quorum_view(&self.reports())
    }

    /// The node to read from when any will do: the leader, else the one that applied most.
    pub fn best_reader(&self) -> Option<u16> {
        let furthest = || {
            self.reports()
                .into_iter()
                .max_by_key(|report| (report.ready, report.applied))
        };
        self.quorum_view()
            .leader
            .or_else(|| furthest().map(|report| report.node))
    }

    /// Why there is no leader, for people.
    pub fn why_no_leader(&self) -> String {
        if self.reports().is_empty() {
            "no node answers".into()
        } else {
            no_leader(&self.quorum_view())
        }
    }

    /// Why nobody answered, one node a line.
    pub fn silence(&self) -> CtlError {
        let reasons: Vec<String> = self
            .rows
            .iter()
            .filter_map(|row| row.answer.as_ref().err().map(explain))
            .collect();
        CtlError::no_node(format!("no node answers\n  {}", reasons.join("\n  ")))
            .hint("start this machine's nodes with `mbctl up`")
    }
}

/// An error and its causes on one line.
pub fn explain(error: &PeerClientError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        text.push_str(&format!(": {e}"));
        cause = e.source();
    }
    text
}

/// The configuration and the admin's keys.
pub struct Cluster {
    /// The configuration.
    pub config: Config,
    tls: Arc<ClientConfig>,
}

impl Cluster {
    /// Reads the configuration and the admin's keys.
    ///
    /// # Errors
    /// Either is not usable (exit 2).
    pub fn open(flag: Option<&Path>) -> Result<Cluster, CtlError> {
        Self::of(Config::find(flag)?)
    }

    /// Reads the admin's keys.
    ///
    /// # Errors
    /// They are not usable (exit 2).
    pub fn of(config: Config) -> Result<Cluster, CtlError> {
        let tls = pki::admin_tls(&config.pki_dir)?;
        Ok(Cluster { config, tls })
    }

    /// Asks every node of the configuration at once, then the members that it doesn't name; at most twice
    /// [`REPORT_DEADLINE`].
    pub async fn survey(&self) -> Survey {
        let named = self
            .config
            .nodes
            .iter()
            .map(|node| (node.id, node.peer.to_string()))
            .collect();
        let mut survey = Survey {
            rows: self.report_all(named).await,
        };
        let unnamed: Vec<(u16, String)> = quorum_view::newest_members(&survey.reports())
            .iter()
            .filter(|member| self.config.node(member.node).is_none())
            .map(|member| (member.node, member.peer.clone()))
            .collect();
        if !unnamed.is_empty() {
            survey.rows.extend(self.report_all(unnamed).await);
        }
        survey.rows.sort_by_key(|row| row.node);
        survey
    }

    async fn report_all(&self, places: Vec<(u16, String)>) -> Vec<Row> {
        let mut asking = JoinSet::new();
        for (node, peer) in places {
            let tls = Arc::clone(&self.tls);
            asking.spawn(async move {
                let silent = PeerClientError::Silent {
                    node,
                    waited: REPORT_DEADLINE,
                };
                let answer = timeout(REPORT_DEADLINE, report(tls, node, &peer))
                    .await
                    .unwrap_or(Err(silent));
                Row { node, peer, answer }
            });
        }
        asking.join_all().await
    }

    /// Where a node's peer port is: by the configuration, else by the membership.
    async fn peer_of(&self, node: u16) -> Result<String, CtlError> {
        if let Some(found) = self.config.node(node) {
            return Ok(found.peer.to_string());
        }
        let survey = self.survey().await;
        let members = survey
            .rows
            .iter()
            .find(|row| row.node == node)
            .map(|row| row.peer.clone());
        members.ok_or_else(|| unknown_node(&self.config, node))
    }

    /// A connection to one node.
    ///
    /// # Errors
    /// The node is not known (exit 2) or can't be reached (exit 3).
    pub async fn connect(&self, node: u16) -> Result<PeerClient, CtlError> {
        let peer = self.peer_of(node).await?;
        self.connect_to(node, &peer)
            .await
            .map_err(peer_client_error)
    }

    /// A connection to one node at an address.
    ///
    /// # Errors
    /// As [`PeerClient::open`].
    pub async fn connect_to(&self, node: u16, peer: &str) -> Result<PeerClient, PeerClientError> {
        PeerClient::open(Arc::clone(&self.tls), node, peer).await
    }

    /// Asks one node.
    ///
    /// # Errors
    /// It can't be reached (exit 3) or refuses (exit 1).
    pub async fn ask(
        &self,
        node: u16,
        request: AdminRequest,
        deadline: Duration,
    ) -> Result<AdminOk, CtlError> {
        let mut client = self.connect(node).await?;
        Ok(client
            .call(request, deadline)
            .await
            .map_err(peer_client_error)??)
    }

    /// Asks the leader; a node that is not it points to it. A request whose connection broke is not repeated:
    /// it may have taken effect.
    ///
    /// # Errors
    /// Nobody leads or answers (exit 3), or the leader refuses (exit 1).
    pub async fn ask_leader(
        &self,
        output: &Output,
        request: &AdminRequest,
        deadline: Duration,
    ) -> Result<AdminOk, CtlError> {
        let mut at = self.leader(output).await?;
        for _ in 0..LEADER_HOPS_MAX {
            let mut client = self.connect(at).await?;
            match client
                .call(request.clone(), deadline)
                .await
                .map_err(peer_client_error)?
            {
                Ok(ok) => return Ok(ok),
                Err(e) if e.kind == AdminErrorKind::NotLeader => {
                    at = match e.leader {
                        Some(leader) if leader != at => leader,
                        _ => self.leader(output).await?,
                    };
                }
                Err(e) => return Err(e.into()),
            }
        }
        Err(CtlError::no_quorum("the nodes do not agree on who leads")
            .hint("look with `mbctl status --watch`"))
    }

    /// Who leads, waiting out an election.
    ///
    /// # Errors
    /// No node answers, or no majority follows one (exit 3).
    pub async fn leader(&self, output: &Output) -> Result<u16, CtlError> {
        let found = until(output, LEADER_PATIENCE, || async {
            let survey = self.survey().await;
            match survey.quorum_view().leader {
                Some(leader) => Ok(Look::Found(leader)),
                None if survey.reports().is_empty() => Err(survey.silence()),
                None => Ok(Look::Missing(survey.why_no_leader())),
            }
        });
        found.await?.map_err(|missing| {
            CtlError::no_quorum(missing)
                .hint("`mbctl status` shows each node; start the missing ones with `mbctl up`")
        })
    }

    /// The node to read from: the one named, else the leader, else the node that applied most.
    ///
    /// # Errors
    /// No node answers (exit 3).
    pub async fn reader(&self, named: Option<u16>) -> Result<u16, CtlError> {
        match named {
            Some(node) => Ok(node),
            None => {
                let survey = self.survey().await;
                survey.best_reader().ok_or_else(|| survey.silence())
            }
        }
    }
}

/// What is missing, for people.
fn no_leader(view: &QuorumView) -> String {
    match view {
        QuorumView { voters: 0, .. } => {
            "no node that answers knows of a cluster; it has not formed yet".into()
        }
        QuorumView {
            voters, agreeing, ..
        } if agreeing * 2 > *voters => "an election is going on".into(),
        QuorumView {
            voters, agreeing, ..
        } => {
            format!("{agreeing} of {voters} voters answer, which is no majority")
        }
    }
}

async fn report(
    tls: Arc<ClientConfig>,
    node: u16,
    peer: &str,
) -> Result<NodeReport, PeerClientError> {
    let mut client = PeerClient::open(tls, node, peer).await?;
    match client.call(AdminRequest::Report, REPORT_DEADLINE).await? {
        Ok(AdminOk::Report(report)) => Ok(*report),
        Ok(_) => Err(PeerClientError::Garbled {
            node,
            reason: "not a report".into(),
        }),
        Err(e) => Err(PeerClientError::Refused {
            node,
            reason: e.message,
        }),
    }
}

/// The exit code and hint for a node that could not be asked.
pub fn peer_client_error(e: PeerClientError) -> CtlError {
    match &e {
        PeerClientError::Unreachable { node, .. } => {
            let hint = format!("`mbctl up {node}` starts it if it belongs to this machine");
            CtlError::no_node(format!("node {node} does not answer"))
                .because(e)
                .hint(hint)
        }
        PeerClientError::Untrusted { .. } => {
            CtlError::no_node("the node was not trusted, or it did not trust us")
                .because(e)
                .hint(
                    "both ends need certificates of the same CA: compare pki/ca.pem here and there",
                )
        }
        PeerClientError::OtherCluster { .. } => CtlError::no_node(e.to_string()).hint(
            "its nodes have other keys; `mbctl init --base-port P --dir DIR` makes a cluster on ports of your choice",
        ),
        PeerClientError::Silent { node, .. } => {
            let hint = format!("if it hangs, `mbctl kill {node}` on its machine ends it");
            CtlError::no_node("a node is silent").because(e).hint(hint)
        }
        PeerClientError::Lost { .. } => {
            CtlError::no_node("the answer is missing, so the outcome is unknown")
                .because(e)
                .hint("look with `mbctl status`, then ask again")
        }
        PeerClientError::Refused { .. } | PeerClientError::Garbled { .. } => {
            CtlError::failed("refused", e.to_string())
        }
    }
}

/// A number that names no node.
pub fn unknown_node(config: &Config, node: u16) -> CtlError {
    let known: Vec<String> = config
        .nodes
        .iter()
        .map(|node| node.id.to_string())
        .collect();
    CtlError::usage(format!(
        "there is no node {node} in {}",
        config.path.display()
    ))
    .hint(format!("its nodes are {}", known.join(", ")))
}

/// The answer was of another kind than the request: a defect, or another version.
pub fn unexpected(ok: &AdminOk) -> CtlError {
    let kind = match ok {
        AdminOk::Done => "done",
        AdminOk::Report(_) => "a report",
        AdminOk::Members(_) => "members",
        AdminOk::Users(_) => "users",
        AdminOk::Rows(_) => "rows",
        AdminOk::Changes(_) => "changes",
        AdminOk::Digest { .. } => "a digest",
        AdminOk::BackupBegun { .. } => "a backup's number",
        AdminOk::BackupPiece(_) => "a backup's piece",
    };
    CtlError::failed(
        "internal",
        format!("the node answered something else than it was asked: {kind}"),
    )
}

#[cfg(test)]
mod tests;
