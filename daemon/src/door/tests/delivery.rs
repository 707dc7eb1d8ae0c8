//! Events, the order of what a connection asks, and what happens to it at a session's end.

use messagebase_protocol::limits::WRITE_DEADLINE;
use serde_json::json;

use super::*;
use crate::store::EffectSink;

#[tokio::test]
async fn a_message_reaches_the_other_sessions_as_an_event() {
    let node = node_with(&["ann", "bob"]).await;
    let (mut ann, _) = login(&node, "ann").await;
    let (mut anns_other, _) = login(&node, "ann").await;
    let (mut bob, _) = login(&node, "bob").await;
    let sent = ann
        .ok("send", json!({"to": "bob", "body": "hi", "key": "k"}))
        .await;
    assert_eq!(sent["online"], true);
    let message = json!({"id": sent["id"], "from": "ann", "to": "bob", "body": "hi", "sent_at": sent["sent_at"]});
    let event = json!({"event": "message", "message": message});
    assert_eq!(bob.event("message").await, event);
    assert_eq!(anns_other.event("message").await, event);
    ann.ok("send", json!({"to": "bob", "body": "hi", "key": "k"}))
        .await;
    ann.ok("ping", json!({})).await;
    assert_eq!(
        ann.aside,
        Vec::<Value>::new(),
        "the sending session has the reply"
    );
    bob.ok("ping", json!({})).await;
    assert_eq!(
        bob.aside,
        Vec::<Value>::new(),
        "a repetition is no new message"
    );
}

#[tokio::test]
async fn events_come_after_the_answer_to_login() {
    let node = node_with(&["ann", "bob"]).await;
    let (mut ann, _) = login(&node, "ann").await;
    // However the two race, bob must find each message in the inbox or as an event, and nothing before his answer.
    for round in 0..20 {
        let mut bob = Client::connect(&node.service);
        let login = bob
            .ask("login", json!({"user": "bob", "password": PASSWORD}))
            .await;
        let body = format!("round {round}");
        let sent = ann
            .ok("send", json!({"to": "bob", "body": body, "key": body}))
            .await;
        let first = bob.value().await;
        assert_eq!(first["id"], login, "{first}");
        let inbox = bob.ok("inbox", json!({"limit": 1000})).await;
        let in_inbox = inbox["messages"]
            .as_array()
            .unwrap()
            .iter()
            .any(|m| m["id"] == sent["id"]);
        if !in_inbox {
            assert_eq!(bob.event("message").await["message"]["id"], sent["id"]);
        }
    }
}

#[tokio::test]
async fn pipelined_sends_are_batched_and_keep_their_order() {
    let node = node_with(&["ann"]).await;
    let (mut ann, _) = login(&node, "ann").await;
    node.cluster.batches.lock().unwrap().clear();
    let hold = node
        .cluster
        .proposing
        .clone()
        .acquire_owned()
        .await
        .unwrap();
    let mut asked = Vec::new();
    for n in 0..100 {
        asked.push(
            ann.ask(
                "send",
                json!({"to": "ann", "body": n.to_string(), "key": n.to_string()}),
            )
            .await,
        );
    }
    let ping = ann.ask("ping", json!({})).await;
    assert_eq!(
        ann.value().await["id"],
        ping,
        "a held write holds up nothing else"
    );
    drop(hold);
    let mut ids = Vec::new();
    for id in asked {
        ids.push(ann.reply(id).await["ok"]["id"].as_u64().expect("sent"));
    }
    assert!(ids.is_sorted(), "{ids:?}");
    let batches = node.cluster.batches.lock().unwrap().clone();
    assert_eq!(batches.iter().sum::<usize>(), 100);
    assert!(
        batches.len() <= 3,
        "what waits goes out together: {batches:?}"
    );
}

#[tokio::test]
async fn requests_behind_a_login_wait_for_it() {
    let node = node_with(&["ann"]).await;
    let mut client = Client::connect(&node.service);
    let register = client
        .ask(
            "register",
            json!({"user": "bob", "password": PASSWORD, "key": "k"}),
        )
        .await;
    let login = client
        .ask("login", json!({"user": "bob", "password": PASSWORD}))
        .await;
    let users = client.ask("users", json!({})).await;
    let send = client
        .ask("send", json!({"to": "ann", "body": "x", "key": "k"}))
        .await;
    for id in [register, login, users, send] {
        let reply = client.reply(id).await;
        assert!(reply.get("ok").is_some(), "{reply}");
    }
}

#[tokio::test]
async fn what_is_pipelined_behind_the_end_is_answered_before_the_end() {
    let node = node_with(&["ann"]).await;
    let (mut ann, _) = login(&node, "ann").await;
    let password = json!({"password": PASSWORD, "key": "k"});
    let first = ann
        .ask("send", json!({"to": "ann", "body": "x", "key": "1"}))
        .await;
    let delete = ann.ask("delete", password.clone()).await;
    let send = ann
        .ask("send", json!({"to": "ann", "body": "x", "key": "2"}))
        .await;
    let again = ann.ask("delete", password).await;
    let read = ann.ask("users", json!({})).await;
    let logout = ann.ask("logout", json!({})).await;
    assert!(ann.reply(first).await["ok"]["id"].is_u64());
    assert_eq!(ann.reply(delete).await["ok"], json!({}));
    assert_eq!(refusal(&ann.reply(send).await), not_done("not_logged_in"));
    assert_eq!(
        ann.reply(again).await["ok"],
        json!({}),
        "the first answer again"
    );
    assert_eq!(refusal(&ann.reply(read).await), not_done("not_logged_in"));
    assert_eq!(
        ann.reply(logout).await["ok"],
        json!({}),
        "of a dead session"
    );
    assert_eq!(ann.event("closing").await["reason"], "deleted");
    ann.expect_end().await;
}

#[tokio::test]
async fn a_half_closed_connection_still_gets_its_answers() {
    let node = node_with(&["ann"]).await;
    let (mut ann, _) = login(&node, "ann").await;
    let send = ann
        .ask("send", json!({"to": "ann", "body": "x", "key": "1"}))
        .await;
    ann.writer.shutdown().await.expect("open");
    assert!(ann.reply(send).await["ok"]["id"].is_u64());
}

#[tokio::test]
async fn a_snapshot_sends_every_session_to_resync() {
    let node = node_with(&["ann"]).await;
    let (mut ann, token) = login(&node, "ann").await;
    node.fanout.resync();
    assert_eq!(ann.event("closing").await["reason"], "resync");
    ann.expect_end().await;
    let mut again = Client::connect(&node.service);
    again.ok("resume", json!({"token": token})).await;
}

#[tokio::test]
async fn a_gone_connection_is_offline_at_once() {
    let node = node_with(&["ann", "bob"]).await;
    let (mut ann, _) = login(&node, "ann").await;
    let (bob, _) = login(&node, "bob").await;
    assert_eq!(node.fanout.sessions(), 2);
    drop(bob);
    until("bob's session to be forgotten", async || {
        node.fanout.sessions() == 1
    })
    .await;
    assert_eq!(
        ann.ok("users", json!({"pattern": "bob"})).await["users"],
        json!([{"name": "bob", "online": false}])
    );
}

#[tokio::test]
async fn what_waits_behind_a_lost_write_is_lost_with_it() {
    let node = node_with(&["ann"]).await;
    let (mut ann, _) = login(&node, "ann").await;
    let hold = node
        .cluster
        .proposing
        .clone()
        .acquire_owned()
        .await
        .unwrap();
    let proposals = node.cluster.batches.lock().unwrap().len();
    let asked = std::time::Instant::now();
    let first = ann
        .ask("send", json!({"to": "ann", "body": "1", "key": "1"}))
        .await;
    until("the first to be proposed", async || {
        node.cluster.batches.lock().unwrap().len() > proposals
    })
    .await;
    // Each of these alone has time left when the first one's is over: what refuses them is not their own deadline.
    until("a second to pass", async || {
        asked.elapsed() > Duration::from_secs(1)
    })
    .await;
    let behind = [
        ann.ask("send", json!({"to": "ann", "body": "2", "key": "2"}))
            .await,
        ann.ask(
            "register",
            json!({"user": "bob", "password": PASSWORD, "key": "k"}),
        )
        .await,
        ann.ask(
            "password",
            json!({"old": PASSWORD, "new": "another password", "key": "k"}),
        )
        .await,
        ann.ask("send", json!({"to": "ann", "body": "3", "key": "3"}))
            .await,
    ];
    assert_eq!(refusal(&ann.reply(first).await), unknown("no_quorum"));
    drop(hold);
    for id in behind {
        assert_eq!(refusal(&ann.reply(id).await), unknown("no_quorum"));
    }
    // Before any of them had waited for its own: they were refused with the first.
    assert!(
        asked.elapsed() < Duration::from_secs(1) + WRITE_DEADLINE,
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(
        node.cluster.batches.lock().unwrap().len(),
        proposals + 1,
        "nothing behind it was proposed"
    );
    let first = ann
        .ok("send", json!({"to": "ann", "body": "1", "key": "1"}))
        .await;
    let second = ann
        .ok("send", json!({"to": "ann", "body": "2", "key": "2"}))
        .await;
    assert!(
        first["id"].as_u64() < second["id"].as_u64(),
        "repeated in order, they are in order"
    );
}
