//! `mbctl backup`: a consistent copy from a live node, wherever it runs, fetched in pieces into a new file here.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use messagebase_protocol::peer::{AdminOk, AdminRequest, BackupPiece};
use messagebase_protocol::role::NodeRole;
use serde::Serialize;

use crate::atomic_file::Unpublished;
use crate::cli::BackupArgs;
use crate::cluster::{CALL_DEADLINE, Cluster, Survey, peer_client_error, unexpected};
use crate::error::CtlError;
use crate::exit::Exit;
use crate::interruption::Interruption;
use crate::output::Output;
use crate::peer_client::{PeerClient, PeerClientError};
use crate::table;

/// How long a node may take to apply what was committed when the command began, and to begin.
const BEGIN_DEADLINE: Duration = Duration::from_secs(15);
/// How often progress is told.
const SPEAK_EVERY: Duration = Duration::from_secs(5);
/// What is synced at a time: one sync of the whole file would hold up those of a node on the same disk.
const SYNC_BYTES: u64 = 16 * 1024 * 1024;

/// What was done.
#[derive(Debug, Serialize)]
struct Taken {
    file: String,
    node: u16,
    cluster_id: Option<String>,
    /// Last entry that is in it.
    applied: u64,
    bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// No node answers (exit 3), the file is there already (exit 2), the node refuses or the disk does (exit 1).
pub async fn run(
    cluster: &Cluster,
    arguments: &BackupArgs,
    output: &Output,
) -> Result<Exit, CtlError> {
    let path = &arguments.file;
    if path.exists() {
        return Err(
            CtlError::usage(format!("{} is there already", path.display()))
                .hint("a backup never replaces a file: choose another name"),
        );
    }
    let survey = cluster.survey().await;
    let node = match arguments.node {
        Some(node) => node,
        None => follower(&survey).map_or_else(|| Err(survey.silence()), Ok)?,
    };
    let leader = survey
        .quorum_view()
        .leader
        .and_then(|leader| survey.report(leader));
    if leader.is_none() {
        output.note(format!(
            "nobody leads: node {node} may lack what was acknowledged last"
        ));
    }
    let at = leader.and_then(|leader| leader.committed);
    let mut interruption = Interruption::listen()?;
    let mut file = Unpublished::begin(path).map_err(|e| disk(path, e))?;
    let mut client = cluster.connect(node).await?;
    let (applied, bytes) = tokio::select! {
        fetched = fetch(&mut client, at, &mut file, path, output) => fetched?,
        // What was written goes with `file`.
        which = interruption.came() => {
            return Err(CtlError::failed("interrupted", format!("{which}; there is no backup")));
        }
    };
    file.finish().map_err(|e| disk(path, e))?;
    let cluster_id = survey
        .report(node)
        .and_then(|report| report.cluster_id.clone());
    let taken = Taken {
        file: path.display().to_string(),
        node,
        cluster_id,
        applied,
        bytes,
    };
    output.data(&taken, |taken| {
        let text = format!(
            "Backed up node {} as of entry {applied} into {}, {}.",
            node,
            taken.file,
            table::bytes(bytes)
        );
        format!("{text}\nIt holds messages and password hashes: keep it as you keep the nodes.")
    });
    Ok(Exit::Done)
}

/// The follower that has applied most, so that the leader has its disk to itself; else any node that can be read from.
fn follower(survey: &Survey) -> Option<u16> {
    let reports = survey.reports();
    let followers = reports
        .iter()
        .filter(|report| report.role == NodeRole::Follower && report.ready);
    followers
        .max_by_key(|report| report.applied)
        .map(|report| report.node)
        .or_else(|| survey.best_reader())
}

/// Fetches all pieces; the last entry in it and the bytes.
async fn fetch(
    client: &mut PeerClient,
    at: Option<u64>,
    file: &mut Unpublished,
    path: &Path,
    output: &Output,
) -> Result<(u64, u64), CtlError> {
    let id = match client
        .call(AdminRequest::Backup { at }, BEGIN_DEADLINE)
        .await
        .map_err(peer_client_error)??
    {
        AdminOk::BackupBegun { id } => id,
        other => return Err(unexpected(&other)),
    };
    let mut offset = 0;
    let mut synced = 0;
    let mut spoken = Instant::now();
    loop {
        let request = AdminRequest::BackupPiece { id, offset };
        let piece = match client
            .call(request, CALL_DEADLINE)
            .await
            .map_err(broken_off)??
        {
            AdminOk::BackupPiece(piece) => piece,
            other => return Err(unexpected(&other)),
        };
        if spoken.elapsed() >= SPEAK_EVERY {
            spoken = Instant::now();
            output.note(match piece.total {
                None => "waiting: the node copies its state".into(),
                Some(total) => format!(
                    "received {} of {}",
                    table::bytes(offset),
                    table::bytes(total)
                ),
            });
        }
        let BackupPiece {
            total: Some(total),
            applied,
            bytes,
        } = piece
        else {
            continue;
        };
        if bytes.is_empty() && offset < total {
            return Err(CtlError::failed("internal", "the node sent an empty piece"));
        }
        // Blocks, which keeps nobody waiting but the node for its next question.
        file.file().write_all(&bytes).map_err(|e| disk(path, e))?;
        offset += bytes.len() as u64;
        if offset - synced >= SYNC_BYTES {
            synced = offset;
            file.file().sync_data().map_err(|e| disk(path, e))?;
        }
        if offset >= total {
            return Ok((applied, offset));
        }
    }
}

/// Nothing is unknown then, other than of a change that was asked for.
fn broken_off(e: PeerClientError) -> CtlError {
    CtlError::no_node("the backup broke off, nothing is left of it")
        .because(e)
        .hint("`mbctl status` shows the nodes; take it again, from another one with `--node N`")
}

fn disk(path: &Path, e: std::io::Error) -> CtlError {
    CtlError::failed("io", format!("failed to write {}", path.display())).because(e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Row;
    use crate::testing::report;
    use messagebase_protocol::peer::NodeReport;

    #[test]
    fn a_follower_that_keeps_up_is_asked_before_the_leader() {
        let all = [1, 2, 3];
        let mut reports = vec![
            report(1, NodeRole::Leader, 4, Some(1), &all),
            report(2, NodeRole::Follower, 4, Some(1), &all),
            report(3, NodeRole::Follower, 4, Some(1), &all),
        ];
        (reports[1].applied, reports[2].applied) = (Some(7), Some(9));
        let row = |report: NodeReport| Row {
            node: report.node,
            peer: String::new(),
            answer: Ok(report),
        };
        let survey = |reports: Vec<NodeReport>| Survey {
            rows: reports.into_iter().map(row).collect(),
        };
        assert_eq!(follower(&survey(reports.clone())), Some(3));
        reports[2].ready = false;
        assert_eq!(follower(&survey(reports.clone())), Some(2));
        reports.truncate(1);
        assert_eq!(follower(&survey(reports)), Some(1));
        assert_eq!(follower(&survey(Vec::new())), None);
    }
}
