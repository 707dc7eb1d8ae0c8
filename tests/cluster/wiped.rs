//! A node that lost its disk neither votes nor helps to elect until the operator takes it in again.

use std::path::Path;

use messagebase_harness::{Cluster, LONG, messages};
use serde_json::json;

use crate::cluster;

const WIPED: u16 = 3;

fn wipe(cluster: &Cluster) {
    cluster.node(WIPED).kill();
    cluster.node(WIPED).wipe();
    let logged = cluster.node(WIPED).log().len();
    cluster.node(WIPED).start();
    cluster
        .node(WIPED)
        .wait_log(logged, "member replace 3", LONG);
}

#[test]
fn a_wiped_node_does_not_vote_until_it_is_replaced() {
    let cluster = cluster(3);
    let mut anna = cluster.client(1);
    anna.register("ben");
    anna.sign_up("anna");
    anna.send("ben", "one", "1");
    wipe(&cluster);
    let status = cluster.wait("the wiped node to answer", || cluster.status(WIPED));
    assert_eq!(
        (&status["role"], &status["ready"]),
        (&json!("waiting"), &json!(false)),
        "{status}"
    );

    // Were it to vote, node 1 would have a majority with it.
    cluster.node(2).kill();
    let refusal = anna.refused(
        "send",
        json!({"to": "ben", "body": "two", "key": "2"}),
        "no_quorum",
    );
    assert_eq!(refusal.outcome, "unknown");
    cluster
        .client(1)
        .refused("campaign", json!({}), "no_quorum");
    cluster.mbctl(&["status"]).expect_code(3);
    cluster.node(2).restart();
    cluster.wait_ready(&[1, 2]);
    let mut anna = cluster.client(1);
    anna.login("anna");
    anna.send("ben", "two", "2");

    cluster.mbctl(&["member", "replace", "3"]).expect_code(0);
    cluster.wait_ready(&[WIPED]);
    cluster.wait_same(&cluster.numbers());
    cluster.wait("node 3 to vote again", || {
        let status = cluster.status(1)?;
        status["members"]
            .as_array()?
            .iter()
            .find(|m| m["node"] == WIPED && m["voter"] == true)
            .map(|_| ())
    });
    cluster.node(2).kill();
    cluster.leader_among(&[1, WIPED]);
    let mut ben = cluster.client(WIPED);
    ben.login("ben");
    anna.send("ben", "three", "3");
    let bodies: Vec<String> = messages(&ben.sync(0))
        .into_iter()
        .map(|message| message.body)
        .collect();
    assert_eq!(bodies, ["one", "two", "three"]);
    cluster.node(2).restart();
    cluster.wait_ready(&cluster.numbers());
    cluster.wait_same(&cluster.numbers());
}

#[test]
fn a_wiped_node_forms_no_second_cluster_with_other_wiped_nodes() {
    let cluster = cluster(3);
    let id = cluster.client(1).ok("hello", json!({}))["cluster_id"].clone();
    cluster.kill_all();
    [2, 3].into_iter().for_each(|n| cluster.node(n).wipe());
    cluster.start_all();
    let waits = |n: u16| {
        cluster
            .node(n)
            .wait_log(0, &format!("member replace {n}"), LONG)
    };
    [2, 3].into_iter().for_each(waits);
    cluster.wait("node 1 to answer", || cluster.status(1));
    assert_eq!(cluster.client(1).ok("hello", json!({}))["cluster_id"], id);
    for n in [2, 3] {
        let status = cluster.wait("a status", || cluster.status(n));
        assert_eq!(status["role"], "waiting", "{status}");
    }
    cluster.client(1).refused(
        "register",
        json!({"user": "a", "password": "long enough", "key": "k"}),
        "no_quorum",
    );
}

/// The files of a directory, copied as a backup of the disk would.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for path in std::fs::read_dir(from)
        .expect("a directory")
        .flatten()
        .map(|entry| entry.path())
    {
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a copy");
        }
    }
}

#[test]
fn an_older_copy_of_a_data_directory_counts_as_lost() {
    let cluster = cluster(3);
    let mut anna = cluster.client(1);
    anna.register("ben");
    anna.sign_up("anna");
    assert_eq!(cluster.node(WIPED).stop(), 0);
    let older = cluster.path().join("older");
    copy(&cluster.data(WIPED), &older);
    cluster.node(WIPED).start();
    cluster.wait_ready(&[WIPED]);
    anna.send("ben", "after the copy", "1");
    cluster.wait_same(&cluster.numbers());

    cluster.node(WIPED).kill();
    cluster.node(WIPED).wipe();
    copy(&older, &cluster.data(WIPED));
    let logged = cluster.node(WIPED).log().len();
    cluster.node(WIPED).start();
    cluster
        .node(WIPED)
        .wait_log(logged, "member replace 3", LONG);
    // It may have voted or acknowledged since the copy was made: with it there is no majority.
    cluster.node(2).kill();
    anna.refused(
        "send",
        json!({"to": "ben", "body": "two", "key": "2"}),
        "no_quorum",
    );
    cluster.node(2).restart();
    cluster.wait_ready(&[1, 2]);
}

#[test]
fn blank_nodes_wait_for_every_founder_and_say_for_whom() {
    let cluster = Cluster::with(messagebase_harness::programs!(), 3).make();
    [1, 2].into_iter().for_each(|n| cluster.node(n).start());
    for n in [1, 2] {
        cluster.node(n).wait_log(0, "node 3", LONG);
        let status = cluster.wait("a status", || cluster.status(n));
        assert_eq!(status["role"], "waiting", "{status}");
    }
    cluster.node(3).start();
    cluster.wait_ready(&cluster.numbers());
    let ids: Vec<_> = (1..=3)
        .map(|n| cluster.client(n).ok("hello", json!({}))["cluster_id"].clone())
        .collect();
    assert!(
        ids[0].is_string() && ids[0] == ids[1] && ids[1] == ids[2],
        "{ids:?}"
    );
}
