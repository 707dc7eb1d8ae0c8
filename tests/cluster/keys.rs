//! Keys: repeating a write on any node, after any failover, answers as the first time. Order: one connection's writes
//! take effect in the order sent, also through a leader change.

use messagebase_harness::{Cluster, PASSWORD, SHORT, TestClient, messages};
use serde_json::{Value, json};

use crate::cluster;

const OTHER_PASSWORD: &str = "another long one";

fn login_with(cluster: &Cluster, node: u16, user: &str, password: &str) -> TestClient {
    let mut client = cluster.client(node);
    client.ok("login", json!({"user": user, "password": password}));
    client
}

/// What was answered the first time.
struct First {
    sent: Value,
}

/// Repeats every keyed operation on a node.
fn repeat_everything(cluster: &Cluster, node: u16, first: &First) {
    let mut client = cluster.client(node);
    let register = json!({"user": "anna", "password": PASSWORD, "key": "register anna"});
    assert_eq!(
        client.ok("register", register),
        json!({"user": "anna"}),
        "on node {node}"
    );
    let taken = json!({"user": "ANNA", "password": PASSWORD, "key": "another key"});
    client.refused("register", taken, "name_taken");
    // The account is gone: only the key still knows it.
    let delete = json!({"user": "dora", "password": PASSWORD, "key": "delete dora"});
    assert_eq!(client.ok("delete", delete), json!({}), "on node {node}");

    let mut anna = login_with(cluster, node, "anna", OTHER_PASSWORD);
    let password = json!({"old": PASSWORD, "new": OTHER_PASSWORD, "key": "new password"});
    assert_eq!(anna.ok("password", password), json!({}), "on node {node}");
    let again = anna.send("ben", "hello", "send 1");
    assert_eq!(
        (&again["id"], &again["sent_at"]),
        (&first.sent["id"], &first.sent["sent_at"]),
        "on node {node}"
    );
    assert_eq!(again["duplicate"], true);
    for (to, body) in [("ben", "another body"), ("carl", "hello")] {
        let refusal = anna.refused(
            "send",
            json!({"to": to, "body": body, "key": "send 1"}),
            "bad_request",
        );
        assert_eq!(refusal.outcome, "not_done");
    }
}

#[test]
fn every_keyed_operation_repeated_anywhere_answers_as_the_first_time() {
    let cluster = cluster(3);
    let mut anna = cluster.client(1);
    anna.sign_up("anna");
    let mut ben = cluster.client(1);
    ben.sign_up("ben");
    cluster.client(1).register("carl");
    let sent = anna.send("ben", "hello", "send 1");
    assert_eq!(sent["duplicate"], false);
    anna.ok(
        "password",
        json!({"old": PASSWORD, "new": OTHER_PASSWORD, "key": "new password"}),
    );
    let mut dora = cluster.client(2);
    dora.sign_up("dora");
    dora.ok(
        "delete",
        json!({"password": PASSWORD, "key": "delete dora"}),
    );
    let first = First { sent };

    cluster
        .numbers()
        .into_iter()
        .for_each(|node| repeat_everything(&cluster, node, &first));

    let leader = cluster.leader();
    cluster.node(leader).kill();
    let others = cluster.others(&[leader]);
    cluster.wait_ready(&others);
    others
        .iter()
        .for_each(|node| repeat_everything(&cluster, *node, &first));

    // The recipient goes; what was sent to them stays answered, and only that.
    let mut ben = cluster.client(others[0]);
    ben.login("ben");
    ben.ok("delete", json!({"password": PASSWORD, "key": "delete ben"}));
    others
        .iter()
        .for_each(|node| repeat_everything(&cluster, *node, &first));
    let mut anna = login_with(&cluster, others[1], "anna", OTHER_PASSWORD);
    anna.refused(
        "send",
        json!({"to": "ben", "body": "hello", "key": "send 2"}),
        "no_such_user",
    );
    cluster.client(others[0]).refused(
        "register",
        json!({"user": "ben", "password": PASSWORD, "key": "a new ben"}),
        "name_taken",
    );

    cluster.node(leader).restart();
    cluster.wait_ready(&[leader]);
    repeat_everything(&cluster, leader, &first);
    cluster.wait_same(&cluster.numbers());
}

#[test]
fn what_a_deleted_user_sent_stays_with_the_other_side() {
    let cluster = cluster(1);
    let mut ben = cluster.client(1);
    ben.sign_up("Ben");
    let mut anna = cluster.client(1);
    anna.sign_up("anna");
    anna.send("ben", "read me later", "1");
    ben.send("anna", "queued to anna", "1");
    anna.ok("delete", json!({"password": PASSWORD, "key": "d"}));
    let kept = ben.sync(0);
    let kept: Vec<(&Value, &Value)> = kept.iter().map(|m| (&m["from"], &m["body"])).collect();
    assert_eq!(
        kept,
        [(&json!("anna"), &json!("read me later"))],
        "what was queued to the deleted account is gone"
    );
    let queued = cluster.rows(1, "queued_messages");
    assert_eq!(
        queued.column("sender"),
        ["anna"],
        "the old name, never NULL"
    );
    ben.refused("history", json!({"with": "nobody"}), "no_such_user");
}

const PIPELINED: usize = 200;

/// Posts everything at once, lets `change` disturb the cluster after the first answer, and expects every send to be
/// answered, in order.
fn pipelined(cluster: &Cluster, sender_on: u16, change: impl FnOnce()) {
    cluster.client(sender_on).register("ben");
    let mut anna = cluster.client(sender_on);
    anna.sign_up("anna");
    let post = |anna: &mut TestClient, n: usize| {
        anna.post(
            "send",
            json!({"to": "ben", "body": format!("{n}"), "key": format!("k{n}")}),
        )
    };
    let mut requests: Vec<u64> = (0..PIPELINED / 2).map(|n| post(&mut anna, n)).collect();
    let first = anna
        .answer(requests[0], SHORT)
        .expect("the cluster is whole");
    change();
    requests.extend((PIPELINED / 2..PIPELINED).map(|n| post(&mut anna, n)));
    let mut ids = vec![first["id"].as_u64().expect("an id")];
    for (n, request) in requests.into_iter().enumerate().skip(1) {
        let sent = anna
            .answer(request, SHORT)
            .unwrap_or_else(|refusal| panic!("send {n}: {refusal:?}"));
        ids.push(sent["id"].as_u64().expect("an id"));
    }
    assert!(
        ids.windows(2).all(|pair| pair[0] < pair[1]),
        "ids in the order sent: {ids:?}"
    );
    let mut ben = cluster.client(sender_on);
    ben.login("ben");
    let bodies: Vec<String> = messages(&ben.inbox())
        .into_iter()
        .map(|message| message.body)
        .collect();
    assert_eq!(
        bodies,
        (0..PIPELINED).map(|n| n.to_string()).collect::<Vec<_>>()
    );
}

#[test]
fn pipelined_sends_keep_their_order_when_the_leader_dies() {
    let cluster = cluster(3);
    let leader = cluster.leader();
    let follower = cluster.others(&[leader])[0];
    pipelined(&cluster, follower, || cluster.node(leader).kill());
}

#[test]
fn pipelined_sends_keep_their_order_when_the_leader_hands_over() {
    let cluster = cluster(3);
    let leader = cluster.leader();
    let next = cluster.others(&[leader])[0];
    pipelined(&cluster, leader, || {
        cluster
            .mbctl(&["transfer", &next.to_string()])
            .expect_code(0);
    });
}
