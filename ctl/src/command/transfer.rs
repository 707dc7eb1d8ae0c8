//! `mbctl transfer N`: hands leadership over and waits until it arrived.

use std::time::Duration;

use messagebase_protocol::peer::AdminRequest;
use serde::Serialize;

use crate::cluster::{CALL_DEADLINE, Cluster, unknown_node};
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;
use crate::poll::{Look, Patience, until};

/// How long the new leader may take.
const ARRIVE_PATIENCE: Patience = Patience {
    limit: Duration::from_secs(5),
    every: Duration::from_millis(100),
    speak: Duration::from_secs(2),
};

/// What was done.
#[derive(Debug, Serialize)]
pub struct Transferred {
    /// Who leads now.
    pub leader: u16,
    /// In which term.
    pub term: u64,
}

/// Runs the command.
///
/// # Errors
/// Nobody leads (exit 3); the leader refuses, or leadership went elsewhere (exit 1).
pub async fn run(cluster: &Cluster, to: u16, output: &Output) -> Result<Exit, CtlError> {
    let done = hand_over(cluster, to, output).await?;
    output.data(&done, |done| {
        format!("Node {} leads in term {}.", done.leader, done.term)
    });
    Ok(Exit::Done)
}

/// Hands leadership over and waits until it arrived.
///
/// # Errors
/// As [`run`].
pub async fn hand_over(
    cluster: &Cluster,
    to: u16,
    output: &Output,
) -> Result<Transferred, CtlError> {
    let survey = cluster.survey().await;
    if !survey.rows.iter().any(|row| row.node == to) {
        return Err(unknown_node(&cluster.config, to));
    }
    if survey.quorum_view().leader != Some(to) {
        cluster
            .ask_leader(output, &AdminRequest::Transfer { to }, CALL_DEADLINE)
            .await?;
    }
    let arrived = until(output, ARRIVE_PATIENCE, || async {
        let survey = cluster.survey().await;
        Ok::<_, CtlError>(match (survey.quorum_view().leader, survey.report(to)) {
            (Some(leader), Some(report)) if leader == to => Look::Found(report.term),
            _ => Look::Missing(format!("node {to} to lead")),
        })
    });
    let term = arrived.await?.map_err(|_| {
        CtlError::failed("not_transferred", format!("node {to} does not lead"))
            .hint("`mbctl status` shows who does")
    })?;
    Ok(Transferred { leader: to, term })
}
