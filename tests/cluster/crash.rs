//! Every node dies at once under load: what was acknowledged is there afterwards.

use std::collections::BTreeMap;

use messagebase_checker::{Answer, Attempt, Call, Recorder, Reply};
use messagebase_harness::{Cluster, Load, TestClient, judge};

use crate::cluster;

const ACKNOWLEDGED_BEFORE: usize = 400;

/// Sends what was not acknowledged again, under the same keys and in order.
fn repeat_unacknowledged(cluster: &Cluster, node: u16, recorder: &Recorder) {
    let mut again: BTreeMap<String, Vec<Attempt>> = BTreeMap::new();
    for attempt in recorder
        .finish()
        .attempts
        .into_iter()
        .filter(|attempt| attempt.answer.ok().is_none())
    {
        again
            .entry(attempt.user.clone().expect("a session's"))
            .or_default()
            .push(attempt);
    }
    for (user, mut attempts) in again {
        attempts.sort_by_key(|attempt| attempt.sequence);
        let mut client: TestClient = cluster.client(node);
        client.login(&user);
        let mut recording = recorder.client().connect(node);
        for Attempt { call, .. } in attempts {
            let open = recording.invoke(Some(&user), call.clone());
            let (op, fields) = call.request();
            let reply = Reply::read(&call, client.ok(op, fields)).expect("a reply to send");
            recording.complete(open, Answer::Ok(reply));
        }
    }
}

/// How many different messages were tried.
fn tried(recorder: &Recorder) -> usize {
    let attempts = recorder.finish().attempts;
    let mut keys: Vec<_> = attempts
        .iter()
        .map(|attempt| (&attempt.user, attempt.call.key()))
        .collect();
    assert!(
        attempts
            .iter()
            .all(|attempt| matches!(attempt.call, Call::Send { .. }))
    );
    keys.sort_unstable();
    keys.dedup();
    keys.len()
}

#[test]
fn nothing_acknowledged_is_lost_when_all_nodes_die_at_once() {
    let cluster = cluster(3);
    let senders = [("anna", 1), ("carl", 2), ("dora", 3)];
    let mut client = cluster.client(1);
    for user in ["anna", "carl", "dora", "ben"] {
        client.register(user);
    }
    let load = Load::start(&cluster, &senders, "ben");
    cluster.wait("acknowledged sends", || {
        (load.acknowledged() >= ACKNOWLEDGED_BEFORE).then_some(())
    });
    cluster.kill_all();
    let recorder = load.finish();
    assert!(recorder.acknowledged() >= ACKNOWLEDGED_BEFORE);

    cluster.start_all();
    cluster.wait_ready(&cluster.numbers());
    let mut ben = cluster.client(2);
    ben.login("ben");
    judge(&recorder, "ben", &ben.sync(0));

    repeat_unacknowledged(&cluster, 3, &recorder);
    let mailbox = ben.sync(0);
    assert_eq!(
        mailbox.len(),
        tried(&recorder),
        "each attempt is there once"
    );
    judge(&recorder, "ben", &mailbox);
    cluster.wait_same(&cluster.numbers());
}

#[test]
fn the_leaders_sigkill_under_load_costs_nothing_acknowledged() {
    let cluster = cluster(3);
    let leader = cluster.leader();
    let others = cluster.others(&[leader]);
    let mut client = cluster.client(others[0]);
    for user in ["anna", "carl", "ben"] {
        client.register(user);
    }
    let load = Load::start(&cluster, &[("anna", others[0]), ("carl", others[1])], "ben");
    cluster.wait("acknowledged sends", || {
        (load.acknowledged() >= 200).then_some(())
    });
    cluster.node(leader).kill();
    let so_far = load.acknowledged();
    cluster.wait("more acknowledged sends", || {
        (load.acknowledged() >= so_far + 200).then_some(())
    });
    let recorder = load.finish();
    assert_eq!(
        recorder.acknowledged(),
        tried(&recorder),
        "the nodes retry inside: a client that stays sees no failover"
    );
    let mut ben = cluster.client(others[1]);
    ben.login("ben");
    judge(&recorder, "ben", &ben.sync(0));
    cluster.node(leader).restart();
    cluster.wait_ready(&[leader]);
    cluster.wait_same(&cluster.numbers());
}
