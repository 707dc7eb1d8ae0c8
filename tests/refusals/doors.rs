//! Strangers at the doors: foreign certificates, plaintext where TLS is spoken, TLS where it is not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use messagebase_harness::{Cluster, Connection, Heard, Place, SHORT, TestClient, programs};
use serde_json::json;

/// The cluster's configuration, but with the keys of another `pki/`.
fn config_with_keys(cluster: &Cluster, name: &str, pki: &Path) -> PathBuf {
    let config = cluster.read("messagebase.toml");
    let pki = pki.to_str().expect("UTF-8");
    cluster.write(
        name,
        &config.replace("pki_dir = \"pki\"", &format!("pki_dir = \"{pki}\"")),
    )
}

fn serves(cluster: &Cluster, user: &str) {
    cluster.client(1).register(user);
}

#[test]
fn a_foreign_authority_is_trusted_by_nobody() {
    let cluster = Cluster::start(programs!(), 3);
    let foreign = Place::with(programs!(), 3).make();
    let config = config_with_keys(&cluster, "foreign.toml", &foreign.pki());

    let status = cluster
        .bare_mbctl(&["status", "--json", "--config"])
        .arg(&config)
        .run()
        .expect_code(3);
    let status = status.json();
    let nodes = status["nodes"].as_array().expect("a list").clone();
    assert!(
        nodes
            .iter()
            .all(|node| node["reachable"] == false && node["role"] == "down"),
        "{status}"
    );
    cluster
        .bare_mbctl(&["kill", "1", "--config"])
        .arg(&config)
        .run();
    assert!(
        cluster.node(1).is_running(),
        "a stranger's `kill` over the network does nothing"
    );

    let client = cluster
        .mbclient_on(&config)
        .args(&["--user", "anna", "inbox"]);
    let ran = client
        .env("MESSAGEBASE_PASSWORD", "whatever it is")
        .run()
        .expect_code(3);
    assert!(
        ran.stderr.contains("certificate"),
        "the reason is said: {ran}"
    );

    // A node with foreign keys is no peer: the others go on, it never serves.
    cluster.node(3).kill();
    let ran = cluster
        .mbd(&["--node", "3", "--config"])
        .arg(&config)
        .start();
    cluster.wait_ready(&[1, 2]);
    serves(&cluster, "anna");
    let plain = cluster.ports(3).plain;
    let mut stranger = cluster.wait("the stranger to open its door", || {
        TestClient::plain(plain).ok()
    });
    let ready = stranger.ok("ping", json!({}))["ready"].clone();
    assert_eq!(ready, false);
    drop(ran);
    cluster.node(3).start();
    cluster.wait_ready(&[3]);
}

#[test]
fn a_nodes_certificate_does_not_make_an_admin() {
    let cluster = Cluster::start(programs!(), 1);
    let pki = cluster.path().join("pretender");
    std::fs::create_dir(&pki).expect("a directory");
    for (from, to) in [
        ("ca.pem", "ca.pem"),
        ("node-1.pem", "admin.pem"),
        ("node-1.key", "admin.key"),
    ] {
        std::fs::copy(cluster.pki().join(from), pki.join(to)).expect("a copy");
    }
    let config = config_with_keys(&cluster, "pretender.toml", &pki);
    let ran = cluster
        .bare_mbctl(&["user", "free", "anna", "--config"])
        .arg(&config)
        .run();
    assert!(ran.code == 1 || ran.code == 3, "{ran}");
    cluster
        .bare_mbctl(&["stop", "1", "--config"])
        .arg(&config)
        .run();
    assert!(cluster.node(1).is_running());
    serves(&cluster, "anna");
}

#[test]
fn the_peer_door_wants_a_certificate() {
    let cluster = Cluster::start(programs!(), 1);
    let port = cluster.ports(1).peer;
    // With TLS 1.3 the client's part of the handshake is over before the server refuses.
    if let Ok(mut connection) = Connection::tls(port, &cluster.pki(), "node-1.messagebase.internal")
    {
        connection.write(b"anything");
        assert_eq!(connection.hear(SHORT), Heard::Closed);
    }
    serves(&cluster, "anna");
}

/// What a port answers to these bytes until it closes, which it must do soon.
fn answer_of(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(15)))
        .expect("a timeout");
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(e) => panic!("the port did not close: {e}"),
    }
    answer
}

#[test]
fn plaintext_on_a_tls_port_is_closed_without_an_answer() {
    let cluster = Cluster::start(programs!(), 1);
    let ports = cluster.ports(1);
    for port in [ports.client, ports.peer] {
        for bytes in [
            &b"{\"id\":1,\"op\":\"hello\"}\n"[..],
            b"4\n",
            b"GET / HTTP/1.0\r\n\r\n",
            &[0xff; 64],
        ] {
            let answer = answer_of(port, bytes);
            // At most a TLS alert (record type 21).
            assert!(
                answer.is_empty() || answer[0] == 21,
                "port {port} answered {answer:?}"
            );
        }
    }
    serves(&cluster, "anna");
}

#[test]
fn tls_on_the_plain_port_is_no_dialect() {
    let cluster = Cluster::start(programs!(), 1);
    // The beginning of a client hello; its newline ends the first line.
    let answer = answer_of(
        cluster.ports(1).plain,
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03\n",
    );
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("ERR bad_request "), "{answer:?}");
    serves(&cluster, "anna");
}

#[test]
fn silent_and_half_open_connections_harm_nobody() {
    let cluster = Cluster::start(programs!(), 1);
    let ports = cluster.ports(1);
    let idle: Vec<TcpStream> = [ports.client, ports.peer, ports.plain, ports.http]
        .into_iter()
        .flat_map(|port| {
            (0..20).map(move |_| TcpStream::connect(("127.0.0.1", port)).expect("somebody listens"))
        })
        .collect();
    serves(&cluster, "anna");
    cluster.mbctl(&["status"]).expect_code(0);
    drop(idle);
}
