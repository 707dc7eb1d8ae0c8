//! What keeps a daemon from starting: exit 1, the reason as its last line, and nothing harmed.

use std::net::TcpListener;

use messagebase_harness::{Cluster, Place, Ran, Rows, programs};

fn start_again(place: &Place, config: &std::path::Path) -> Ran {
    place.mbd(&["--node", "1", "--config"]).arg(config).run()
}

/// The reason is the last line, where `journalctl -n 1` shows it.
fn last_line(ran: &Ran) -> &str {
    ran.stderr.trim_end().lines().last().unwrap_or_default()
}

#[test]
fn a_taken_port_is_the_last_line() {
    let place = Place::with(programs!(), 1).make();
    let port = place.ports(1).client;
    let _taken = TcpListener::bind(("127.0.0.1", port)).expect("it is ours");
    let ran = start_again(&place, &place.config()).expect_code(1);
    let last = last_line(&ran);
    assert!(
        last.contains(&port.to_string()) && last.contains("in use"),
        "{ran}"
    );
}

#[test]
fn a_second_daemon_on_a_directory_refuses_and_the_first_goes_on() {
    let cluster = Cluster::start(programs!(), 1);
    // Other ports, so that only the directory is contested.
    let (used, free) = (cluster.ports(1), cluster.ports(9));
    let mut config = cluster.read("messagebase.toml");
    let pairs = [
        (used.client, free.client),
        (used.peer, free.peer),
        (used.http, free.http),
        (used.plain, free.plain),
    ];
    for (from, to) in pairs {
        config = config.replace(&from.to_string(), &to.to_string());
    }
    let second = cluster.write("second.toml", &config);
    let ran = start_again(&cluster, &second).expect_code(1);
    let last = last_line(&ran);
    assert!(last.contains("node-1"), "the directory is named: {ran}");
    cluster.client(1).register("anna");
}

#[test]
fn a_newer_schema_is_refused_naming_both_versions() {
    let cluster = Cluster::start(programs!(), 1);
    cluster.client(1).register("anna");
    assert_eq!(cluster.node(1).stop(), 0);
    let file = cluster.database(1);
    let ours = Rows::read(&file, "PRAGMA user_version").single().to_owned();
    Rows::tamper(&file, "PRAGMA user_version = 9999");
    let ran = start_again(&cluster, &cluster.config()).expect_code(1);
    let last = last_line(&ran);
    assert!(
        last.contains("9999") && last.contains(&ours),
        "both versions ({ours}, 9999): {ran}"
    );
    Rows::tamper(&file, &format!("PRAGMA user_version = {ours}"));
    cluster.node(1).start();
    cluster.wait_ready(&[1]);
    cluster.client(1).login("anna");
}

#[test]
fn another_clusters_file_is_refused() {
    let one = Cluster::start(programs!(), 1);
    let other = Cluster::start(programs!(), 3);
    one.client(1).register("anna");
    [one.node(1), other.node(1)]
        .into_iter()
        .for_each(messagebase_harness::Node::kill);
    for name in ["messagebase.db", "messagebase.db-wal"] {
        let from = one.data(1).join(name);
        if from.exists() {
            std::fs::copy(from, other.data(1).join(name)).expect("a copy");
        }
    }
    let _ = std::fs::remove_file(other.data(1).join("messagebase.db-shm"));
    other.node(1).start();
    // The others go on without it, and the stranger's users do not appear.
    other.wait_ready(&[2, 3]);
    other.client(2).register("ben");
    let mut ben = other.client(3);
    ben.login("ben");
    let users = ben.ok("users", serde_json::json!({}));
    assert_eq!(users["users"].as_array().map(Vec::len), Some(1), "{users}");
}

#[test]
fn a_foreign_lock_on_the_file_is_waited_out() {
    let cluster = Cluster::start(programs!(), 1);
    let mut client = cluster.client(1);
    let lock = Rows::lock(&cluster.database(1));
    let request = client.post(
        "register",
        serde_json::json!({"user": "anna", "password": messagebase_harness::PASSWORD, "key": "k"}),
    );
    // While somebody else may write to the file and the node may not, nothing breaks.
    cluster.client(1).ok("ping", serde_json::json!({}));
    assert!(cluster.node(1).is_running());
    drop(lock);
    let answer = client.answer(request, messagebase_harness::SHORT);
    assert!(
        answer.as_ref().is_ok_and(|ok| ok["user"] == "anna"),
        "{answer:?}"
    );
}
