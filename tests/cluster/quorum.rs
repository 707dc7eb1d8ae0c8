//! With a majority everything goes on; without one writes are refused in time, local reads answer, nothing is doubled.

use std::time::{Duration, Instant};

use messagebase_harness::{Load, SHORT, judge, messages};
use serde_json::{Value, json};

use crate::cluster;

/// The protocol's 3 s and what a busy machine may add.
const NO_QUORUM_WITHIN: Duration = Duration::from_secs(6);

fn bodies(values: &[Value]) -> Vec<String> {
    messages(values)
        .into_iter()
        .map(|message| message.body)
        .collect()
}

#[test]
fn five_nodes_go_on_with_two_dead() {
    let cluster = cluster(5);
    let leader = cluster.leader();
    let others = cluster.others(&[leader]);
    let (second_victim, here, there) = (others[0], others[1], others[2]);
    let mut client = cluster.client(here);
    for user in ["anna", "carl", "ben"] {
        client.register(user);
    }
    let mut ben = cluster.client(there);
    ben.login("ben");
    let load = Load::start(&cluster, &[("anna", here), ("carl", there)], "ben");
    cluster.wait("acknowledged sends", || {
        (load.acknowledged() >= 50).then_some(())
    });
    cluster.node(second_victim).kill();
    cluster.node(leader).kill();
    let so_far = load.acknowledged();
    cluster.wait("more acknowledged sends", || {
        (load.acknowledged() >= so_far + 100).then_some(())
    });
    judge(&load.finish(), "ben", &ben.sync(0));
    client.register("eve");
    client.login("eve");

    cluster.node(leader).restart();
    cluster.node(second_victim).restart();
    cluster.wait_ready(&[leader, second_victim]);
    cluster.wait_same(&cluster.numbers());
}

#[test]
fn a_lone_node_of_three_refuses_writes_in_time_and_answers_local_reads() {
    let cluster = cluster(3);
    let survivor = 2;
    let mut ben = cluster.client(survivor);
    ben.sign_up("ben");
    let mut anna = cluster.client(survivor);
    let token = anna.sign_up("anna");
    anna.send("ben", "before", "before");
    [1, 3].into_iter().for_each(|n| cluster.node(n).kill());

    let began = Instant::now();
    let held: Vec<u64> = (0..5)
        .map(|n| {
            anna.post(
                "send",
                json!({"to": "ben", "body": format!("held {n}"), "key": format!("held {n}")}),
            )
        })
        .collect();
    for id in held {
        let refusal = anna.answer(id, SHORT).expect_err("there is no quorum");
        assert_eq!(
            (refusal.code.as_str(), refusal.outcome.as_str()),
            ("no_quorum", "unknown"),
            "{refusal:?}"
        );
    }
    assert!(
        began.elapsed() < NO_QUORUM_WITHIN,
        "refused after {:?}",
        began.elapsed()
    );

    let local = json!({"consistency": "local"});
    assert_eq!(
        bodies(
            ben.ok("inbox", local.clone())["messages"]
                .as_array()
                .expect("a list")
        ),
        ["before"]
    );
    assert_eq!(bodies(&ben.sync_locally(0)), ["before"]);
    let history = ben.ok("history", json!({"with": "anna", "consistency": "local"}));
    assert_eq!(
        bodies(history["messages"].as_array().expect("a list")),
        ["before"]
    );
    let users = anna.ok("users", local)["users"].clone();
    assert_eq!(users.as_array().map(Vec::len), Some(2), "{users}");
    let mut stranger = cluster.client(survivor);
    let resumed = stranger.ok("resume", json!({"token": token, "consistency": "local"}));
    assert_eq!(
        (&resumed["user"], &resumed["linear"]),
        (&json!("anna"), &json!(false))
    );
    assert_eq!(
        cluster.client(survivor).ok("ping", json!({}))["ready"],
        false
    );
    ben.refused("inbox", json!({}), "no_quorum");
    let began = Instant::now();
    cluster
        .client(survivor)
        .refused("campaign", json!({}), "no_quorum");
    assert!(
        began.elapsed() < NO_QUORUM_WITHIN,
        "campaign took {:?}",
        began.elapsed()
    );

    cluster.node(3).restart();
    cluster.wait_ready(&[survivor, 3]);
    let mut anna = cluster.client(3);
    anna.login("anna");
    for n in 0..5 {
        anna.send("ben", &format!("held {n}"), &format!("held {n}"));
    }
    let mut ben = cluster.client(survivor);
    ben.login("ben");
    assert_eq!(
        bodies(&ben.inbox()),
        ["before", "held 0", "held 1", "held 2", "held 3", "held 4"]
    );
    cluster.node(1).restart();
    cluster.wait_ready(&[1]);
    cluster.wait_same(&cluster.numbers());
}

#[test]
fn a_leader_that_is_cut_off_acknowledges_nothing_and_follows_when_it_is_back() {
    let cluster = messagebase_harness::Cluster::with(messagebase_harness::programs!(), 3)
        .proxied()
        .start();
    let leader = cluster.leader();
    let others = cluster.others(&[leader]);
    let mut stranded = cluster.client(leader);
    stranded.sign_up("anna");
    let mut ben = cluster.client(others[0]);
    ben.sign_up("ben");
    cluster.cut(&[leader], &others);
    let lost = stranded.post(
        "send",
        json!({"to": "ben", "body": "from the old leader", "key": "k1"}),
    );
    let winner = cluster.leader_among(&others);
    let mut anna = cluster.client(winner);
    anna.login("anna");
    anna.send("ben", "from the new leader", "k2");
    let refusal = stranded
        .answer(lost, SHORT)
        .expect_err("a leader without a majority acknowledges nothing");
    assert_eq!(
        (refusal.code.as_str(), refusal.outcome.as_str()),
        ("no_quorum", "unknown"),
        "{refusal:?}"
    );
    cluster.heal();
    cluster.wait_ready(&cluster.numbers());
    // The repeated key decides what became of it: there once, whether the held write got through in the end or not.
    anna.send("ben", "from the old leader", "k1");
    let mut both = bodies(&ben.inbox());
    both.sort();
    assert_eq!(both, ["from the new leader", "from the old leader"]);
    cluster.wait_same(&cluster.numbers());
}
