//! Every node dies at once under load: what was acknowledged is there afterwards.

use messagebase_harness::{Client, Cluster, History, Load, Received};
use serde_json::json;

use crate::cluster;

const ACKNOWLEDGED_BEFORE: usize = 400;

/// Sends what was not acknowledged again, under the same keys and in order.
fn repeat_unacknowledged(cluster: &Cluster, node: u16, history: &mut History) {
    let mut clients: Vec<(String, Client)> = Vec::new();
    for attempt in history.attempts.iter_mut().filter(|attempt| attempt.acknowledged.is_none()) {
        if !clients.iter().any(|(user, _)| *user == attempt.from) {
            let mut client = cluster.client(node);
            client.login(&attempt.from);
            clients.push((attempt.from.clone(), client));
        }
        let (_, client) = clients.iter_mut().find(|(user, _)| *user == attempt.from).expect("just made");
        let sent = client.ok("send", json!({"to": attempt.to, "body": attempt.body, "key": attempt.key}));
        attempt.acknowledged = sent["id"].as_u64();
    }
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
    cluster.wait("acknowledged sends", || (load.acknowledged() >= ACKNOWLEDGED_BEFORE).then_some(()));
    cluster.kill_all();
    let mut history = load.finish();
    assert!(history.acknowledged() >= ACKNOWLEDGED_BEFORE);

    cluster.start_all();
    cluster.wait_ready(&cluster.numbers());
    let mut ben = cluster.client(2);
    ben.login("ben");
    let mailbox = Received::all(&ben.sync(0));
    history.check("ben", &mailbox).unwrap_or_else(|wrong| panic!("after the restart: {wrong:#?}"));

    repeat_unacknowledged(&cluster, 3, &mut history);
    let mailbox = Received::all(&ben.sync(0));
    assert_eq!(mailbox.len(), history.attempts.len(), "each attempt is there once");
    history.check("ben", &mailbox).unwrap_or_else(|wrong| panic!("after repeating: {wrong:#?}"));
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
    cluster.wait("acknowledged sends", || (load.acknowledged() >= 200).then_some(()));
    cluster.node(leader).kill();
    let so_far = load.acknowledged();
    cluster.wait("more acknowledged sends", || (load.acknowledged() >= so_far + 200).then_some(()));
    let history = load.finish();
    let unacknowledged = history.attempts.len() - history.acknowledged();
    assert_eq!(unacknowledged, 0, "the nodes retry inside: a client that stays sees no failover");
    let mut ben = cluster.client(others[1]);
    ben.login("ben");
    let mailbox = Received::all(&ben.sync(0));
    history.check("ben", &mailbox).unwrap_or_else(|wrong| panic!("{wrong:#?}"));
    cluster.node(leader).restart();
    cluster.wait_ready(&[leader]);
    cluster.wait_same(&cluster.numbers());
}
