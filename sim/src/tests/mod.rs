//! The tests of the simulation. They are modules of the library, not programs of `sim/tests/`: each program would compile
//! all of Raft's generic code again, which takes a minute of processor time and 60 MB.

mod lost_nodes;
mod planted;
mod seeds;
mod suspicion;
mod three_nodes;
mod workload;

use std::ops::Range;

use messagebase_daemon::change::{Change, Secrets};
use messagebase_daemon::raft::api::{Draft, Verdict};

use crate::cluster::Cluster;

/// The nodes of a cluster of three.
const ALL: [u16; 3] = [1, 2, 3];
/// Looks like a hash, and no password has it.
const PASSWORD_HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA";

/// Registers a user, as an operator does.
fn register(n: usize) -> Draft {
    let body = Change::Register {
        name: format!("user{n}"),
        key: format!("key-{n}"),
        by_operator: true,
    };
    let secrets = Secrets {
        password_hash: Some(PASSWORD_HASH.into()),
        token_hash: None,
    };
    Draft {
        actor: None,
        body,
        secrets: Some(secrets),
    }
}

/// Registers these users through a node, 50 at a time.
async fn register_all(cluster: &Cluster, node: u16, numbers: Range<usize>) {
    for chunk in numbers.collect::<Vec<_>>().chunks(50) {
        let drafts = chunk.iter().map(|n| register(*n)).collect();
        let verdicts = cluster.replica(node).propose(drafts).await;
        assert!(
            verdicts
                .iter()
                .all(|v| matches!(v, Verdict::Applied { .. })),
            "node {node}: {verdicts:?}"
        );
    }
}
