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
    for first in [
        "GET / HTTP/1.1\r\n\r\n",
        "6|a|b\n",
        "hello\n",
        "4x\n",
        "\n",
        " {}\n",
        "\u{16}\u{3}\u{1}",
        "éa\n",
    ] {
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
    assert_eq!(
        (&reply["id"], refusal(&reply)),
        (&json!(null), not_done("too_large"))
    );
    client.ok("ping", json!({})).await;

    let (reader, mut writer) = (client.reader, client.writer);
    let flood = tokio::spawn(async move {
        // An error is the point: the node closes before all of it is written.
        writer.write_all(&vec![b'x'; LINE_ABANDON_BYTES * 4]).await
    });
    let mut rest = String::new();
    let mut reader = reader;
    within("the end", reader.read_to_string(&mut rest))
        .await
        .expect("text");
    assert_eq!(rest.lines().count(), 1, "{rest}");
    assert!(rest.contains("too_large"));
    assert!(
        within("the flood's end", flood)
            .await
            .expect("no panic")
            .is_err()
    );
}

#[tokio::test]
async fn invalid_utf8_is_a_malformed_line() {
    let node = TestNode::start();
    let mut client = Client::connect(&node.service);
    client.write(b"{\"id\":1,\"op\":\"ping\xff\"}\n").await;
    let reply = client.value().await;
    assert_eq!(
        (&reply["id"], refusal(&reply)),
        (&json!(null), not_done("bad_request"))
    );
    client.ok("ping", json!({})).await;
}

#[tokio::test]
async fn a_slow_reader_is_dropped_and_loses_nothing() {
    let node = node_with(&["ann", "bob"]).await;
    // Even without a grace time the last line waits for a reader that resumes, as long as any write does.
    let timeouts = Timeouts {
        grace: Duration::ZERO,
        ..Timeouts::default()
    };
    let mut bob = Client::connect_with(&node.service, timeouts, 1_024);
    bob.ok("login", json!({"user": "bob", "password": PASSWORD}))
        .await;
    // Events alone fill the outbox; the store is not needed for that.
    let message = messagebase_protocol::json::Message {
        id: 1,
        from: "ann".into(),
        to: "bob".into(),
        body: "x".repeat(16_000),
        sent_at: 1,
    };
    for id in 1..=600 {
        let message = messagebase_protocol::json::Message {
            id,
            ..message.clone()
        }
        .into();
        node.fanout.publish(vec![Effect::Message {
            sender: 1,
            recipient: 2,
            sending_session: None,
            message,
        }]);
    }
    until("the slow reader to be dropped", async || {
        node.fanout.sessions() == 0
    })
    .await;
    let mut last = 0;
    loop {
        let value = bob.value().await;
        if value["event"] == "closing" {
            assert_eq!(value["reason"], "slow");
            break;
        }
        assert_eq!(
            value["message"]["id"],
            last + 1,
            "what is read is without a gap"
        );
        last += 1;
    }
    assert!(last < 600);
    bob.expect_end().await;
}

#[tokio::test]
async fn a_reader_that_stops_in_the_middle_of_a_line_is_cut() {
    let node = node_with(&["ann"]).await;
    let timeouts = Timeouts {
        write: Duration::from_millis(50),
        ..Timeouts::default()
    };
    let mut ann = Client::connect_with(&node.service, timeouts, 512);
    ann.ok("login", json!({"user": "ann", "password": PASSWORD}))
        .await;
    assert_eq!(node.fanout.sessions(), 1);
    ann.ask(
        "send",
        json!({"to": "ann", "body": "x".repeat(4_000), "key": "k"}),
    )
    .await;
    until("the stalled connection to be given up", async || {
        node.fanout.sessions() == 0
    })
    .await;
    let mut rest = String::new();
    within("the end", ann.reader.read_to_string(&mut rest))
        .await
        .expect("text");
    assert!(rest.len() <= 1_024 && !rest.ends_with('\n'), "{rest}");
}

#[tokio::test]
async fn silence_closes_and_a_status_reader_may_stay() {
    let node = node_with(&["ann"]).await;
    let short = Timeouts {
        idle: Duration::from_millis(400),
        login: Duration::from_millis(50),
        ..Timeouts::default()
    };
    let started = std::time::Instant::now();
    let mut stranger = Client::connect_with(&node.service, short, STREAM_BYTES);
    stranger.ok("hello", json!({})).await;
    assert_eq!(
        stranger.value().await,
        json!({"event": "closing", "reason": "idle"})
    );
    stranger.expect_end().await;
    let mut silent = Client::connect_with(&node.service, short, STREAM_BYTES);
    silent.expect_end().await;
    let started_staying = std::time::Instant::now();
    let mut stays = Client::connect_with(&node.service, short, STREAM_BYTES);
    stays.ok("status", json!({})).await;
    assert_eq!(stays.event("closing").await["reason"], "idle");
    assert!(
        started_staying.elapsed() >= short.idle,
        "not after the login wait"
    );
    assert!(started.elapsed() >= short.login);
}

#[tokio::test]
async fn the_door_serves_tcp_within_its_limit_until_the_shutdown() {
    let node = node_with(&["ann"]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let door = Door::new(node.service.clone(), 1, Timeouts::default(), None);
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(door.clone().serve(listener, None, shutdown.clone()));

    let mut first = TcpStream::connect(address).await.expect("listening");
    first
        .write_all(b"{\"id\":1,\"op\":\"ping\"}\n")
        .await
        .expect("open");
    let mut first = BufReader::new(first);
    let mut line = String::new();
    within("the reply", first.read_line(&mut line))
        .await
        .expect("text");
    assert!(line.starts_with("{\"id\":1,\"ok\""), "{line}");
    assert_eq!(door.connections(), 1);

    let mut second = TcpStream::connect(address).await.expect("listening");
    let mut nothing = Vec::new();
    let refused = within("the refusal", second.read_to_end(&mut nothing)).await;
    assert!(refused.is_err() || nothing.is_empty());

    shutdown.cancel();
    line.clear();
    within("the farewell", first.read_line(&mut line))
        .await
        .expect("text");
    assert_eq!(line, "{\"event\":\"closing\",\"reason\":\"shutdown\"}\n");
    drop(first);
    within("the door to close", serving)
        .await
        .expect("no panic");
    assert_eq!(door.connections(), 0);
}

#[tokio::test]
async fn no_bytes_stop_a_connection_from_ending() {
    let node = TestNode::start();
    let starts: [&[u8]; 6] = [b"{", b"{\"id\":1,\"op\":\"", b"1|", b"d|a|", b"5|*", b""];
    let alphabet = b"{}[]\":,|\\\n\r0123id op\0\xff\xc3\x28loginsend";
    for seed in 1..=200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = starts[random.usize(..starts.len())].to_vec();
        for _ in 0..random.usize(..300) {
            bytes.push(alphabet[random.usize(..alphabet.len())]);
        }
        let mut client = Client::connect(&node.service);
        client.write(&bytes).await;
        client.writer.shutdown().await.expect("open");
        let mut answers = String::new();
        let read = within(
            &format!("the end of seed {seed}"),
            client.reader.read_to_string(&mut answers),
        )
        .await;
        read.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        for line in answers.lines() {
            let known = ["OK", "ERR ", "END", "{\"id\":"]
                .iter()
                .any(|start| line.starts_with(start));
            assert!(
                known || messagebase_protocol::pipe::HELP.contains(&line),
                "seed {seed}: {line}"
            );
        }
    }
}

/// The TLS configurations of a server and a client under one temporary CA.
fn tls() -> (tokio_rustls::TlsAcceptor, tokio_rustls::TlsConnector) {
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    let key =
        tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a CA");
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key);
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (
        Arc::new(server.expect("a pair")).into(),
        Arc::new(client).into(),
    )
}

#[tokio::test]
async fn tls_is_spoken_and_plaintext_on_its_port_is_not() {
    let node = TestNode::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (acceptor, connector) = tls();
    let door = Door::new(node.service.clone(), 10, Timeouts::default(), None);
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(door.serve(listener, Some(acceptor), shutdown.clone()));

    let tcp = TcpStream::connect(address).await.expect("listening");
    let name = "localhost".try_into().expect("a name");
    let mut tls = BufReader::new(
        within("the handshake", connector.connect(name, tcp))
            .await
            .expect("TLS"),
    );
    tls.write_all(b"{\"id\":1,\"op\":\"ping\"}\n")
        .await
        .expect("open");
    let mut line = String::new();
    within("the reply", tls.read_line(&mut line))
        .await
        .expect("text");
    assert!(line.starts_with("{\"id\":1,\"ok\""), "{line}");

    let mut plain = TcpStream::connect(address).await.expect("listening");
    plain
        .write_all(b"{\"id\":1,\"op\":\"ping\"}\n")
        .await
        .expect("open");
    let mut answer = Vec::new();
    // A reset is as good as an end; a TLS alert may come first, no line of ours.
    let _ = within("the refusal", plain.read_to_end(&mut answer)).await;
    assert!(!answer.contains(&b'{'), "{answer:?}");

    shutdown.cancel();
    line.clear();
    within("the farewell", tls.read_line(&mut line))
        .await
        .expect("text");
    assert!(line.contains("shutdown"), "{line}");
    drop(tls);
    within("the door to close", serving)
        .await
        .expect("no panic");
}
