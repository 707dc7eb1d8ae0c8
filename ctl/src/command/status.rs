//! `mbctl status`: a row for every node within two seconds, also for nodes that don't answer.

use std::time::Duration;

use messagebase_protocol::json::LogPosition;
use messagebase_protocol::peer::NodeReport;
use messagebase_protocol::role::NodeRole;
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use crate::cli::StatusArgs;
use crate::cluster::{Cluster, Row, Survey, explain};
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;
use crate::table::{Column, NONE, bytes, duration, or_none, render};

/// Interval of `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Clears a terminal and moves the cursor to its top.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Runs the command.
///
/// # Errors
/// None: a cluster without a quorum is data with exit 3.
pub async fn run(
    cluster: &Cluster,
    arguments: &StatusArgs,
    output: &Output,
) -> Result<Exit, CtlError> {
    if !arguments.watch {
        return Ok(show(&cluster.survey().await, output));
    }
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let survey = cluster.survey().await;
        if output.is_terminal() && !output.is_json() {
            output.raw(CLEAR.as_bytes());
        }
        show(&survey, output);
    }
}

fn show(survey: &Survey, output: &Output) -> Exit {
    let status = Status::of(survey);
    output.data(&status, |_| text(survey));
    if status.quorum {
        Exit::Done
    } else {
        Exit::NoQuorum
    }
}

/// `status --json`. Scripts rely on the keys.
#[derive(Debug, Serialize)]
struct Status {
    nodes: Vec<NodeStatus>,
    leader: Option<u16>,
    quorum: bool,
}

#[derive(Debug, Serialize)]
struct NodeStatus {
    node: u16,
    reachable: bool,
    role: NodeRole,
    term: Option<u64>,
    leader: Option<u16>,
    last_log: Option<LogPosition>,
    committed: Option<u64>,
    applied: Option<u64>,
    users: Option<u64>,
    queued: Option<u64>,
    sessions: Option<u64>,
    db_bytes: Option<u64>,
    uptime_ms: Option<u64>,
    version: Option<String>,
}

impl Status {
    fn of(survey: &Survey) -> Status {
        let verdict = survey.quorum_view();
        let nodes = survey.rows.iter().map(NodeStatus::of).collect();
        Status {
            nodes,
            leader: verdict.leader,
            quorum: verdict.quorum,
        }
    }
}

impl NodeStatus {
    fn of(row: &Row) -> NodeStatus {
        let report = row.answer.as_ref().ok();
        NodeStatus {
            node: row.node,
            reachable: report.is_some(),
            role: report.map_or(NodeRole::Down, |report| report.role),
            term: report.map(|report| report.term),
            leader: report.and_then(|report| report.leader),
            last_log: report.and_then(|report| report.last_log),
            committed: report.and_then(|report| report.committed),
            applied: report.and_then(|report| report.applied),
            users: report.map(|report| report.users),
            queued: report.map(|report| report.queued),
            sessions: report.map(|report| report.sessions),
            db_bytes: report.map(|report| report.db_bytes),
            uptime_ms: report.map(|report| report.uptime_ms),
            version: report.map(|report| report.version.clone()),
        }
    }
}

const COLUMNS: [Column; 13] = [
    ("NODE", true),
    ("ROLE", false),
    ("TERM", true),
    ("LEADER", true),
    ("LOG", true),
    ("APPLIED", true),
    ("LAG", true),
    ("USERS", true),
    ("QUEUED", true),
    ("SESSIONS", true),
    ("SIZE", true),
    ("UPTIME", true),
    ("VERSION", false),
];

fn text(survey: &Survey) -> String {
    let verdict = survey.quorum_view();
    let committed = verdict
        .leader
        .and_then(|leader| survey.report(leader))
        .and_then(|leader| leader.committed);
    let rows: Vec<Vec<String>> = survey
        .rows
        .iter()
        .map(|row| cells(row, committed))
        .collect();
    let mut lines = vec![render(&COLUMNS, &rows), String::new()];
    for row in &survey.rows {
        match &row.answer {
            Ok(NodeReport {
                waiting_for: Some(what),
                node,
                ..
            }) => lines.push(format!("Node {node} waits: {what}")),
            Ok(report) if !report.ready => {
                lines.push(format!("Node {} cannot serve a linear read now.", row.node))
            }
            Ok(_) => {}
            Err(e) => lines.push(format!("Down: {}.", explain(e))),
        }
    }
    lines.push(match verdict.leader {
        Some(leader) => {
            format!(
                "Node {leader} leads; {} of {} voters follow it.",
                verdict.agreeing, verdict.voters
            )
        }
        None => format!("No quorum: {}.", survey.why_no_leader()),
    });
    lines.join("\n")
}

fn cells(row: &Row, committed: Option<u64>) -> Vec<String> {
    let Ok(report) = &row.answer else {
        let mut cells = vec![row.node.to_string(), NodeRole::Down.to_string()];
        cells.resize(COLUMNS.len(), NONE.into());
        return cells;
    };
    let lag = committed.map(|committed| committed.saturating_sub(report.applied.unwrap_or(0)));
    vec![
        row.node.to_string(),
        report.role.to_string(),
        report.term.to_string(),
        or_none(report.leader),
        or_none(report.last_log.map(|last| last.index)),
        or_none(report.applied),
        or_none(lag),
        report.users.to_string(),
        report.queued.to_string(),
        report.sessions.to_string(),
        bytes(report.db_bytes),
        duration(Duration::from_millis(report.uptime_ms)),
        report.version.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer_client::PeerClientError;
    use crate::testing::report;

    fn survey() -> Survey {
        let all = [1, 2, 3];
        let row = |report: NodeReport| Row {
            node: report.node,
            peer: String::new(),
            answer: Ok(report),
        };
        let silent = PeerClientError::Silent {
            node: 3,
            waited: Duration::from_millis(900),
        };
        let mut leader = report(1, NodeRole::Leader, 4, Some(1), &all);
        leader.applied = Some(10);
        leader.last_log = Some(LogPosition {
            term: 4,
            leader: 1,
            index: 11,
        });
        Survey {
            rows: vec![
                row(leader),
                row(report(2, NodeRole::Follower, 4, Some(1), &all)),
                Row {
                    node: 3,
                    peer: String::new(),
                    answer: Err(silent),
                },
            ],
        }
    }

    #[test]
    fn json_has_the_keys_of_the_contract_and_a_dead_node_is_null() {
        let json = serde_json::to_value(Status::of(&survey())).expect("plain JSON");
        assert_eq!(json["leader"], 1);
        assert_eq!(json["quorum"], true);
        let keys = |value: &serde_json::Value| -> Vec<String> {
            let mut keys: Vec<String> = value
                .as_object()
                .into_iter()
                .flat_map(|o| o.keys().cloned())
                .collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(&json), ["leader", "nodes", "quorum"]);
        let mut wanted = [
            "node",
            "reachable",
            "role",
            "term",
            "leader",
            "last_log",
            "committed",
            "applied",
            "users",
        ]
        .to_vec();
        wanted.extend(["queued", "sessions", "db_bytes", "uptime_ms", "version"]);
        wanted.sort_unstable();
        for node in 0..3 {
            assert_eq!(keys(&json["nodes"][node]), wanted);
        }
        let dead = &json["nodes"][2];
        assert_eq!(
            (&dead["node"], &dead["reachable"], &dead["role"]),
            (&3.into(), &false.into(), &"down".into())
        );
        let rest = wanted
            .iter()
            .filter(|key| !["node", "reachable", "role"].contains(key));
        assert!(rest.into_iter().all(|key| dead[key].is_null()));
        assert_eq!(
            json["nodes"][0]["last_log"],
            serde_json::json!({"term": 4, "leader": 1, "index": 11})
        );
    }

    #[test]
    fn the_table_shows_lag_and_why_a_node_is_down() {
        let text = text(&survey());
        let wanted = "\
NODE  ROLE      TERM  LEADER  LOG  APPLIED  LAG  USERS  QUEUED  SESSIONS      SIZE  UPTIME  VERSION
   1  leader       4       1   11       10    0      2       0         1  80.0 KiB   1m 1s  0.1.0
   2  follower     4       1    -        8    2      2       0         1  80.0 KiB   1m 1s  0.1.0
   3  down         -       -    -        -    -      -       -         -         -       -  -

Down: node 3 did not answer within 900ms.
Node 1 leads; 2 of 3 voters follow it.";
        assert_eq!(text, wanted);
    }
}
