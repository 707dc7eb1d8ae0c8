//! `mbctl verify`: a digest of each node's replicated tables at one applied index; those that differ are named.

use std::collections::BTreeMap;
use std::time::Duration;

use messagebase_protocol::peer::{AdminOk, AdminRequest};
use messagebase_protocol::role::NodeRole;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Survey, explain, unexpected};
use crate::command::name_nodes;
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;
use crate::peer_client::PeerClient;
use crate::table::{Column, render};

/// How long a node may take to reach the index and to digest.
const DIGEST_DEADLINE: Duration = Duration::from_secs(20);
/// How far past the furthest node each attempt aims. On a quiet cluster only 0 is ever reached; under load only what lies
/// ahead has not been passed when the request arrives.
const HEADROOMS: [u64; 7] = [0, 0, 0, 64, 0, 512, 0];

/// Refusals after which another index may do.
const RETRIED: [&str; 2] = ["passed", "behind"];

/// A digest of each table.
type Tables = BTreeMap<String, TableDigest>;

/// What one table of one node is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableDigest {
    /// SHA-256 in hex.
    pub digest: String,
    /// Rows.
    pub rows: u64,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// Where all were compared.
    pub applied: u64,
    /// Whether all are the same.
    pub equal: bool,
    /// Tables that differ, each with the nodes that differ from the majority.
    pub differing: BTreeMap<String, Vec<u16>>,
    /// Nodes that did not take part.
    pub missing: Vec<u16>,
    /// Each node's tables.
    pub nodes: BTreeMap<u16, Tables>,
}

/// Runs the command.
///
/// # Errors
/// No two nodes answer (exit 3), or nodes differ (exit 1).
pub async fn run(cluster: &Cluster, output: &Output) -> Result<Exit, CtlError> {
    let verified = compare(cluster).await?;
    output.data(&verified, text);
    for node in &verified.missing {
        output.note(format!(
            "Node {node} was not compared: it does not answer or waits."
        ));
    }
    if verified.equal {
        return Ok(Exit::Done);
    }
    if !output.is_json() {
        output
            .note("Hint: keep a copy of the differing node's directory, then `mbctl member replace N` on an empty one");
    }
    Ok(Exit::Failed)
}

/// Digests every node at one index.
///
/// # Errors
/// No node answers (exit 3), or writes are too fast to hold all nodes at one index (exit 1).
pub async fn compare(cluster: &Cluster) -> Result<Verified, CtlError> {
    let mut trouble = String::new();
    for headroom in HEADROOMS {
        let survey = cluster.survey().await;
        let there = taking_part(&survey);
        let Some(furthest) = there.iter().map(|(_, _, applied)| *applied).max() else {
            return Err(
                CtlError::no_node("no node answers that has anything to compare")
                    .hint("start this machine's nodes with `mbctl up`"),
            );
        };
        let at = furthest.saturating_add(headroom);
        let missing = survey
            .rows
            .iter()
            .map(|row| row.node)
            .filter(|node| !there.iter().any(|(n, _, _)| n == node));
        match digest_all(cluster, &there, at).await {
            Ok(nodes) => return Ok(judge(at, nodes, missing.collect())),
            Err(e) if RETRIED.contains(&e.code()) => trouble = e.to_string(),
            Err(e) => return Err(e),
        }
    }
    Err(CtlError::failed(
        "busy",
        format!("the nodes could not be held at one index: {trouble}"),
    )
    .hint("try again when less is written"))
}

/// Nodes that answer and have applied something: number, address, applied index.
fn taking_part(survey: &Survey) -> Vec<(u16, String, u64)> {
    let of = |row: &crate::cluster::Row| {
        let report = row
            .answer
            .as_ref()
            .ok()
            .filter(|report| report.role != NodeRole::Waiting)?;
        Some((row.node, row.peer.clone(), report.applied?))
    };
    survey.rows.iter().filter_map(of).collect()
}

async fn digest_all(
    cluster: &Cluster,
    nodes: &[(u16, String, u64)],
    at: u64,
) -> Result<BTreeMap<u16, Tables>, CtlError> {
    let mut asking = JoinSet::new();
    for (node, peer, _) in nodes {
        let failed = |e| CtlError::failed("refused", explain(&e));
        let client = cluster.connect_to(*node, peer).await.map_err(failed)?;
        asking.spawn(digest(*node, client, at));
    }
    let mut digests = BTreeMap::new();
    for answer in asking.join_all().await {
        let (node, tables) = answer?;
        digests.insert(node, tables);
    }
    Ok(digests)
}

async fn digest(node: u16, mut client: PeerClient, at: u64) -> Result<(u16, Tables), CtlError> {
    let failed = |e| CtlError::failed("refused", explain(&e));
    match client
        .call(AdminRequest::Digest { at: Some(at) }, DIGEST_DEADLINE)
        .await
        .map_err(failed)??
    {
        AdminOk::Digest { applied, tables } if applied == at => {
            let table = |(name, digest, rows)| (name, TableDigest { digest, rows });
            Ok((node, tables.into_iter().map(table).collect()))
        }
        AdminOk::Digest { applied, .. } => Err(CtlError::failed(
            "passed",
            format!("node {node} is at {applied} already, past {at}"),
        )),
        other => Err(unexpected(&other)),
    }
}

/// Names what differs. What most nodes hold is taken for right; without a majority, what the lowest number holds.
fn judge(applied: u64, nodes: BTreeMap<u16, Tables>, missing: Vec<u16>) -> Verified {
    let names: std::collections::BTreeSet<&String> =
        nodes.values().flat_map(BTreeMap::keys).collect();
    let mut differing = BTreeMap::new();
    for name in names {
        let held: Vec<(u16, Option<&TableDigest>)> =
            nodes.iter().map(|(node, t)| (*node, t.get(name))).collect();
        let count = |digest: Option<&TableDigest>| {
            held.iter().filter(|(_, other)| *other == digest).count()
        };
        // `rev`, because `max_by_key` takes the last of equals and the lowest number is to win.
        let common = held
            .iter()
            .rev()
            .max_by_key(|(_, digest)| count(*digest))
            .and_then(|(_, digest)| *digest);
        let odd: Vec<u16> = held
            .iter()
            .filter(|(_, digest)| *digest != common)
            .map(|(node, _)| *node)
            .collect();
        if !odd.is_empty() {
            differing.insert(name.clone(), odd);
        }
    }
    Verified {
        applied,
        equal: differing.is_empty(),
        differing,
        missing,
        nodes,
    }
}

const COLUMNS: [Column; 4] = [
    ("TABLE", false),
    ("NODE", true),
    ("ROWS", true),
    ("SHA-256", false),
];
/// Digits of a digest that are shown.
const SHOWN_DIGITS: usize = 16;

fn text(verified: &Verified) -> String {
    let mut rows = Vec::new();
    for (table, odd) in &verified.differing {
        for (node, tables) in &verified.nodes {
            let (count, digest) = match tables.get(table) {
                Some(found) => (
                    found.rows.to_string(),
                    found.digest.chars().take(SHOWN_DIGITS).collect(),
                ),
                None => ("-".to_owned(), "(no such table)".to_owned()),
            };
            let mark = if odd.contains(node) { "  differs" } else { "" };
            rows.push(vec![
                table.clone(),
                node.to_string(),
                count,
                format!("{digest}{mark}"),
            ]);
        }
    }
    let nodes: Vec<u16> = verified.nodes.keys().copied().collect();
    if verified.equal {
        let tables = verified.nodes.values().next().map_or(0, BTreeMap::len);
        let rows: u64 = verified
            .nodes
            .values()
            .next()
            .map_or(0, |tables| tables.values().map(|t| t.rows).sum());
        return format!(
            "Equal on {} at applied index {}: {tables} tables, {rows} rows.",
            name_nodes(&nodes),
            verified.applied
        );
    }
    let summary = verified
        .differing
        .iter()
        .map(|(table, odd)| format!("`{table}` on {}", name_nodes(odd)));
    let summary = summary.collect::<Vec<_>>().join(", ");
    format!(
        "{}\n\nDifferent at applied index {}: {summary}.",
        render(&COLUMNS, &rows),
        verified.applied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(users: &str) -> Tables {
        let table = |digest: &str| TableDigest {
            digest: digest.into(),
            rows: 2,
        };
        BTreeMap::from([
            ("messages".to_owned(), table("aa")),
            ("users".to_owned(), table(users)),
        ])
    }

    #[test]
    fn the_odd_one_out_is_named_with_its_table() {
        let equal = judge(
            7,
            BTreeMap::from([(1, tables("bb")), (2, tables("bb"))]),
            vec![3],
        );
        assert!(equal.equal && equal.differing.is_empty());
        assert_eq!(
            text(&equal),
            "Equal on nodes 1 and 2 at applied index 7: 2 tables, 4 rows."
        );
        let odd = judge(
            7,
            BTreeMap::from([(1, tables("xx")), (2, tables("bb")), (3, tables("bb"))]),
            vec![],
        );
        assert_eq!(
            odd.differing,
            BTreeMap::from([("users".to_owned(), vec![1])])
        );
        assert!(text(&odd).ends_with("Different at applied index 7: `users` on node 1."));
        let two = judge(
            7,
            BTreeMap::from([(1, tables("xx")), (2, tables("bb"))]),
            vec![],
        );
        assert_eq!(
            two.differing["users"],
            [2],
            "of two, the lowest number is compared against"
        );
    }
}
