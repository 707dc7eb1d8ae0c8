//! Starting, watching, disturbing and stopping a cluster with `mbctl` alone.

use std::time::{Duration, Instant};

use messagebase_harness::{LONG, PASSWORD, Place, Signal, TestClient, signal, wait_for};
use serde_json::{Value, json};

use crate::place;

/// Two seconds, plus a margin for a busy machine.
const STATUS_WITHIN: Duration = Duration::from_secs(6);

fn up(nodes: u16) -> Place {
    let place = place(nodes);
    place.mbctl(&["up"]).expect_code(0);
    place
}

fn client(place: &Place, node: u16) -> TestClient {
    TestClient::plain(place.ports(node).plain)
        .unwrap_or_else(|e| panic!("failed to connect to node {node}: {e}"))
}

fn status(place: &Place) -> Value {
    place.mbctl(&["status", "--json"]).json()
}

fn node(status: &Value, number: u16) -> Value {
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    nodes
        .into_iter()
        .find(|node| node["node"] == number)
        .unwrap_or_else(|| panic!("no node {number} in {status}"))
}

#[track_caller]
fn wait_status<T>(place: &Place, what: &str, mut probe: impl FnMut(&Value) -> Option<T>) -> T {
    wait_for(what, LONG, || probe(&status(place)))
}

#[test]
fn up_status_and_down() {
    let place = up(3);
    client(&place, 1).register("anna");
    let status = wait_status(&place, "three nodes that applied the same", |status| {
        let applied: Vec<&Value> = status["nodes"]
            .as_array()?
            .iter()
            .map(|node| &node["applied"])
            .collect();
        (applied[0].is_u64() && applied.iter().all(|index| *index == applied[0]))
            .then(|| status.clone())
    });
    assert_eq!(status["quorum"], true);
    let keys = [
        "node",
        "reachable",
        "role",
        "term",
        "leader",
        "last_log",
        "committed",
        "applied",
        "users",
        "queued",
        "sessions",
        "db_bytes",
        "uptime_ms",
        "version",
    ];
    for n in 1..=3 {
        let node = node(&status, n);
        for key in keys {
            assert!(
                node.get(key).is_some_and(|value| !value.is_null()),
                "{key} of {node}"
            );
        }
        assert_eq!(
            (&node["reachable"], &node["users"]),
            (&json!(true), &json!(1)),
            "{node}"
        );
        let leads = node["role"] == "leader";
        assert_eq!(leads, status["leader"] == n, "{status}");
    }
    let table = place.mbctl(&["status"]).expect_code(0);
    assert!(
        table.stdout.contains("leader") && table.stdout.contains("follower"),
        "{table}"
    );
    place.mbctl(&["up"]).expect_code(0);
    assert!(
        place.data(2).join("mbd.log").exists(),
        "the log of a background node"
    );

    place.mbctl(&["down"]).expect_code(0);
    let ran = place.mbctl(&["status", "--json"]).expect_code(3);
    assert_eq!(
        (&ran.json()["quorum"], &ran.json()["leader"]),
        (&json!(false), &Value::Null),
        "{ran}"
    );
    place.mbctl(&["down"]).expect_code(0);
    place.mbctl(&["up"]).expect_code(0);
    client(&place, 3).login("anna");
    place.mbctl(&["down"]).expect_code(0);
}

#[test]
fn killed_stopped_and_hung_nodes_are_shown_and_can_be_dealt_with() {
    let place = up(3);
    place.mbctl(&["kill", "1"]).expect_code(0);
    let shown = wait_status(
        &place,
        "node 1 to be down and the others to have a leader",
        |status| {
            let down = node(status, 1)["role"] == "down" && status["leader"].is_u64();
            (down && status["leader"] != 1).then(|| status.clone())
        },
    );
    let dead = node(&shown, 1);
    assert_eq!(
        (&dead["reachable"], &dead["term"], &dead["applied"]),
        (&json!(false), &Value::Null, &Value::Null)
    );
    place.mbctl(&["up", "1"]).expect_code(0);
    wait_status(&place, "node 1 to be back", |status| {
        (node(status, 1)["role"] != "down").then_some(())
    });

    // A hung node answers nothing; `status` must not hang with it, and `kill` finds it by its pid file.
    let pid: i32 = place
        .read("data/node-2/mbd.pid")
        .trim()
        .parse()
        .expect("a pid");
    signal(pid, Signal::SIGSTOP);
    let began = Instant::now();
    let ran = place.mbctl(&["status", "--json"]);
    assert!(began.elapsed() < STATUS_WITHIN, "{ran}");
    assert_eq!(node(&ran.json(), 2)["reachable"], false, "{ran}");
    place.mbctl(&["kill", "2"]).expect_code(0);
    wait_for("the hung node to be gone", LONG, || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    });
    place.mbctl(&["up", "2"]).expect_code(0);

    place.mbctl(&["stop", "3"]).expect_code(0);
    wait_status(&place, "node 3 to be down", |status| {
        (node(status, 3)["role"] == "down").then_some(())
    });
    place.mbctl(&["stop", "2"]).expect_code(0);
    let ran = place.mbctl(&["status"]).expect_code(3);
    assert!(ran.stdout.contains("down"), "{ran}");
    let refused = place.mbctl(&["transfer", "1", "--json"]).expect_code(3);
    let error = refused.json()["error"].clone();
    assert!(
        error["code"].is_string() && error["message"].is_string() && error.get("hint").is_some(),
        "{refused}"
    );
}

#[test]
fn leadership_goes_where_the_operator_sends_it() {
    let place = up(3);
    for n in [1, 2, 3, 1] {
        place
            .mbctl_until_served(&["transfer", &n.to_string()])
            .expect_code(0);
        wait_status(&place, &format!("node {n} to lead"), |status| {
            (status["leader"] == n).then_some(())
        });
    }
    place.mbctl(&["transfer", "9"]).expect_code(2);
    let members = place.mbctl(&["member", "list", "--json"]).expect_code(0);
    for n in 1..=3 {
        assert!(
            members.stdout.contains(&place.ports(n).peer.to_string()),
            "{members}"
        );
    }
    assert_eq!(
        place
            .mbctl(&["member", "list"])
            .expect_code(0)
            .stdout
            .matches("127.0.0.1")
            .count()
            % 3,
        0
    );
    place.mbctl(&["member", "replace", "9"]).expect_code(1);
}

#[test]
fn a_deleted_users_name_is_reserved_until_it_is_freed() {
    let place = up(1);
    let mut anna = client(&place, 1);
    anna.sign_up("anna");
    place.mbctl(&["user", "free", "anna"]).expect_code(1);
    anna.ok("delete", json!({"password": PASSWORD, "key": "d"}));
    let register = json!({"user": "Anna", "password": PASSWORD, "key": "a new anna"});
    client(&place, 1).refused("register", register.clone(), "name_taken");
    place.mbctl(&["user", "free", "nobody"]).expect_code(1);
    place.mbctl(&["user", "free", "ANNA"]).expect_code(0);
    client(&place, 1).ok("register", register);
}

#[test]
fn usage_errors_are_exit_2() {
    let place = place(1);
    for arguments in [
        &["frobnicate"][..],
        &["transfer"],
        &["kill", "x"],
        &["member", "replace"],
        &[],
    ] {
        place.mbctl(arguments).expect_code(2);
    }
    place.mbctl(&["kill", "7"]).expect_code(2);
}

#[test]
fn the_demo_plays_itself_without_a_terminal() {
    let place = place(3);
    let ran = place
        .mbctl_command(&["demo"])
        .within(LONG * 2)
        .run()
        .expect_code(0);
    assert!(ran.lines().len() >= 5, "a line a step: {ran}");
    wait_status(&place, "every node to be back", |status| {
        let nodes = status["nodes"].as_array()?;
        nodes
            .iter()
            .all(|node| node["reachable"] == true)
            .then_some(())
    });
    // A running cluster is used as it is.
    place
        .mbctl_command(&["demo"])
        .within(LONG * 2)
        .run()
        .expect_code(0);
    place.mbctl(&["down"]).expect_code(0);
}
