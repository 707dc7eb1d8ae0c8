//! A follower that slept through more changes than the log keeps catches up by snapshot; its sessions miss nothing.

use messagebase_harness::{Cluster, Rows, TestClient, messages, programs};

/// Little enough that a few hundred long messages push it out of the log.
const CHANGE_LOG_BYTES: u64 = 1024 * 1024;
const LONG_BODY_BYTES: usize = 16_000;
/// Sends between two looks at the log.
const BATCH: usize = 50;
/// Sixteen times the log that is kept; more means that it is never purged.
const MOST_BATCHES: usize = 20;

fn number(file: &std::path::Path, query: &str) -> u64 {
    Rows::read(file, query).single().parse().unwrap_or(0)
}

/// Sends long messages until the leader's log begins after everything that `sleeper` has.
fn outrun(cluster: &Cluster, sleeper: u16, anna: &mut TestClient) -> Vec<String> {
    let leader = cluster.leader_among(&cluster.others(&[sleeper]));
    let has = number(
        &cluster.database(sleeper),
        "SELECT max(log_index) FROM change_log",
    );
    let mut sent = Vec::new();
    for batch in 0..MOST_BATCHES {
        for n in 0..BATCH {
            let body = format!("{batch}/{n} {}", "x".repeat(LONG_BODY_BYTES));
            anna.send("ben", &body, &format!("{batch}/{n}"));
            sent.push(body);
        }
        if number(
            &cluster.database(leader),
            "SELECT min(log_index) FROM change_log",
        ) > has + 1
        {
            return sent;
        }
    }
    panic!("node {leader} keeps its whole log, although change_log_bytes is {CHANGE_LOG_BYTES}");
}

#[test]
fn a_session_on_a_follower_that_caught_up_by_snapshot_is_told_to_sync_and_misses_nothing() {
    let cluster = Cluster::with(programs!(), 3)
        .limit("change_log_bytes", CHANGE_LOG_BYTES)
        .start();
    let leader = cluster.leader();
    let others = cluster.others(&[leader]);
    let (sleeper, awake) = (others[0], others[1]);
    let mut anna = cluster.client(awake);
    anna.sign_up("anna");
    let mut ben = cluster.client(sleeper);
    ben.sign_up("ben");
    anna.send("ben", "before the sleep", "before");
    assert_eq!(ben.event("message")["message"]["body"], "before the sleep");

    cluster.node(sleeper).pause();
    let mut expected = vec!["before the sleep".to_owned()];
    expected.extend(outrun(&cluster, sleeper, &mut anna));
    cluster.node(sleeper).resume();
    let closing = ben.event("closing");
    assert_eq!(closing["reason"], "resync");
    ben.wait_closed();

    cluster.wait_ready(&[sleeper]);
    let mut ben = cluster.client(sleeper);
    ben.login("ben");
    let bodies: Vec<String> = messages(&ben.sync(0))
        .into_iter()
        .map(|message| message.body)
        .collect();
    assert_eq!(bodies.len(), expected.len());
    assert!(bodies == expected, "`sync` has every message in order");
    cluster.wait_same(&cluster.numbers());
    let view = Rows::read(
        &cluster.database(sleeper),
        "SELECT queued FROM user_summary WHERE name = 'ben'",
    );
    assert_eq!(
        view.single(),
        expected.len().to_string(),
        "the views survive the swap of the tables"
    );
}

#[test]
fn a_follower_that_was_dead_catches_up_by_snapshot_and_can_lead() {
    let cluster = Cluster::with(programs!(), 3)
        .limit("change_log_bytes", CHANGE_LOG_BYTES)
        .start();
    let leader = cluster.leader();
    let others = cluster.others(&[leader]);
    let (sleeper, awake) = (others[0], others[1]);
    let mut anna = cluster.client(awake);
    anna.register("ben");
    anna.sign_up("anna");
    cluster.wait_same(&cluster.numbers());
    cluster.node(sleeper).kill();
    let sent = outrun(&cluster, sleeper, &mut anna);
    cluster.node(sleeper).restart();
    cluster.wait_ready(&[sleeper]);
    cluster.wait_same(&cluster.numbers());

    // What came by snapshot must be good enough to go on from: keys, counters and sessions as well as rows.
    cluster.lead(sleeper);
    let first = anna.send("ben", &sent[0], "0/0");
    assert_eq!(first["duplicate"], true);
    let next = anna.send("ben", "after", "after");
    let newest = number(&cluster.database(awake), "SELECT max(id) FROM messages");
    assert!(
        next["id"].as_u64() >= Some(newest),
        "ids only grow: {next}, {newest}"
    );
    cluster.node(sleeper).restart();
    cluster.wait_ready(&cluster.numbers());
    cluster.wait_same(&cluster.numbers());
}
