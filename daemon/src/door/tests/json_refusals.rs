//! Every error code of the JSON dialect, with its certainty.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::*;
use crate::change::{Change, Outcome, Settings};
use crate::raft::api::{CampaignError, Verdict};

#[tokio::test]
async fn malformed_lines_are_refused_and_the_connection_lives() {
    let node = TestNode::start();
    let mut client = Client::connect(&node.service);
    for (line, id, code) in [
        ("{", json!(null), "bad_request"),
        ("", json!(null), "bad_request"),
        ("[1]", json!(null), "bad_request"),
        (r#"{"op":"ping"}"#, json!(null), "bad_request"),
        (r#"{"id":-1,"op":"ping"}"#, json!(null), "bad_request"),
        (
            r#"{"id":9007199254740992,"op":"ping"}"#,
            json!(null),
            "bad_request",
        ),
        (r#"{"id":3}"#, json!(3), "bad_request"),
        (r#"{"id":4,"op":"fly"}"#, json!(4), "unknown_op"),
        (
            r#"{"id":5,"op":"login","user":"ann"}"#,
            json!(5),
            "bad_request",
        ),
        (
            r#"{"id":6,"op":"login","user":"ann","password":7}"#,
            json!(6),
            "bad_request",
        ),
    ] {
        client.write(format!("{line}\n")).await;
        let reply = client.value().await;
        assert_eq!(
            (&reply["id"], refusal(&reply)),
            (&id, not_done(code)),
            "{line}"
        );
    }
    client
        .write("{\"id\":7,\"op\":\"ping\",\"later\":[1]}\r\n")
        .await;
    assert_eq!(
        client.value().await["ok"]["ready"],
        true,
        "unknown fields are ignored, so is the CR"
    );
}

#[tokio::test]
async fn what_needs_a_session_is_refused_without_one() {
    let node = TestNode::start();
    let mut client = Client::connect(&node.service);
    for (op, fields) in [
        ("logout", json!({})),
        (
            "password",
            json!({"old": PASSWORD, "new": PASSWORD, "key": "k"}),
        ),
        ("delete", json!({"password": PASSWORD, "key": "k"})),
        ("users", json!({})),
        ("send", json!({"to": "ann", "body": "x", "key": "k"})),
        ("inbox", json!({})),
        ("sync", json!({"after": 0})),
        ("ack", json!({"through": 1})),
        ("history", json!({"with": "ann"})),
    ] {
        assert_eq!(
            client.refused(op, fields).await,
            not_done("not_logged_in"),
            "{op}"
        );
    }
}

#[tokio::test]
async fn fields_of_a_registration_are_checked_before_anything_is_proposed() {
    let node = node_with(&["ann"]).await;
    let mut client = Client::connect(&node.service);
    let register = |user: &str, password: &str, key: &str| json!({"user": user, "password": password, "key": key});
    for (fields, code) in [
        (register("-ann", PASSWORD, "k"), "bad_name"),
        (register(&"a".repeat(33), PASSWORD, "k"), "bad_name"),
        (register("", PASSWORD, "k"), "bad_name"),
        (register("bob", "short", "k"), "bad_password"),
        (register("bob", &"x".repeat(257), "k"), "bad_password"),
        (register("bob", PASSWORD, ""), "bad_request"),
        (register("bob", PASSWORD, "käse"), "bad_request"),
        (register("bob", PASSWORD, &"k".repeat(65)), "bad_request"),
        (register("ANN", PASSWORD, "another key"), "name_taken"),
    ] {
        assert_eq!(
            client.refused("register", fields.clone()).await,
            not_done(code),
            "{fields}"
        );
    }
}

#[tokio::test]
async fn fields_are_checked_before_anything_is_proposed() {
    let node = node_with(&["ann"]).await;
    let (mut ann, _) = login(&node, "ann").await;
    for (op, fields, code) in [
        (
            "send",
            json!({"to": "ann", "body": "x".repeat(16_385), "key": "k"}),
            "too_large",
        ),
        (
            "send",
            json!({"to": "ann", "body": "a\u{0}b", "key": "k"}),
            "bad_request",
        ),
        (
            "send",
            json!({"to": "nobody", "body": "x", "key": "k"}),
            "no_such_user",
        ),
        (
            "send",
            json!({"to": "no body", "body": "x", "key": "k"}),
            "bad_name",
        ),
        ("ack", json!({"through": 1}), "bad_request"),
        ("ack", json!({"through": u64::MAX}), "bad_request"),
        ("inbox", json!({"limit": 1_001}), "bad_request"),
        ("inbox", json!({"limit": 0}), "bad_request"),
        ("history", json!({"with": "nobody"}), "no_such_user"),
        ("users", json!({"pattern": "x".repeat(65)}), "bad_request"),
        (
            "login",
            json!({"user": "ann", "password": PASSWORD}),
            "bad_request",
        ),
        ("resume", json!({"token": "x"}), "bad_request"),
        (
            "delete",
            json!({"password": PASSWORD, "key": "k", "user": "bob"}),
            "not_permitted",
        ),
        (
            "delete",
            json!({"password": "wrong horse", "key": "k"}),
            "bad_credentials",
        ),
        (
            "password",
            json!({"old": "wrong horse", "new": PASSWORD, "key": "k"}),
            "bad_credentials",
        ),
    ] {
        assert_eq!(
            ann.refused(op, fields.clone()).await,
            not_done(code),
            "{op}"
        );
    }
    ann.ok("send", json!({"to": "ann", "body": "x", "key": "k"}))
        .await;
    let reused = json!({"to": "ann", "body": "y", "key": "k"});
    assert_eq!(ann.refused("send", reused).await, not_done("bad_request"));
    assert_eq!(
        ann.ok("inbox", json!({"after": u64::MAX})).await["messages"],
        json!([])
    );
}

#[tokio::test]
async fn unknown_user_and_wrong_password_look_alike_and_are_limited() {
    let node = node_with(&["ann", "bob"]).await;
    let mut client = Client::connect(&node.service);
    let login = |user: &str, password: &str| json!({"user": user, "password": password});
    let wrong = client.call("login", login("ann", "wrong horse")).await;
    let nobody = client.call("login", login("zoe", "wrong horse")).await;
    assert_eq!(wrong["error"], nobody["error"]);
    assert_eq!(refusal(&wrong), not_done("bad_credentials"));
    for _ in 0..2 {
        assert_eq!(
            client.refused("login", login("ann", "wrong horse")).await,
            not_done("bad_credentials")
        );
    }
    let limited = client.call("login", login("ann", PASSWORD)).await;
    assert_eq!(refusal(&limited), not_done("rate_limited"));
    let wait = limited["error"]["retry_after_ms"]
        .as_u64()
        .expect("when to try again");
    assert!((1..=60_000).contains(&wait), "{wait}");
    assert_eq!(
        client.ok("login", login("bob", PASSWORD)).await["user"],
        "bob",
        "others are not held up"
    );
}

#[tokio::test]
async fn right_logins_never_count() {
    let node = node_with(&["ann"]).await;
    for _ in 0..10 {
        login(&node, "ann").await;
    }
}

#[tokio::test]
async fn a_locked_account_is_told_so_with_the_right_password_alone() {
    let node = node_with(&["ann"]).await;
    let (mut live, token) = login(&node, "ann").await;
    node.cluster
        .apply(Change::Lock { name: "ann".into() })
        .await;
    assert_eq!(live.event("closing").await["reason"], "locked");
    let mut client = Client::connect(&node.service);
    let login = |password: &str| json!({"user": "ann", "password": password});
    assert_eq!(
        client.refused("login", login("wrong horse")).await,
        not_done("bad_credentials")
    );
    assert_eq!(
        client.refused("login", login(PASSWORD)).await,
        not_done("locked")
    );
    assert_eq!(
        client.refused("resume", json!({"token": token})).await,
        not_done("bad_credentials")
    );
}

#[tokio::test]
async fn replicated_settings_close_registration_and_bound_queues() {
    let node = node_with(&["ann"]).await;
    let settings = Settings {
        registration_open: false,
        queued_messages_per_user: 1,
        ..Settings::default()
    };
    node.cluster.apply(Change::Settings(settings)).await;
    let mut client = Client::connect(&node.service);
    let fields = json!({"user": "bob", "password": PASSWORD, "key": "k"});
    assert_eq!(
        client.refused("register", fields).await,
        not_done("not_permitted")
    );
    let (mut ann, _) = login(&node, "ann").await;
    ann.ok("send", json!({"to": "ann", "body": "x", "key": "1"}))
        .await;
    assert_eq!(
        ann.refused("send", json!({"to": "ann", "body": "x", "key": "2"}))
            .await,
        not_done("busy")
    );
}

#[tokio::test]
async fn lost_verdicts_are_unknown() {
    let node = node_with(&["ann"]).await;
    let (mut ann, _) = login(&node, "ann").await;
    for (verdict, code) in [
        (Verdict::NoQuorum, "no_quorum"),
        (Verdict::Closing, "closing"),
        (
            Verdict::Applied {
                index: 9,
                outcome: Outcome::Rejected,
            },
            "internal",
        ),
    ] {
        *node.cluster.next_verdict.lock().unwrap() = Some(verdict);
        let fields = json!({"to": "ann", "body": "x", "key": "k"});
        assert_eq!(ann.refused("send", fields).await, unknown(code));
    }
}

#[tokio::test]
async fn campaigns_are_answered_and_limited() {
    let node = TestNode::start();
    *node.cluster.campaign.lock().unwrap() = Err(CampaignError::LeaderAlive(2));
    let mut client = Client::connect(&node.service);
    assert_eq!(
        client.refused("campaign", json!({})).await,
        not_done("leader_alive")
    );
    *node.cluster.campaign.lock().unwrap() = Err(CampaignError::NoQuorum);
    assert_eq!(
        client.refused("campaign", json!({})).await,
        unknown("no_quorum")
    );
    *node.cluster.campaign.lock().unwrap() = Ok(3);
    assert_eq!(client.ok("campaign", json!({})).await, json!({"leader": 3}));
    for _ in 0..7 {
        client.ok("campaign", json!({})).await;
    }
    let limited = client.call("campaign", json!({})).await;
    assert_eq!(refusal(&limited), not_done("rate_limited"));
    assert!(limited["error"]["retry_after_ms"].is_u64());
    let mut other = Client::connect(&node.service);
    other.ok("campaign", json!({})).await;
}

#[tokio::test]
async fn a_node_without_a_quorum_never_judges_credentials() {
    let node = node_with(&["ann"]).await;
    node.cluster.quorum.store(false, Ordering::SeqCst);
    let mut client = Client::connect(&node.service);
    for user in ["ann", "zoe"] {
        let fields = json!({"user": user, "password": "wrong horse"});
        assert_eq!(client.refused("login", fields).await, unknown("no_quorum"));
    }
}
