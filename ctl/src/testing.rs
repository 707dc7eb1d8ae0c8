//! Reports of nodes and surveys of them for tests, here and in the benchmarks.

use messagebase_protocol::peer::{MemberRow, NodeReport};
use messagebase_protocol::role::NodeRole;

use crate::cluster::{Row, Survey};

/// Node `node` of a cluster whose voters are `voters`.
pub fn report(
    node: u16,
    role: NodeRole,
    term: u64,
    leader: Option<u16>,
    voters: &[u16],
) -> NodeReport {
    let member = |node: &u16| MemberRow {
        node: *node,
        generation: 1,
        client: format!("127.0.0.1:{}", 7100 + node),
        peer: format!("127.0.0.1:{}", 7200 + node),
        voter: true,
    };
    NodeReport {
        node,
        cluster_id: Some("c".into()),
        raft_id: 65_536 + u64::from(node),
        role,
        waiting_for: (role == NodeRole::Waiting).then(|| "`mbctl member replace`".into()),
        term,
        leader,
        last_log: None,
        committed: Some(10),
        applied: Some(8),
        users: 2,
        queued: 0,
        sessions: 1,
        db_bytes: 4096 * 20,
        uptime_ms: 61_000,
        version: "0.1.0".into(),
        ready: true,
        pid: 1,
        members: voters.iter().map(member).collect(),
    }
}

/// A survey in which each of these nodes answered.
pub fn survey(reports: Vec<NodeReport>) -> Survey {
    let row = |report: NodeReport| Row {
        node: report.node,
        peer: String::new(),
        answer: Ok(report),
    };
    Survey {
        rows: reports.into_iter().map(row).collect(),
    }
}
