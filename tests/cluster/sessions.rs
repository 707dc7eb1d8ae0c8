//! Sessions are everywhere: tokens, events, presence and the end of a session hold on every node.

use messagebase_harness::{PASSWORD, messages};
use serde_json::json;

use crate::cluster;

#[test]
fn a_message_reaches_every_session_of_both_sides_and_an_ack_empties_all_inboxes() {
    let cluster = cluster(3);
    let mut anna = cluster.client(1);
    anna.sign_up("anna");
    let mut anna_too = cluster.tls_client(2);
    anna_too.login("anna");
    let mut ben = cluster.client(2);
    ben.sign_up("ben");
    let mut ben_too = cluster.client(3);
    ben_too.login("ben");

    // Presence is soft state: it reaches Anna's node within moments, not with Ben's login.
    cluster.wait("Ben to be online where Anna is", || {
        online(&mut anna, "ben").then_some(())
    });
    let sent = anna.send("ben", "to everyone", "1");
    assert_eq!(sent["online"], true);
    for client in [&mut ben, &mut ben_too, &mut anna_too] {
        let message = client.event("message")["message"].clone();
        assert_eq!(
            (&message["id"], &message["sent_at"]),
            (&sent["id"], &sent["sent_at"])
        );
        assert_eq!(
            (&message["from"], &message["to"]),
            (&json!("anna"), &json!("ben"))
        );
    }
    assert_eq!(ben.inbox().len(), 1);
    ben_too.ok("ack", json!({"through": sent["id"]}));
    assert!(
        ben.inbox().is_empty(),
        "one session's ack empties the inbox of all"
    );
    for client in [&mut anna, &mut anna_too] {
        let delivered = client.event("delivered");
        assert_eq!(
            (&delivered["through"], &delivered["by"]),
            (&sent["id"], &json!("ben"))
        );
    }
    assert!(
        ben.sync(0)[0]["delivered_at"].is_u64(),
        "`sync` still has it"
    );
    let history = anna.ok("history", json!({"with": "ben"}));
    assert_eq!(history["messages"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        anna.events(),
        Vec::<serde_json::Value>::new(),
        "the sending session gets no event of its own message"
    );
}

#[test]
fn pages_are_in_order_and_say_whether_more_follow() {
    let cluster = cluster(1);
    let mut anna = cluster.client(1);
    anna.sign_up("anna");
    let mut ben = cluster.client(1);
    ben.sign_up("ben");
    for n in 0..7 {
        anna.send("ben", &format!("{n}"), &format!("{n}"));
    }
    let page = |client: &mut messagebase_harness::TestClient, op: &str, fields| {
        let ok = client.ok(op, fields);
        let values = ok["messages"].as_array().cloned().unwrap_or_default();
        let bodies: Vec<String> = messages(&values).into_iter().map(|m| m.body).collect();
        (
            bodies.join(""),
            ok["more"] == true,
            values.first().map(|m| m["id"].clone()),
        )
    };
    let (bodies, more, _) = page(&mut ben, "inbox", json!({"limit": 3}));
    assert_eq!((bodies.as_str(), more), ("012", true));
    let (bodies, more, first) = page(&mut ben, "history", json!({"with": "anna", "limit": 3}));
    assert_eq!(
        (bodies.as_str(), more),
        ("456", true),
        "the newest page first, oldest first within it"
    );
    let (bodies, more, _) = page(
        &mut ben,
        "history",
        json!({"with": "anna", "limit": 9, "before": first}),
    );
    assert_eq!((bodies.as_str(), more), ("0123", false));
    let (bodies, more, _) = page(&mut anna, "sync", json!({"after": 0, "limit": 7}));
    assert_eq!((bodies.as_str(), more), ("0123456", false));
    for limit in [0, 1001] {
        let fields = json!({"limit": limit});
        let answer = ben.ask("inbox", fields);
        assert!(
            limit == 0 || answer.is_err_and(|refusal| refusal.code == "bad_request"),
            "limit {limit}"
        );
    }
}

#[test]
fn a_token_resumes_on_every_node_and_is_dead_on_every_node_after_logout() {
    let cluster = cluster(3);
    let mut first = cluster.client(1);
    let token = first.sign_up("anna");
    let mut second = cluster.client(2);
    let resumed = second.ok("resume", json!({"token": token}));
    assert_eq!(
        (&resumed["user"], &resumed["linear"]),
        (&json!("anna"), &json!(true))
    );
    second.refused(
        "login",
        json!({"user": "anna", "password": PASSWORD}),
        "bad_request",
    );
    second.refused("resume", json!({"token": token}), "bad_request");
    let mut third = cluster.client(3);
    third.ok("resume", json!({"token": token}));
    assert_eq!(third.ok("logout", json!({})), json!({}));
    for client in [&mut first, &mut second] {
        assert_eq!(client.event("closing")["reason"], "logout");
        client.wait_closed();
    }
    for n in cluster.numbers() {
        cluster
            .client(n)
            .refused("resume", json!({"token": token}), "bad_credentials");
    }
    let stored = cluster.rows(1, "sessions");
    assert!(stored.rows.is_empty(), "{stored:?}");
}

#[test]
fn a_new_password_ends_the_other_sessions_and_a_deletion_ends_all() {
    let cluster = cluster(3);
    let mut anna = cluster.client(1);
    anna.sign_up("anna");
    let mut other = cluster.client(2);
    let other_token = other.login("anna");
    let wrong = json!({"old": "not the password", "new": "a new password", "key": "wrong"});
    anna.refused("password", wrong, "bad_credentials");
    anna.ok(
        "password",
        json!({"old": PASSWORD, "new": "a new password", "key": "p"}),
    );
    other.event("closing");
    other.wait_closed();
    cluster
        .client(3)
        .refused("resume", json!({"token": other_token}), "bad_credentials");
    cluster.client(3).refused(
        "login",
        json!({"user": "anna", "password": PASSWORD}),
        "bad_credentials",
    );
    let mut third = cluster.client(3);
    third.ok(
        "login",
        json!({"user": "Anna", "password": "a new password"}),
    );
    anna.refused(
        "delete",
        json!({"password": PASSWORD, "key": "d0"}),
        "bad_credentials",
    );
    anna.ok("delete", json!({"password": "a new password", "key": "d"}));
    assert_eq!(third.event("closing")["reason"], "deleted");
    third.wait_closed();
    cluster.client(2).refused(
        "login",
        json!({"user": "anna", "password": "a new password"}),
        "bad_credentials",
    );
}

#[test]
fn presence_from_every_node_is_right_within_seconds() {
    let cluster = cluster(3);
    let mut watcher = cluster.client(1);
    watcher.sign_up("watcher");
    let mut anna = cluster.client(3);
    anna.sign_up("Anna");
    let mut online = |expected: bool| {
        cluster.wait(&format!("Anna to be online: {expected}"), || {
            let users = watcher.ok("users", json!({"pattern": "a*"}))["users"].clone();
            assert_eq!(users.as_array().map(Vec::len), Some(1), "{users}");
            assert_eq!(users[0]["name"], "Anna", "shown as registered");
            (users[0]["online"] == expected).then_some(())
        });
    };
    online(true);
    drop(anna);
    online(false);
    let mut anna = cluster.client(2);
    anna.login("anna");
    online(true);
    cluster.node(2).kill();
    online(false);
}

#[test]
fn users_are_searched_by_glob_page_by_page_without_regard_to_case() {
    let cluster = cluster(1);
    let mut client = cluster.client(1);
    for user in ["Anna", "anders", "Ben", "a.b", "zoe_1"] {
        client.register(user);
    }
    client.login("zoe_1");
    let mut names = |fields| -> (Vec<String>, bool) {
        let ok = client.ok("users", fields);
        let names = ok["users"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|u| u["name"].as_str().unwrap_or("").to_owned());
        (names.collect(), ok["more"] == true)
    };
    let (all, more) = names(json!({}));
    assert_eq!((all.len(), more), (5, false));
    assert_eq!(
        names(json!({"pattern": "AN*"})),
        (vec!["anders".into(), "Anna".into()], false)
    );
    assert_eq!(
        names(json!({"pattern": "?en"})),
        (vec!["Ben".into()], false)
    );
    assert_eq!(
        names(json!({"pattern": "a.b"})),
        (vec!["a.b".into()], false)
    );
    assert_eq!(
        names(json!({"pattern": "[a]*"})).0,
        Vec::<String>::new(),
        "brackets are no wildcard"
    );
    let (first, more) = names(json!({"limit": 2}));
    assert!(more);
    let (rest, more) = names(json!({"after": first[1], "limit": 9}));
    assert!(!more);
    assert_eq!([first, rest].concat(), all);
}

#[test]
fn campaign_is_declined_while_the_leader_answers_and_wins_when_it_is_dead() {
    let cluster = cluster(3);
    let leader = cluster.leader();
    let others = cluster.others(&[leader]);
    let mut follower = cluster.client(others[0]);
    follower.refused("campaign", json!({}), "leader_alive");
    cluster.node(leader).kill();
    let winner = cluster.wait("a winner", || match follower.ask("campaign", json!({})) {
        Ok(ok) => ok["leader"].as_u64(),
        Err(refusal) => {
            let expected = ["leader_alive", "no_quorum", "rate_limited"];
            assert!(expected.contains(&refusal.code.as_str()), "{refusal:?}");
            // Somebody else was quicker: then the status names a live leader.
            cluster.status(others[0])?["leader"]
                .as_u64()
                .filter(|n| *n != u64::from(leader))
        }
    });
    assert!(
        others.contains(&u16::try_from(winner).expect("a node")),
        "{winner}"
    );
}

#[test]
fn a_slow_reader_is_dropped_and_delays_nobody() {
    let cluster = cluster(1);
    let mut anna = cluster.client(1);
    anna.sign_up("anna");
    // Logs in and never reads: what does not fit into the sockets and the queue must not wait for it.
    let mut deaf = cluster.pipe(1);
    cluster.client(1).register("deaf");
    deaf.say(&json!({"id": 1, "op": "login", "user": "deaf", "password": PASSWORD}).to_string());
    deaf.line("the answer to the login");
    let body = "x".repeat(16_000);
    for n in 0..1_500 {
        anna.send("deaf", &body, &format!("{n}"));
        if n % 100 == 99 && cluster.client(1).ok("ping", json!({}))["ready"] != true {
            panic!("the node does not serve");
        }
        if n % 50 == 49 && !online(&mut anna, "deaf") {
            break;
        }
    }
    cluster.wait("the slow reader to be dropped", || {
        (!online(&mut anna, "deaf")).then_some(())
    });
    let words = deaf.last_words();
    let closing = words.last().filter(|line| line.contains("closing"));
    assert!(
        closing.is_none_or(|line| line.contains("slow")),
        "{closing:?}"
    );
    let mut deaf = cluster.client(1);
    deaf.login("deaf");
    assert!(
        !deaf.inbox().is_empty(),
        "nothing is lost: it is in the inbox"
    );
}

fn online(client: &mut messagebase_harness::TestClient, user: &str) -> bool {
    client.ok("users", json!({"pattern": user}))["users"][0]["online"] == true
}
