//! All disks are lost, and a backup is what is left.

use std::os::unix::fs::PermissionsExt;

use messagebase_harness::{LONG, Place, TestClient, messages, wait_for};
use serde_json::{Value, json};

use crate::place;

fn client(place: &Place, node: u16) -> TestClient {
    TestClient::plain(place.ports(node).plain)
        .unwrap_or_else(|e| panic!("failed to connect to node {node}: {e}"))
}

fn bodies(client: &mut TestClient) -> Vec<String> {
    messages(&client.sync(0))
        .into_iter()
        .map(|message| message.body)
        .collect()
}

/// Runs a command as `mbctl` printed it.
fn run(place: &Place, command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(words[0], "mbctl");
    assert!(command.contains(" --config "), "{command}");
    place.bare_mbctl(&words[1..]).run().expect_code(0);
}

/// Starts the restored node 2 while a node of the old cluster is back: it remembers a node 2 that started before.
fn run_beside_an_old_node(place: &Place, up: &str, file: &str) {
    let lost = place.path().join("lost/node-1");
    std::fs::rename(&lost, place.data(1)).expect("moved");
    let old = place
        .mbd(&["--node", "1", "--config"])
        .arg(place.config())
        .start();
    wait_for("the old node to answer", LONG, || {
        let status = place.mbctl(&["status", "--json"]).json();
        (status["nodes"][0]["reachable"] == true).then_some(())
    });
    place
        .mbctl(&["restore", file, "--node", "3"])
        .expect_code(1)
        .expect_err("node 1 runs as a member");
    run(place, up);
    let add = || place.mbctl(&["member", "add", "1"]);
    add().expect_code(1).expect_err("belongs to the cluster");
    // Once more, now that it has asked the old node who it is.
    place.mbctl(&["kill", "2"]).expect_code(0);
    run(place, up);
    add().expect_code(1).expect_err("belongs to the cluster");
    drop(old);
    std::fs::rename(place.data(1), lost).expect("moved");
}

#[test]
fn a_cluster_that_lost_everything_goes_on_from_a_backup() {
    let place = place(3);
    place.mbctl(&["up"]).expect_code(0);
    let mut anna = client(&place, 1);
    anna.register("ben");
    let token = anna.sign_up("anna");
    anna.send("ben", "in the backup", "1");
    let file = place.path().join("b.db");
    let file = file.to_str().expect("UTF-8");
    let taken = place
        .mbctl(&["backup", file, "--json"])
        .expect_code(0)
        .json();
    assert_eq!(
        taken["bytes"],
        json!(std::fs::metadata(file).expect("the backup").len()),
        "{taken}"
    );
    let mode = std::fs::metadata(file)
        .expect("the backup")
        .permissions()
        .mode()
        & 0o777;
    assert_eq!(mode, 0o600);
    let later = anna.send("ben", "after the backup", "2")["id"].clone();
    place
        .mbctl(&["backup", file])
        .expect_code(2)
        .expect_err("is there already");
    place
        .mbctl(&["restore", file, "--node", "2"])
        .expect_code(1)
        .expect_err("mbctl down 2");

    place.mbctl(&["down"]).expect_code(0);
    place
        .mbctl(&["restore", file, "--node", "2"])
        .expect_code(1)
        .expect_err("is not empty");
    std::fs::rename(place.path().join("data"), place.path().join("lost")).expect("moved");
    let restored = place
        .mbctl(&["restore", file, "--node", "2", "--json"])
        .expect_code(0)
        .json();
    assert_eq!(
        restored["former_cluster_id"], taken["cluster_id"],
        "{restored}"
    );
    assert_ne!(restored["cluster_id"], taken["cluster_id"], "{restored}");
    let next: Vec<String> = serde_json::from_value(restored["next"].clone()).expect("commands");
    assert_eq!(next.len(), 7, "{next:?}");
    run_beside_an_old_node(&place, &next[0], file);
    for command in &next[1..] {
        run(&place, command);
    }
    let status: Value = place.mbctl(&["status", "--json"]).expect_code(0).json();
    assert_eq!(status["quorum"], true, "{status}");
    assert_eq!(
        place
            .mbctl(&["member", "list"])
            .expect_code(0)
            .stdout
            .matches(" yes ")
            .count(),
        3
    );

    let mut anna = client(&place, 3);
    anna.refused("resume", json!({"token": token}), "bad_credentials");
    anna.login("anna");
    let sent = anna.send("ben", "after the restore", "3")["id"].clone();
    assert!(
        sent.as_u64() > later.as_u64(),
        "{sent} was given out after {later}"
    );
    let mut ben = client(&place, 1);
    ben.login("ben");
    assert_eq!(bodies(&mut ben), ["in the backup", "after the restore"]);
    place.mbctl(&["verify"]).expect_code(0);

    // All three vote: one may die.
    place.mbctl(&["kill", "2"]).expect_code(0);
    place
        .mbctl_until_served(&["user", "lock", "ben"])
        .expect_code(0);
    place.mbctl(&["down"]).expect_code(0);
}

#[test]
fn what_is_left_of_a_cluster_without_a_quorum_can_be_saved() {
    let place = place(3);
    place.mbctl(&["up"]).expect_code(0);
    client(&place, 1).register("anna");
    place.mbctl(&["kill", "1", "2"]).expect_code(0);
    let file = place.path().join("b.db");
    let ran = place
        .mbctl(&["backup", file.to_str().expect("UTF-8"), "--node", "3"])
        .expect_code(0);
    ran.expect_err("nobody leads");
    assert!(file.exists());
    place.mbctl(&["kill", "3"]).expect_code(0);
    place
        .mbctl(&[
            "backup",
            place.path().join("none.db").to_str().expect("UTF-8"),
        ])
        .expect_code(3);
    assert!(!place.path().join("none.db").exists());
}
