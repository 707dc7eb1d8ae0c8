//! What a node leaves on disk and shows to an auditor, how it stops, and its HTTP door.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use messagebase_harness::{Cluster, PASSWORD, Rows};
use serde_json::{Value, json};

use crate::cluster;

/// Everything that OPERATING.md promises to be selectable.
const PROMISED: &[(&str, &str)] = &[
    ("users", "id, name, password_hash, created_at, locked_at"),
    (
        "messages",
        "id, sender_id, recipient_id, body, sent_at, delivered_at, key",
    ),
    ("sessions", "user_id, token_hash, created_at, expires_at"),
    ("change_log", "log_index, term, leader, change"),
    ("queued_messages", "id, sender, recipient, body, sent_at"),
    (
        "user_summary",
        "name, created_at, queued, sent, received, locked",
    ),
    (
        "node_state",
        "node, cluster_id, applied_index, applied_term, clock",
    ),
];

/// Two users, one message delivered and one queued.
fn some_data(cluster: &Cluster) -> String {
    let mut anna = cluster.client(1);
    let token = anna.sign_up("Anna");
    let mut ben = cluster.client(1);
    ben.sign_up("ben");
    let first = anna.send("ben", "delivered", "1");
    ben.ok("ack", json!({"through": first["id"]}));
    anna.send("ben", "queued", "2");
    cluster.wait_same(&cluster.numbers());
    token
}

#[test]
fn tables_and_views_can_be_read_while_the_node_runs() {
    let cluster = cluster(3);
    let token = some_data(&cluster);
    for node in cluster.numbers() {
        let file = cluster.database(node);
        for (table, columns) in PROMISED {
            let rows = Rows::read(&file, &format!("SELECT {columns} FROM {table}"));
            assert!(!rows.rows.is_empty(), "{table} on node {node} is empty");
        }
        let queued = Rows::read(&file, "SELECT sender, recipient, body FROM queued_messages");
        assert_eq!(queued.rows, [["Anna", "ben", "queued"]]);
        let summary = Rows::read(
            &file,
            "SELECT name, queued, sent, received, locked FROM user_summary",
        );
        assert_eq!(
            summary.rows,
            [["Anna", "0", "2", "0", "0"], ["ben", "1", "0", "2", "0"]]
        );
        let time = Rows::read(&file, "SELECT sent_at FROM queued_messages");
        assert!(
            time.single().ends_with('Z') && time.single().contains('T'),
            "ISO 8601: {time:?}"
        );
        let state = Rows::read(&file, "SELECT count(*) FROM node_state");
        assert_eq!(state.single(), "1");
        let number = Rows::read(&file, "SELECT node FROM node_state");
        assert_eq!(number.single(), node.to_string());
    }
    no_secret_is_readable(&cluster, &token);
    the_change_log_is_json(&cluster);
    the_stock_shell_reads_it(&cluster.database(1));
}

fn no_secret_is_readable(cluster: &Cluster, token: &str) {
    let hashes = Rows::read(&cluster.database(1), "SELECT password_hash FROM users");
    assert!(
        hashes
            .rows
            .iter()
            .all(|row| row[0].starts_with("$argon2id$")),
        "{hashes:?}"
    );
    let log = Rows::read(&cluster.database(1), "SELECT change FROM change_log");
    let logs: String = cluster
        .nodes()
        .iter()
        .map(messagebase_harness::Node::log)
        .collect();
    for secret in [PASSWORD, token] {
        let in_log = log.rows.iter().find(|row| row[0].contains(secret));
        assert!(
            in_log.is_none(),
            "the change log shows a secret: {in_log:?}"
        );
        assert!(!logs.contains(secret), "a node's log shows a secret");
    }
    let shown = log.rows.iter().find(|row| row[0].contains("argon2id"));
    assert!(
        shown.is_none(),
        "the change log shows a password hash: {shown:?}"
    );
}

fn the_change_log_is_json(cluster: &Cluster) {
    let log = Rows::read(&cluster.database(2), "SELECT change FROM change_log");
    for row in &log.rows {
        let parsed: Result<Value, _> = serde_json::from_str(&row[0]);
        assert!(
            parsed.is_ok_and(|value| value.is_object()),
            "not a JSON object: {row:?}"
        );
    }
    assert!(
        log.rows.iter().any(|row| row[0].contains("queued")),
        "bodies are readable in the change log"
    );
}

/// SQLite's own shell, where it is installed (the library that the harness links is another copy).
fn the_stock_shell_reads_it(file: &Path) {
    let query = "SELECT sender || '>' || recipient || ':' || body FROM queued_messages";
    let Ok(output) = Command::new("sqlite3")
        .arg("-readonly")
        .arg(file)
        .arg(query)
        .output()
    else {
        return;
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "Anna>ben:queued",
        "{error}"
    );
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .permissions()
        .mode()
        & 0o777
}

#[test]
fn files_and_directories_are_for_their_owner_alone() {
    let cluster = cluster(1);
    some_data(&cluster);
    let mut pending = vec![cluster.data(1), cluster.pki()];
    let mut files = 0;
    while let Some(directory) = pending.pop() {
        assert_eq!(mode(&directory), 0o700, "{}", directory.display());
        for path in std::fs::read_dir(&directory)
            .expect("a directory")
            .flatten()
            .map(|entry| entry.path())
        {
            if path.is_dir() {
                pending.push(path);
            } else {
                files += 1;
                assert_eq!(mode(&path), 0o600, "{}", path.display());
            }
        }
    }
    assert!(files >= 8, "database, pid file and keys: {files}");
    assert_eq!(
        std::fs::read_to_string(cluster.data(1).join("mbd.pid"))
            .map(|pid| pid.trim().is_empty())
            .ok(),
        Some(false)
    );
}

#[test]
fn sigterm_ends_every_node_in_time_and_in_order() {
    let cluster = cluster(3);
    let leader = cluster.leader();
    let others = cluster.others(&[leader]);
    let mut anna = cluster.client(leader);
    anna.sign_up("anna");
    assert_eq!(cluster.node(leader).stop(), 0, "exit code of the leader");
    assert_eq!(anna.event("closing")["reason"], "shutdown");
    anna.wait_closed();
    // Leadership was handed over: the others serve at once.
    cluster.leader_among(&others);
    cluster.client(others[0]).register("ben");
    assert_eq!(cluster.node(others[0]).stop(), 0, "exit code of a follower");
    assert_eq!(
        cluster.node(others[1]).stop(),
        0,
        "exit code of a node without a quorum"
    );
    cluster.start_all();
    cluster.wait_ready(&cluster.numbers());
    cluster.client(1).login("ben");
}

#[test]
fn ids_are_not_reused_after_deletion_and_restart() {
    let cluster = cluster(1);
    let mut anna = cluster.client(1);
    anna.sign_up("anna");
    cluster.client(1).register("ben");
    let sent = anna.send("ben", "goes with ben", "1")["id"].as_u64();
    let mut ben = cluster.client(1);
    ben.login("ben");
    ben.ok("delete", json!({"password": PASSWORD, "key": "d"}));
    assert_eq!(
        cluster.rows(1, "messages").rows.len(),
        0,
        "what was queued to a deleted account goes with it"
    );
    cluster.node(1).restart();
    cluster.wait_ready(&[1]);
    cluster.client(1).register("carl");
    let mut anna = cluster.client(1);
    anna.login("anna");
    assert!(anna.send("carl", "another", "2")["id"].as_u64() > sent);
    let ids = Rows::read(&cluster.database(1), "SELECT max(id) > 2 FROM users");
    assert_eq!(ids.single(), "1", "ben's id is not carl's");
}

/// Status line and body of a GET.
fn get(cluster: &Cluster, node: u16, path: &str) -> (String, String) {
    let mut stream =
        TcpStream::connect(("127.0.0.1", cluster.ports(node).http)).expect("the HTTP port");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
    )
    .expect("open");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (
        head.lines().next().unwrap_or_default().to_owned(),
        body.to_owned(),
    )
}

#[test]
fn http_tells_healthy_from_ready_and_shows_metrics() {
    let cluster = cluster(3);
    assert!(get(&cluster, 1, "/healthz").0.contains("200"));
    assert!(get(&cluster, 1, "/readyz").0.contains("200"));
    let (status, metrics) = get(&cluster, 1, "/metrics");
    assert!(
        status.contains("200") && metrics.contains("messagebase_"),
        "{status}\n{metrics}"
    );
    [2, 3].into_iter().for_each(|n| cluster.node(n).kill());
    let body = cluster.wait("readyz to say 503", || {
        let (status, body) = get(&cluster, 1, "/readyz");
        status.contains("503").then_some(body)
    });
    let reason = body.lines().find_map(|line| {
        serde_json::from_str::<Value>(line)
            .ok()
            .filter(Value::is_object)
    });
    assert!(reason.is_some(), "a JSON reason: {body:?}");
    assert!(
        get(&cluster, 1, "/healthz").0.contains("200"),
        "without a quorum the process is healthy all the same"
    );
}
