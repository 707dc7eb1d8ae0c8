//! The happy path of every operation of the JSON dialect.

use serde_json::json;

use super::*;

#[tokio::test]
async fn hello_status_ping_and_campaign_need_no_session() {
    let node = TestNode::start();
    let mut client = Client::connect(&node.service);
    let hello = client.ok("hello", json!({})).await;
    assert_eq!(
        (&hello["protocol"], &hello["node"], &hello["cluster"]),
        (&json!(1), &json!(1), &json!("test"))
    );
    assert_eq!(hello["cluster_id"].as_str().map(str::len), Some(32));
    let status = client.ok("status", json!({})).await;
    assert_eq!(
        (&status["role"], &status["leader"], &status["ready"]),
        (&json!("leader"), &json!(1), &json!(true))
    );
    assert!(
        status["last_log"].is_null() && status["committed"].is_null(),
        "unknown is null, not left out: {status}"
    );
    assert_eq!(
        client.ok("ping", json!({})).await,
        json!({"ready": true, "applied": null})
    );
    assert_eq!(client.ok("campaign", json!({})).await, json!({"leader": 1}));
}

#[tokio::test]
async fn a_waiting_node_says_so_and_does_nothing_else() {
    use std::sync::atomic::Ordering;
    let node = TestNode::start();
    node.cluster.member.store(false, Ordering::SeqCst);
    node.cluster.quorum.store(false, Ordering::SeqCst);
    let mut client = Client::connect(&node.service);
    assert!(client.ok("hello", json!({})).await["cluster_id"].is_null());
    let status = client.ok("status", json!({})).await;
    assert_eq!(
        (&status["role"], &status["members"], &status["ready"]),
        (&json!("waiting"), &json!([]), &json!(false))
    );
    assert_eq!(client.ok("ping", json!({})).await["ready"], false);
    let fields = json!({"user": "ann", "password": PASSWORD, "key": "k"});
    assert_eq!(
        client.refused("register", fields).await,
        unknown("no_quorum")
    );
    assert_eq!(
        client
            .refused("login", json!({"user": "ann", "password": PASSWORD}))
            .await,
        unknown("no_quorum")
    );
}

#[tokio::test]
async fn register_is_repeatable_and_does_not_log_in() {
    let node = TestNode::start();
    let mut client = Client::connect(&node.service);
    let fields = json!({"user": "Ann", "password": PASSWORD, "key": "k"});
    assert_eq!(
        client.ok("register", fields.clone()).await,
        json!({"user": "Ann"})
    );
    assert_eq!(client.ok("register", fields).await, json!({"user": "Ann"}));
    let again = json!({"user": "ann", "password": "another password", "key": "k"});
    assert_eq!(
        client.ok("register", again).await,
        json!({"user": "Ann"}),
        "the first answer again"
    );
    assert_eq!(
        client.refused("inbox", json!({})).await,
        not_done("not_logged_in")
    );
}

#[tokio::test]
async fn login_gives_a_token_that_resumes_until_logout() {
    let node = node_with(&["Ann"]).await;
    let (mut first, token) = login(&node, "ANN").await;
    assert_eq!(token.len(), 43);
    let mut second = Client::connect(&node.service);
    let resumed = second.ok("resume", json!({"token": token})).await;
    assert_eq!(resumed, json!({"user": "Ann", "queued": 0, "linear": true}));
    assert_eq!(first.ok("logout", json!({})).await, json!({}));
    assert_eq!(first.event("closing").await["reason"], "logout");
    first.expect_end().await;
    assert_eq!(second.event("closing").await["reason"], "logout");
    second.expect_end().await;
    let mut third = Client::connect(&node.service);
    assert_eq!(
        third.refused("resume", json!({"token": token})).await,
        not_done("bad_credentials")
    );
}

#[tokio::test]
async fn password_ends_the_other_sessions_and_is_repeatable() {
    let node = node_with(&["ann"]).await;
    let (mut keeps, _) = login(&node, "ann").await;
    let (mut other, _) = login(&node, "ann").await;
    let fields = json!({"old": PASSWORD, "new": "battery staple", "key": "k"});
    assert_eq!(keeps.ok("password", fields.clone()).await, json!({}));
    assert_eq!(other.event("closing").await["reason"], "logout");
    assert_eq!(
        keeps.ok("password", fields).await,
        json!({}),
        "though `old` no longer matches"
    );
    let mut late = Client::connect(&node.service);
    let login = |password: &str| json!({"user": "ann", "password": password});
    assert_eq!(
        late.refused("login", login(PASSWORD)).await,
        not_done("bad_credentials")
    );
    assert_eq!(
        late.ok("login", login("battery staple")).await["user"],
        "ann"
    );
}

#[tokio::test]
async fn delete_is_answered_before_the_end_and_repeatable_without_a_session() {
    let node = node_with(&["ann"]).await;
    let (mut client, _) = login(&node, "ann").await;
    let fields = json!({"password": PASSWORD, "key": "k", "user": "ANN"});
    assert_eq!(client.ok("delete", fields.clone()).await, json!({}));
    assert_eq!(client.event("closing").await["reason"], "deleted");
    client.expect_end().await;
    let mut again = Client::connect(&node.service);
    assert_eq!(again.ok("delete", fields).await, json!({}));
    let other_key = json!({"password": PASSWORD, "key": "other", "user": "ann"});
    assert_eq!(
        again.refused("delete", other_key).await,
        not_done("not_logged_in")
    );
    let fields = json!({"user": "ann", "password": PASSWORD, "key": "new"});
    assert_eq!(
        again.refused("register", fields).await,
        not_done("name_taken"),
        "the name stays reserved"
    );
}

#[tokio::test]
async fn users_lists_by_name_in_pages_with_who_is_online() {
    let node = node_with(&["carl", "Bob", "ann", "bea"]).await;
    let (mut client, _) = login(&node, "bea").await;
    let entry = |name: &str, online: bool| json!({"name": name, "online": online});
    let page = client.ok("users", json!({"limit": 2})).await;
    assert_eq!(
        page,
        json!({"users": [entry("ann", false), entry("bea", true)], "more": true})
    );
    let page = client
        .ok("users", json!({"after": "bea", "consistency": null}))
        .await;
    assert_eq!(
        page,
        json!({"users": [entry("Bob", false), entry("carl", false)], "more": false})
    );
    let page = client
        .ok(
            "users",
            json!({"pattern": "B?*", "after": null, "consistency": "local"}),
        )
        .await;
    assert_eq!(
        page["users"],
        json!([entry("bea", true), entry("Bob", false)])
    );
}

#[tokio::test]
async fn a_message_is_sent_read_acknowledged_and_remembered() {
    let node = node_with(&["ann", "bob"]).await;
    let (mut ann, _) = login(&node, "ann").await;
    let fields = json!({"to": "BOB", "body": "hi\nthere", "key": "k1"});
    let sent = ann.ok("send", fields.clone()).await;
    assert_eq!(
        (&sent["duplicate"], &sent["online"]),
        (&json!(false), &json!(false))
    );
    let again = ann.ok("send", fields).await;
    assert_eq!(
        (&again["id"], &again["sent_at"], &again["duplicate"]),
        (&sent["id"], &sent["sent_at"], &json!(true))
    );

    let (mut bob, _) = login(&node, "bob").await;
    let message = json!({"id": sent["id"], "from": "ann", "to": "bob", "body": "hi\nthere", "sent_at": sent["sent_at"]});
    assert_eq!(
        bob.ok("inbox", json!({})).await,
        json!({"messages": [message], "more": false})
    );
    assert_eq!(
        bob.ok("inbox", json!({"after": sent["id"]})).await["messages"],
        json!([])
    );
    assert_eq!(
        bob.ok("ack", json!({"through": sent["id"]})).await,
        json!({})
    );
    assert_eq!(
        ann.event("delivered").await,
        json!({"event": "delivered", "through": sent["id"], "by": "bob"})
    );
    assert_eq!(bob.ok("inbox", json!({})).await["messages"], json!([]));
    let history = bob.ok("history", json!({"with": "Ann"})).await;
    assert_eq!(history["messages"][0]["body"], "hi\nthere");
    assert!(history["messages"][0]["delivered_at"].is_u64(), "{history}");
    assert_eq!(
        bob.ok("sync", json!({"after": 0})).await["messages"],
        history["messages"]
    );
    assert_eq!(
        ann.ok("sync", json!({"after": sent["id"]})).await,
        json!({"messages": [], "more": false})
    );
}

#[tokio::test]
async fn history_pages_backwards_and_oldest_first() {
    let node = node_with(&["ann", "bob"]).await;
    let (mut ann, _) = login(&node, "ann").await;
    for n in 1..=5 {
        ann.ok(
            "send",
            json!({"to": "bob", "body": n.to_string(), "key": n.to_string()}),
        )
        .await;
    }
    let bodies = |page: &Value| -> Vec<String> {
        page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["body"].as_str().unwrap().into())
            .collect()
    };
    let newest = ann.ok("history", json!({"with": "bob", "limit": 2})).await;
    assert_eq!(
        (bodies(&newest), &newest["more"]),
        (vec!["4".into(), "5".into()], &json!(true))
    );
    let before = &newest["messages"][0]["id"];
    let older = ann
        .ok("history", json!({"with": "bob", "before": before}))
        .await;
    assert_eq!(
        (bodies(&older), &older["more"]),
        (vec!["1".into(), "2".into(), "3".into()], &json!(false))
    );
}

#[tokio::test]
async fn a_page_of_great_messages_is_cut_to_a_line() {
    let node = node_with(&["ann", "bob"]).await;
    let (mut ann, _) = login(&node, "ann").await;
    let body = "\u{1}".repeat(16_384);
    for key in ["1", "2", "3"] {
        ann.ok("send", json!({"to": "bob", "body": body, "key": key}))
            .await;
    }
    let (mut bob, _) = login(&node, "bob").await;
    let mut after = json!(0);
    for more in [true, true, false] {
        let page = bob.ok("inbox", json!({"after": after})).await;
        assert_eq!(
            (page["messages"].as_array().map(Vec::len), &page["more"]),
            (Some(1), &json!(more))
        );
        after = page["messages"][0]["id"].clone();
    }
}

#[tokio::test]
async fn local_reads_work_without_a_quorum_and_linear_ones_do_not() {
    use std::sync::atomic::Ordering;
    let node = node_with(&["ann"]).await;
    let (mut ann, token) = login(&node, "ann").await;
    node.cluster.quorum.store(false, Ordering::SeqCst);
    assert_eq!(
        ann.ok("inbox", json!({"consistency": "local"})).await["messages"],
        json!([])
    );
    assert_eq!(ann.refused("inbox", json!({})).await, unknown("no_quorum"));
    assert_eq!(
        ann.refused("send", json!({"to": "ann", "body": "x", "key": "k"}))
            .await,
        unknown("no_quorum")
    );

    let mut resumed = Client::connect(&node.service);
    assert_eq!(
        resumed.refused("resume", json!({"token": token})).await,
        unknown("no_quorum")
    );
    let ok = resumed
        .ok("resume", json!({"token": token, "consistency": "local"}))
        .await;
    assert_eq!(ok, json!({"user": "ann", "queued": 0, "linear": false}));
    assert_eq!(
        resumed.ok("users", json!({"consistency": "local"})).await["users"][0]["name"],
        "ann"
    );
    assert_eq!(
        resumed.refused("users", json!({})).await,
        unknown("no_quorum")
    );
    let dead = json!({"token": "nobody's", "consistency": "local"});
    let mut third = Client::connect(&node.service);
    assert_eq!(
        third.refused("resume", dead.clone()).await,
        unknown("no_quorum"),
        "never on local knowledge"
    );
    node.cluster.quorum.store(true, Ordering::SeqCst);
    assert_eq!(
        third.refused("resume", dead).await,
        not_done("bad_credentials")
    );
    assert_eq!(
        resumed.ok("users", json!({})).await["users"][0]["name"],
        "ann",
        "the check is made up for"
    );
}
