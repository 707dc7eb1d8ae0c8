//! Two people on different nodes, one of which dies in the middle: nothing is lost, doubled or reordered.

use messagebase_harness::{Cluster, Talk, messages};
use serde_json::{Value, json};

use crate::cluster;

const FIRST_HALF: usize = 20;
const ALL: usize = 40;

/// The node that A's client has chosen: the only one with a session.
fn node_with_a_session(cluster: &Cluster) -> u16 {
    cluster.wait("one node with a session in `mbctl status`", || {
        let status = cluster.mbctl(&["status", "--json"]).json();
        let with: Vec<&Value> = status["nodes"]
            .as_array()?
            .iter()
            .filter(|node| node["sessions"] == 1)
            .collect();
        match with.as_slice() {
            [node] => u16::try_from(node["node"].as_u64()?).ok(),
            _ => None,
        }
    })
}

fn hear_ok(a: &mut Talk) -> String {
    let line = a.hear("the answer to a send", |line| {
        line.starts_with("OK ") || line.starts_with("ERR ")
    });
    assert!(
        line.starts_with("OK sent ") || line.starts_with("OK queued "),
        "{line}"
    );
    line
}

fn number(n: usize) -> String {
    format!("number {n} | with a bar")
}

#[test]
fn a_conversation_survives_the_sigkill_of_the_senders_node() {
    let cluster = cluster(3);
    for user in ["anna", "ben"] {
        cluster.client(1).register(user);
    }

    // A sits where her client put her; that node shall lead, so that its death costs both session and leader.
    let mut a = cluster.mbclient("anna", &[]).start();
    a.say("4");
    a.hear("the end of the user list", |line| line == "END");
    let a_node = node_with_a_session(&cluster);
    cluster.lead(a_node);
    let others = cluster.others(&[a_node]);
    let (b_node, third) = (others[0], others[1]);

    let mut b = cluster.tls_client(b_node);
    b.login("ben");
    // Presence is soft state: A's node hears of B within moments, not at once.
    cluster.wait("B to be online where A is", || {
        a.say("4");
        let ben = a.hear("B's line", |line| line.starts_with("ben "));
        (ben == "ben online").then_some(())
    });
    a.say("d|ben|are you there?");
    assert!(hear_ok(&mut a).starts_with("OK sent "), "ben is there");
    let event = b.event("message");
    assert_eq!(
        (&event["message"]["from"], &event["message"]["body"]),
        (&json!("anna"), &json!("are you there?"))
    );
    b.ok("ack", json!({"through": event["message"]["id"]}));
    drop(b);

    (0..FIRST_HALF).for_each(|n| a.say(&format!("d|ben|{}", number(n))));
    (0..FIRST_HALF / 2).for_each(|_| drop(hear_ok(&mut a)));
    cluster.node(a_node).kill();
    (FIRST_HALF..ALL).for_each(|n| a.say(&format!("d|ben|{}", number(n))));
    (FIRST_HALF / 2..ALL).for_each(|_| drop(hear_ok(&mut a)));
    let told = a.errors();
    let says = |line: &str| {
        line.contains(&format!("n{a_node}")) || line.contains(&format!("node {a_node}"))
    };
    assert!(
        told.lines().any(|line| says(line) && line.contains("term")),
        "one line says what happened:\n{told}"
    );
    a.end().expect_code(0);

    let mut b = cluster.tls_client(third);
    b.login("ben");
    let inbox = messages(&b.inbox());
    let bodies: Vec<&str> = inbox.iter().map(|message| message.body.as_str()).collect();
    assert_eq!(bodies, (0..ALL).map(number).collect::<Vec<_>>());
    assert!(
        inbox.windows(2).all(|pair| pair[0].id < pair[1].id),
        "{inbox:?}"
    );

    cluster.node(a_node).restart();
    cluster.wait_ready(&[a_node]);
    cluster.wait_same(&cluster.numbers());
}

#[test]
fn what_was_answered_at_login_and_what_comes_later_make_up_everything_once() {
    let cluster = cluster(3);
    let mut anna = cluster.client(1);
    cluster.client(2).register("ben");
    anna.sign_up("anna");
    // Ben logs in while messages are on their way: each must be in the inbox or an event, under one id, never neither.
    let requests: Vec<u64> = (0..60)
        .map(|n| {
            anna.post(
                "send",
                json!({"to": "ben", "body": format!("{n}"), "key": format!("{n}")}),
            )
        })
        .collect();
    let mut ben = cluster.client(3);
    ben.login("ben");
    let mut ids: Vec<u64> = messages(&ben.inbox())
        .iter()
        .map(|message| message.id)
        .collect();
    let sent: Vec<u64> = requests
        .into_iter()
        .map(|id| {
            anna.answer(id, messagebase_harness::SHORT).expect("sent")["id"]
                .as_u64()
                .expect("an id")
        })
        .collect();
    while ids.last() != sent.last() {
        let event = ben.event("message");
        let id = event["message"]["id"].as_u64().expect("an id");
        if ids.last().is_none_or(|last| *last < id) {
            ids.push(id);
        }
    }
    assert_eq!(ids, sent);
}
