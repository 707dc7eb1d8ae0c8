//! `mbctl member`: the replica set of a running cluster, changed by its leader.

use std::time::Duration;

use messagebase_protocol::peer::{AdminCode, AdminOk, AdminRequest, MemberRow};
use serde::Serialize;

use crate::cli::MemberCommand;
use crate::cluster::{CALL_DEADLINE, Cluster, unexpected, unknown_node};
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;
use crate::poll::{Look, Patience, until};
use crate::table::{Column, or_none, render};

/// A change of membership is answered when a majority has it, and a replaced node when it has caught up.
const CHANGE_DEADLINE: Duration = Duration::from_secs(120);
/// How long a learner that is asked to vote may go on catching up: with little data that is a moment.
const CATCH_UP_PATIENCE: Patience = Patience {
    limit: Duration::from_secs(10),
    every: Duration::from_millis(200),
    speak: Duration::from_secs(3),
};
/// How often a change that takes long is mentioned.
const SPEAK_EVERY: Duration = Duration::from_secs(5);

/// Runs the command.
///
/// # Errors
/// Nobody leads (exit 3), or the leader refuses (exit 1).
pub async fn run(
    cluster: &Cluster,
    command: &MemberCommand,
    output: &Output,
) -> Result<Exit, CtlError> {
    let (request, done) = match command {
        MemberCommand::List => return list(cluster, output).await,
        MemberCommand::Add(one) => (
            add(cluster, one.node)?,
            format!("Node {} is a learner now.", one.node),
        ),
        MemberCommand::Remove(one) => (
            AdminRequest::MemberRemove { node: one.node },
            format!("Node {} is no member any more.", one.node),
        ),
        MemberCommand::Promote(one) => (
            AdminRequest::MemberPromote { node: one.node },
            format!("Node {} votes now.", one.node),
        ),
        MemberCommand::Replace(one) => (
            AdminRequest::MemberReplace { node: one.node },
            format!("Node {} is back under a new identity.", one.node),
        ),
    };
    let change = carry_out(cluster, &request, output);
    tokio::pin!(change);
    let mut ticks = tokio::time::interval(SPEAK_EVERY);
    ticks.tick().await;
    loop {
        tokio::select! {
            changed = &mut change => {
                changed?;
                break;
            }
            _ = ticks.tick() => output.note("waiting: the leader carries the change out"),
        }
    }
    let members = members(cluster, output).await?;
    output.data(&members, |members| format!("{done}\n{}", text(members)));
    Ok(Exit::Done)
}

/// Asks the leader; again while it says that the node is catching up.
async fn carry_out(
    cluster: &Cluster,
    request: &AdminRequest,
    output: &Output,
) -> Result<(), CtlError> {
    let caught_up = until(output, CATCH_UP_PATIENCE, || async {
        match cluster.ask_leader(output, request, CHANGE_DEADLINE).await {
            Ok(_) => Ok(Look::Found(())),
            Err(e) if e.code() == AdminCode::Behind.as_str() => Ok(Look::Missing(e.to_string())),
            Err(e) => Err(e),
        }
    });
    caught_up.await?.map_err(|behind| {
        CtlError::failed(AdminCode::Behind.as_str(), behind)
            .hint("try again once `mbctl status` shows little lag")
    })
}

fn add(cluster: &Cluster, node: u16) -> Result<AdminRequest, CtlError> {
    let found = cluster.config.node(node).ok_or_else(|| {
        unknown_node(&cluster.config, node)
            .hint("add a `[[node]]` with its addresses, then `mbctl init` makes its keys")
    })?;
    Ok(AdminRequest::MemberAdd {
        node,
        client: found.client.to_string(),
        peer: found.peer.to_string(),
    })
}

#[derive(Serialize)]
struct Members {
    members: Vec<MemberRow>,
    /// Who leads; null when the list is only what one node knows.
    leader: Option<u16>,
}

async fn list(cluster: &Cluster, output: &Output) -> Result<Exit, CtlError> {
    let survey = cluster.survey().await;
    let leader = survey.quorum_view().leader;
    let reader = cluster.reader(leader).await?;
    if leader.is_none() {
        output.note(format!("nobody leads: this is what node {reader} knows"));
    }
    let members = ask(cluster, reader, leader).await?;
    output.data(&members, text);
    Ok(Exit::Done)
}

async fn members(cluster: &Cluster, output: &Output) -> Result<Members, CtlError> {
    let leader = cluster.leader(output).await?;
    ask(cluster, leader, Some(leader)).await
}

async fn ask(cluster: &Cluster, node: u16, leader: Option<u16>) -> Result<Members, CtlError> {
    match cluster
        .ask(node, AdminRequest::MemberList, CALL_DEADLINE)
        .await?
    {
        AdminOk::Members(members) => Ok(Members { members, leader }),
        other => Err(unexpected(&other)),
    }
}

const COLUMNS: [Column; 5] = [
    ("NODE", true),
    ("GENERATION", true),
    ("VOTES", false),
    ("CLIENT", false),
    ("PEER", false),
];

fn text(members: &Members) -> String {
    let row = |member: &MemberRow| {
        let votes = if member.voter { "yes" } else { "no (learner)" };
        vec![
            member.node.to_string(),
            member.generation.to_string(),
            votes.to_owned(),
            member.client.clone(),
            member.peer.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = members.members.iter().map(row).collect();
    format!(
        "{}\n\nLeader: {}",
        render(&COLUMNS, &rows),
        or_none(members.leader)
    )
}
