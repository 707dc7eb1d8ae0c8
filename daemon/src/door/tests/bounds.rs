//! Limits: dialect choice, long lines, slow readers, silence, shutdown, the HTTP door.

use messagebase_protocol::limits::{LINE_ABANDON_BYTES, LINE_MAX_BYTES};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::door::Door;
use crate::state::effect::Effect;
use crate::store::EffectSink;

#[tokio::test]
async fn anything_else_is_refused_and_closed() {
    let node = TestNode::start();
    for first in ["GET / HTTP/1.1\r\n\r\n", "6|a|b\n", "hello\n", "4x\n", "\n", " {}\n", "\u{16}\u{3}\u{1}", "éa\n"] {
        let mut client = Client::connect(&node.service);
        client.write(first).await;
        let line = client.line().await;
        assert!(line.starts_with("ERR bad_request "), "{first:?}: {line}");
        client.expect_end().await;
    }
}

#[tokio::test]
async fn a_line_over_the_limit_is_skipped_and_a_hopeless_one_closes() {
    let node = TestNode::start();
    let mut client = Client::connect(&node.service);
    let mut long = vec![b'x'; LINE_MAX_BYTES];
    long[0] = b'{';
    long.push(b'\n');
    client.write(long).await;
    let reply = client.value().await;
    assert_eq!((&reply["id"], refusal(&reply)), (&json!(null), not_done("too_large")));
    client.ok("ping", json!({})).await;

    let (reader, mut writer) = (client.reader, client.writer);
    let flood = tokio::spawn(async move {
        // An error is the point: the node closes before all of it is written.
        writer.write_all(&vec![b'x'; LINE_ABANDON_BYTES * 4]).await
    });
    let mut rest = String::new();
    let mut reader = reader;
    within("the end", reader.read_to_string(&mut rest)).await.expect("text");
    assert_eq!(rest.lines().count(), 1, "{rest}");
    assert!(rest.contains("too_large"));
    assert!(within("the flood's end", flood).await.expect("no panic").is_err());
}

#[tokio::test]
async fn invalid_utf8_is_a_malformed_line() {
    let node = TestNode::start();
    let mut client = Client::connect(&node.service);
    client.write(b"{\"id\":1,\"op\":\"ping\xff\"}\n").await;
    let reply = client.value().await;
    assert_eq!((&reply["id"], refusal(&reply)), (&json!(null), not_done("bad_request")));
    client.ok("ping", json!({})).await;
}

#[tokio::test]
async fn a_slow_reader_is_dropped_and_loses_nothing() {
    let node = node_with(&["ann", "bob"]).await;
    let mut bob = Client::connect_with(&node.service, Patience::default(), 1_024);
    bob.ok("login", json!({"user": "bob", "password": PASSWORD})).await;
    // Events alone fill the outbox; the store is not needed for that.
    let message = messagebase_protocol::json::Message {
        id: 1,
        from: "ann".into(),
        to: "bob".into(),
        body: "x".repeat(16_000),
        sent_at: 1,
    };
    for id in 1..=600 {
        let message = messagebase_protocol::json::Message { id, ..message.clone() };
        node.fanout.publish(vec![Effect::Message { sender: 1, recipient: 2, sending_session: None, message }]);
    }
    let mut last = 0;
    loop {
        let value = bob.value().await;
        if value["event"] == "closing" {
            assert_eq!(value["reason"], "slow");
            break;
        }
        assert_eq!(value["message"]["id"], last + 1, "what is read is without a gap");
        last += 1;
    }
    assert!(last < 600);
    bob.expect_end().await;
}

#[tokio::test]
async fn silence_closes_and_a_status_reader_may_stay() {
    let node = node_with(&["ann"]).await;
    let impatient =
        Patience { idle: Duration::from_millis(400), login_wait: Duration::from_millis(50), ..Patience::default() };
    let started = std::time::Instant::now();
    let mut stranger = Client::connect_with(&node.service, impatient, STREAM_BYTES);
    stranger.ok("hello", json!({})).await;
    assert_eq!(stranger.value().await, json!({"event": "closing", "reason": "idle"}));
    stranger.expect_end().await;
    let mut silent = Client::connect_with(&node.service, impatient, STREAM_BYTES);
    silent.expect_end().await;
    let started_staying = std::time::Instant::now();
    let mut stays = Client::connect_with(&node.service, impatient, STREAM_BYTES);
    stays.ok("status", json!({})).await;
    assert_eq!(stays.event("closing").await["reason"], "idle");
    assert!(started_staying.elapsed() >= impatient.idle, "not after the login wait");
    assert!(started.elapsed() >= impatient.login_wait);
}

#[tokio::test]
async fn the_door_serves_tcp_within_its_limit_until_the_shutdown() {
    let node = node_with(&["ann"]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let door = Door::new(node.service.clone(), 1, Patience::default());
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(door.clone().serve(listener, None, shutdown.clone()));

    let mut first = TcpStream::connect(address).await.expect("listening");
    first.write_all(b"{\"id\":1,\"op\":\"ping\"}\n").await.expect("open");
    let mut first = BufReader::new(first);
    let mut line = String::new();
    within("the reply", first.read_line(&mut line)).await.expect("text");
    assert!(line.starts_with("{\"id\":1,\"ok\""), "{line}");
    assert_eq!(door.connections(), 1);

    let mut second = TcpStream::connect(address).await.expect("listening");
    let mut nothing = Vec::new();
    let refused = within("the refusal", second.read_to_end(&mut nothing)).await;
    assert!(refused.is_err() || nothing.is_empty());

    shutdown.cancel();
    line.clear();
    within("the farewell", first.read_line(&mut line)).await.expect("text");
    assert_eq!(line, "{\"event\":\"closing\",\"reason\":\"shutdown\"}\n");
    drop(first);
    within("the door to close", serving).await.expect("no panic");
    assert_eq!(door.connections(), 0);
}
