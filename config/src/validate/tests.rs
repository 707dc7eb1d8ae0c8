//! What is refused, with which line and key, and what is allowed on purpose.

use std::path::Path;

use crate::{Config, ConfigError};

fn resolve(text: &str) -> Result<Config, ConfigError> {
    let path = Path::new("/etc/mb/messagebase.toml");
    Config::from_text(path, text)
}

fn refused(text: &str) -> (usize, String, String) {
    let e = resolve(text).expect_err("must be refused");
    (
        e.line.unwrap_or(0),
        e.key.clone().unwrap_or_default(),
        e.message,
    )
}

/// A node on two lines: the header and everything else.
fn node(id: u16, client: &str, peer: &str, more: &str) -> String {
    format!("[[node]]\nid = {id}\nclient = \"{client}\"\npeer = \"{peer}\"\n{more}\n")
}

#[test]
fn an_empty_file_names_no_node() {
    let e = resolve("").expect_err("no node");
    assert_eq!((e.line, e.key.as_deref()), (None, Some("node")));
}

#[test]
fn defaults_are_the_documented_ones_and_paths_follow_the_file() {
    let config = resolve(&node(1, "127.0.0.1:1", "127.0.0.1:2", "")).expect("valid");
    assert_eq!(config.cluster, "messagebase");
    assert_eq!(config.data_dir, Path::new("/etc/mb/data"));
    assert_eq!(config.pki_dir, Path::new("/etc/mb/pki"));
    assert_eq!(config.node_dir(1), Path::new("/etc/mb/data/node-1"));
    assert!(config.registration_open);
    assert_eq!((config.session_days, config.delivered_days), (30, 0));
    let limits = config.limits;
    assert_eq!((limits.connections, limits.sessions_per_user), (20_000, 16));
    assert_eq!(
        (
            limits.failed_logins_per_name,
            limits.failed_logins_per_address
        ),
        (10, 60)
    );
    assert_eq!(
        (
            limits.queued_messages_per_user,
            limits.queued_bytes_per_user
        ),
        (10_000, 64 << 20)
    );
    assert_eq!(limits.change_log_bytes, 64 << 20);
    assert_eq!(
        (
            config.password.memory_kib,
            config.password.passes,
            config.password.lanes
        ),
        (19_456, 2, 1)
    );
    assert_eq!(
        (config.node(1).is_some(), config.node(2).is_some()),
        (true, false)
    );
}

#[test]
fn absolute_directories_stay() {
    let text = format!("data_dir = \"/var/mb\"\n{}", node(1, "a:1", "a:2", ""));
    assert_eq!(
        resolve(&text).expect("valid").data_dir,
        Path::new("/var/mb")
    );
}

#[test]
fn a_duplicate_id_names_both_lines() {
    let text = node(1, "a:1", "a:2", "") + &node(1, "b:1", "b:2", "");
    let (line, key, message) = refused(&text);
    assert_eq!((line, key.as_str()), (7, "node.id"));
    assert!(message.contains("line 2"), "{message}");
}

#[test]
fn a_duplicate_address_is_refused_across_nodes_and_kinds() {
    let text = node(1, "a:1", "a:2", "") + &node(2, "a:2", "b:2", "");
    assert_eq!(refused(&text).0, 8);
    let (line, key, _) = refused(&node(1, "127.0.0.1:1", "localhost:1", ""));
    assert_eq!(
        (line, key.as_str()),
        (4, "node.peer"),
        "localhost is 127.0.0.1"
    );
    let (_, key, _) = refused(&node(
        1,
        "127.0.0.1:1",
        "127.0.0.1:2",
        "http = \"127.0.0.1:3\"\nplain = \"127.0.0.1:3\"",
    ));
    assert_eq!(key, "node.plain");
    let two_plain = node(1, "127.0.0.1:1", "127.0.0.1:2", "plain = \"127.0.0.1:5\"")
        + &node(2, "127.0.0.1:3", "127.0.0.1:4", "plain = \"127.0.0.1:5\"");
    assert_eq!(refused(&two_plain).1, "node.plain");
}

#[test]
fn binds_collide_with_each_other_and_with_addresses_on_one_machine() {
    let (_, key, _) = refused(&node(1, "a:1", "a:2", "client_bind = \"0.0.0.0:2\""));
    assert_eq!(
        key, "node.peer",
        "the peer listener has the port that the wildcard covers"
    );
    let text = node(1, "a:1", "a:2", "client_bind = \"10.0.0.1:9\"")
        + &node(2, "a:3", "a:4", "peer_bind = \"10.0.0.1:9\"");
    assert_eq!(refused(&text).1, "node.peer_bind");
}

#[test]
fn binds_and_loopback_conveniences_may_repeat_on_another_machine() {
    let more = "client_bind = \"0.0.0.0:7101\"\npeer_bind = \"0.0.0.0:7201\"\nhttp = \"127.0.0.1:7301\"\nplain = \"127.0.0.1:7401\"";
    let text = node(1, "mb1.example:7101", "mb1.example:7201", more)
        + &node(2, "mb2.example:7101", "mb2.example:7201", more);
    assert_eq!(resolve(&text).map(|config| config.nodes.len()), Ok(2));
    let bind_is_address = node(
        1,
        "10.0.0.1:1",
        "10.0.0.1:2",
        "client_bind = \"10.0.0.1:1\"",
    );
    assert!(resolve(&bind_is_address).is_ok());
}

#[test]
fn plain_is_loopback_only() {
    let (line, key, _) = refused(&node(
        1,
        "10.0.0.1:1",
        "10.0.0.1:2",
        "plain = \"10.0.0.1:3\"",
    ));
    assert_eq!((line, key.as_str()), (5, "node.plain"));
    assert!(resolve(&node(1, "10.0.0.1:1", "10.0.0.1:2", "plain = \"[::1]:3\"")).is_ok());
}

#[test]
fn addresses_that_cannot_be_dialed_are_refused() {
    for bad in [
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:99999",
        "0.0.0.0:7101",
        "[::1:7101",
        "a b:1",
        "",
    ] {
        assert_eq!(refused(&node(1, bad, "a:2", "")).1, "node.client", "{bad}");
    }
}

#[test]
fn missing_node_keys_are_named() {
    assert_eq!(
        refused("[[node]]\nclient = \"a:1\"\npeer = \"a:2\"\n").1,
        "node.id"
    );
    assert_eq!(
        refused("[[node]]\nid = 1\npeer = \"a:2\"\n").1,
        "node.client"
    );
    let (line, key, _) = refused("\n[[node]]\nid = 1\nclient = \"a:1\"\n");
    assert_eq!((line, key.as_str()), (2, "node.peer"));
    for id in ["0", "65536", "-1"] {
        assert_eq!(
            refused(&format!(
                "[[node]]\nid = {id}\nclient = \"a:1\"\npeer = \"a:2\"\n"
            ))
            .1,
            "node.id"
        );
    }
}

#[test]
fn ranges_are_kept_and_argon2_stays_above_owasps_minimum() {
    let with = |top: &str, below: &str| format!("{top}\n{}{below}\n", node(1, "a:1", "a:2", ""));
    assert_eq!(refused(&with("session_days = 0", "")).1, "session_days");
    assert_eq!(refused(&with("session_days = 3651", "")).1, "session_days");
    assert_eq!(
        refused(&with("registration = \"maybe\"", "")).1,
        "registration"
    );
    assert_eq!(
        refused(&with("", "[limits]\nconnections = 0")).1,
        "limits.connections"
    );
    assert_eq!(
        refused(&with("", "[retention]\ndelivered_days = -1")).1,
        "retention.delivered_days"
    );
    let e = resolve(&with("", "[password]\nmemory_kib = 1024")).expect_err("too cheap");
    assert_eq!(e.key.as_deref(), Some("password.memory_kib"));
    assert!(e.hint.is_some_and(|hint| hint.contains("OWASP")));
    assert_eq!(
        refused(&with("", "[password]\npasses = 1")).1,
        "password.passes"
    );
}

#[test]
fn a_cluster_name_can_name_a_directory() {
    let with = |name: &str| {
        resolve(&format!(
            "cluster = \"{name}\"\n{}",
            node(1, "a:1", "a:2", "")
        ))
    };
    for good in ["a", "our chat", "Käsekuchen-7", "x.y"] {
        assert!(with(good).is_ok(), "{good}");
    }
    let long = "x".repeat(65);
    for bad in [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "a\\\\b",
        "a\\u0000b",
        "a\\nb",
        " a",
        "a ",
        long.as_str(),
    ] {
        assert_eq!(with(bad).expect_err(bad).key.as_deref(), Some("cluster"));
    }
}
