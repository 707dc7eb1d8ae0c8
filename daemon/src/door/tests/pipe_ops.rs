//! The pipe dialect.

use serde_json::json;

use super::*;

const TEST_TIMEOUTS: Timeouts = Timeouts {
    idle: Duration::from_secs(60),
    login: Duration::from_secs(30),
    unfinished_line: Duration::from_millis(20),
    drain: Duration::from_secs(10),
    shutdown_drain: Duration::from_secs(2),
    write: Duration::from_secs(10),
    grace: Duration::from_secs(1),
};

async fn pipe_login(node: &TestNode, user: &str) -> Client {
    let mut client = Client::connect(&node.service);
    client.write(format!("2|{user}|{PASSWORD}\n")).await;
    assert_eq!(client.line().await, format!("OK logged in {user}"));
    client
}

#[tokio::test]
async fn every_command_has_its_reply() {
    let node = node_with(&["bob"]).await;
    let mut client = Client::connect(&node.service);
    client
        .write(format!(
            "1|ann|{PASSWORD}\n4\n2|ann|{PASSWORD}\n4\n5|an\n5|*o?\nd|bob|a|b\\c\nd|zoe|x\nh\n"
        ))
        .await;
    assert_eq!(client.line().await, "OK registered ann");
    assert!(client.line().await.starts_with("ERR not_logged_in "));
    assert_eq!(client.line().await, "OK logged in ann");
    assert_eq!(
        client.lines(4).await,
        ["OK users", "ann online", "bob offline", "END"]
    );
    assert_eq!(client.lines(3).await, ["OK users", "ann online", "END"]);
    assert_eq!(client.lines(3).await, ["OK users", "bob offline", "END"]);
    assert_eq!(client.line().await, "OK queued 1");
    assert!(client.line().await.starts_with("ERR no_such_user "));
    assert_eq!(client.line().await, "OK help");
    let help = client
        .lines(messagebase_protocol::pipe::HELP.len() + 1)
        .await;
    assert_eq!(help.last().map(String::as_str), Some("END"));
    client.write("3|bob\n").await;
    assert!(client.line().await.starts_with("ERR not_permitted "));
    client.write("3|ann\n").await;
    assert_eq!(client.line().await, "OK deleted ann");
    client.expect_end().await;
}

#[tokio::test]
async fn messages_arrive_queued_and_live() {
    let node = node_with(&["ann", "bob"]).await;
    let mut ann = pipe_login(&node, "ann").await;
    ann.write("d|bob|one\\\nd|bob|two\n").await;
    assert_eq!(ann.lines(2).await, ["OK queued 1", "OK queued 2"]);
    let mut bob = pipe_login(&node, "bob").await;
    for body in ["one\\\\", "two"] {
        let line = bob.line().await;
        assert!(
            line.starts_with("MSG ann 2023-11-14T") && line.ends_with(&format!("Z {body}")),
            "{line}"
        );
    }
    ann.write("d|bob|three\n").await;
    assert_eq!(ann.line().await, "OK sent 3");
    assert!(bob.line().await.ends_with(" three"));
}

#[tokio::test]
async fn what_was_written_counts_as_delivered_when_more_arrives() {
    let node = node_with(&["ann", "bob"]).await;
    let mut ann = pipe_login(&node, "ann").await;
    ann.write("d|bob|one\n").await;
    ann.line().await;
    let mut bob = pipe_login(&node, "bob").await;
    assert!(bob.line().await.ends_with(" one"));
    let (mut watch, _) = login(&node, "bob").await;
    assert_eq!(
        watch.ok("inbox", json!({})).await["messages"][0]["id"],
        1,
        "written is not yet delivered"
    );
    until("the reader to have flushed", async || {
        bob.write("h\n").await;
        bob.lines(messagebase_protocol::pipe::HELP.len() + 2).await;
        watch.ok("inbox", json!({})).await["messages"] == json!([])
    })
    .await;
}

#[tokio::test]
async fn an_orderly_end_delivers_and_a_broken_one_does_not() {
    let node = node_with(&["ann", "bob"]).await;
    let mut ann = pipe_login(&node, "ann").await;
    ann.write("d|bob|one\n").await;
    ann.line().await;
    let (mut watch, _) = login(&node, "bob").await;
    // Closed before anything could be written to it: it must come again.
    let mut hasty = Client::connect(&node.service);
    hasty.write(format!("2|bob|{PASSWORD}\n")).await;
    hasty.writer.shutdown().await.expect("open");
    assert_eq!(hasty.line().await, "OK logged in bob");
    assert!(hasty.line().await.ends_with(" one"));
    hasty.expect_end().await;
    assert_eq!(watch.ok("inbox", json!({})).await["messages"][0]["id"], 1);
    let mut orderly = pipe_login(&node, "bob").await;
    assert!(orderly.line().await.ends_with(" one"));
    orderly.write("h\n").await;
    orderly.line().await;
    orderly.writer.shutdown().await.expect("open");
    until("the delivery", async || {
        watch.ok("inbox", json!({})).await["messages"] == json!([])
    })
    .await;
}

#[tokio::test]
async fn the_first_clients_send_no_newline() {
    let node = TestNode::start();
    let mut client = Client::connect_with(&node.service, TEST_TIMEOUTS, STREAM_BYTES);
    client.write(format!("1|ann|{PASSWORD}")).await;
    assert_eq!(client.line().await, "OK registered ann");
    client.write(format!("2|ann|{PASSWORD}")).await;
    assert_eq!(client.line().await, "OK logged in ann");
    client.write("4").await;
    assert_eq!(client.lines(3).await, ["OK users", "ann online", "END"]);
    client.write("d|ann|hi").await;
    let mut lines = client.lines(2).await;
    lines.sort();
    assert!(
        lines[0].ends_with(" hi") && lines[1] == "OK sent 1",
        "{lines:?}"
    );
    client.write("3|ann").await;
    assert_eq!(client.line().await, "OK deleted ann");
}

#[tokio::test]
async fn an_unfinished_command_at_the_end_of_the_stream_is_a_line() {
    let node = TestNode::start();
    let mut client = Client::connect(&node.service);
    client.write(format!("1|ann|{PASSWORD}")).await;
    client.writer.shutdown().await.expect("open");
    assert_eq!(client.line().await, "OK registered ann");
    client.expect_end().await;
}

#[tokio::test]
async fn malformed_lines_are_refused_in_order() {
    let node = TestNode::start();
    let mut client = Client::connect(&node.service);
    client.write(b"h\n1|ann\nnonsense\n4\xff\n").await;
    client
        .lines(messagebase_protocol::pipe::HELP.len() + 2)
        .await;
    for _ in 0..3 {
        assert!(client.line().await.starts_with("ERR bad_request "));
    }
    client.write(format!("1|bob|{PASSWORD}\r\n")).await;
    assert_eq!(client.line().await, "OK registered bob");
}
