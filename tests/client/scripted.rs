//! Scripted: commands and lines in, replies out, an exit code that says the worst that happened.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use messagebase_harness::{Cluster, Command, PASSWORD, Place, Ran, Signal, programs};
use serde_json::{Value, json};

use crate::cluster_with;

/// Every line as JSON.
#[track_caller]
fn objects(ran: &Ran) -> Vec<Value> {
    let parse = |line: &&str| {
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?} is not JSON ({e}): {ran}"))
    };
    ran.lines().iter().map(parse).collect()
}

#[test]
fn register_send_and_read_by_command() {
    let cluster = cluster_with(3, &[]);
    let register = format!("1|anna|{PASSWORD}");
    cluster
        .mbclient("anna", &[&register])
        .run()
        .expect_code(0)
        .expect_out("OK");
    cluster
        .mbclient("ben", &["register"])
        .run()
        .expect_code(0)
        .expect_out("OK");
    let sent = cluster
        .mbclient("anna", &["msg", "ben", "hello there | you"])
        .run()
        .expect_code(0);
    assert!(sent.stdout.starts_with("OK queued "), "{sent}");

    let peeked = cluster
        .mbclient("ben", &["inbox", "--peek"])
        .run()
        .expect_code(0);
    let lines = peeked.lines();
    assert_eq!(
        (lines[0], lines.len(), lines[2]),
        ("OK inbox", 3, "END"),
        "{peeked}"
    );
    assert!(
        lines[1].starts_with("MSG anna ") && lines[1].ends_with(" hello there | you"),
        "{peeked}"
    );
    let read = cluster.mbclient("ben", &["inbox"]).run().expect_code(0);
    assert_eq!(
        read.stdout, peeked.stdout,
        "--peek had acknowledged nothing"
    );
    let empty = cluster.mbclient("ben", &["inbox"]).run().expect_code(0);
    assert_eq!(empty.lines(), ["OK inbox", "END"], "{empty}");
    let history = cluster
        .mbclient("ben", &["history", "anna"])
        .run()
        .expect_code(0)
        .expect_out("hello there | you");
    assert!(
        history.stdout.starts_with("OK history\n") && history.stdout.ends_with("\nEND\n"),
        "{history}"
    );
    let status = cluster.mbclient("ben", &["status"]).run().expect_code(0);
    assert!(
        status.stdout.starts_with("OK status\nn1 ") && status.stdout.ends_with("\nEND\n"),
        "{status}"
    );
}

#[test]
fn a_login_shows_what_was_queued() {
    let cluster = cluster_with(3, &["anna", "ben"]);
    let dash = cluster
        .mbclient("anna", &["msg", "ben", "- a text"])
        .run()
        .expect_code(0);
    assert!(dash.stdout.starts_with("OK queued "), "{dash}");
    let login = cluster
        .mbclient("ben", &[&format!("2|ben|{PASSWORD}")])
        .run()
        .expect_code(0);
    assert_eq!(login.lines()[0], "OK logged in ben", "{login}");
    assert!(
        login.lines()[1].ends_with(" - a text") && login.stderr.contains("1 queued"),
        "{login}"
    );
    let users = cluster
        .mbclient("ben", &["users", "a*"])
        .run()
        .expect_code(0);
    assert_eq!(
        users.lines(),
        ["OK users", "anna offline", "END"],
        "{users}"
    );
}

#[test]
fn json_output_is_the_json_dialect() {
    let cluster = cluster_with(1, &["anna", "ben"]);
    let sent = cluster
        .mbclient("anna", &["--json", "msg", "ben", "two\nlines"])
        .run()
        .expect_code(0);
    let sent = objects(&sent);
    assert!(
        sent.iter()
            .any(|reply| reply["ok"]["id"].is_u64() && reply["ok"]["duplicate"] == false),
        "{sent:?}"
    );
    let inbox = cluster
        .mbclient("ben", &["--json", "inbox"])
        .run()
        .expect_code(0);
    let inbox = objects(&inbox);
    assert!(
        inbox
            .iter()
            .any(|reply| reply["ok"]["messages"][0]["body"] == "two\nlines"),
        "{inbox:?}"
    );
    let refused = cluster
        .mbclient("anna", &["--json", "msg", "nobody", "x"])
        .run()
        .expect_code(1);
    let refused = objects(&refused);
    assert!(
        refused
            .iter()
            .any(|reply| reply["error"]["code"] == "no_such_user"),
        "{refused:?}"
    );
}

#[test]
fn lines_on_standard_input_go_on_after_a_refusal_unless_told_otherwise() {
    let cluster = cluster_with(1, &["anna", "ben"]);
    let script = "d|ben|one\nd|nobody|two\n/msg ben three\n4\n";
    let ran = cluster
        .mbclient("anna", &[])
        .stdin(script)
        .run()
        .expect_code(1);
    let lines = ran.lines();
    assert!(
        lines[0].starts_with("OK queued ") && lines[1].starts_with("ERR no_such_user "),
        "{ran}"
    );
    assert!(lines[2].starts_with("OK queued "), "{ran}");
    assert_eq!(lines.last(), Some(&"END"), "{ran}");
    let ran = cluster
        .mbclient("anna", &["--stop-on-error"])
        .stdin(script)
        .run()
        .expect_code(1);
    assert_eq!(ran.lines().len(), 2, "{ran}");
    let inbox = cluster.mbclient("ben", &["inbox"]).run().expect_code(0);
    let bodies: Vec<&str> = inbox
        .lines()
        .iter()
        .filter_map(|line| line.splitn(4, ' ').nth(3))
        .collect();
    assert_eq!(bodies, ["one", "three", "one"]);
}

#[test]
fn the_exit_code_says_the_worst_that_happened() {
    let cluster = cluster_with(1, &["anna"]);
    cluster
        .mbclient("anna", &["msg", "anna", "x"])
        .run()
        .expect_code(0);
    cluster
        .mbclient("anna", &["msg", "nobody", "x"])
        .run()
        .expect_code(1)
        .expect_out("ERR no_such_user");
    cluster
        .mbclient("anna", &["frobnicate"])
        .run()
        .expect_code(2);
    cluster
        .bare_mbclient(&["--frobnicate"])
        .run()
        .expect_code(2);
    cluster
        .mbclient("zoe", &["inbox"])
        .without_env("MESSAGEBASE_PASSWORD")
        .run()
        .expect_code(4);
    cluster.bare_mbclient(&["inbox"]).run().expect_code(4);
    cluster.node(1).kill();
    // With the patience that users have who say nothing of it.
    let send = cluster
        .bare_mbclient(&["--user", "anna", "msg", "anna", "x"])
        .env("MESSAGEBASE_PASSWORD", PASSWORD);
    let ran = send.run().expect_code(3);
    assert!(!ran.stderr.is_empty(), "{ran}");
}

#[test]
fn help_and_version_need_nothing() {
    let place = Place::with(programs!(), 1).without_keys();
    for arguments in [["--help"], ["--version"]] {
        place.mbd(&arguments).run().expect_code(0);
        place.bare_mbctl(&arguments).run().expect_code(0);
        place.bare_mbclient(&arguments).run().expect_code(0);
    }
}

/// Every file below a directory, with its mode and bytes.
fn files(directory: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for path in std::fs::read_dir(&directory)
            .expect("a directory")
            .flatten()
            .map(|entry| entry.path())
        {
            let mode = std::fs::metadata(&path)
                .expect("it is there")
                .permissions()
                .mode()
                & 0o777;
            if path.is_dir() {
                assert_eq!(mode & 0o077, 0, "{}", path.display());
                pending.push(path);
            } else {
                found.push((
                    path.display().to_string(),
                    mode,
                    std::fs::read(&path).expect("it is there"),
                ));
            }
        }
    }
    found
}

#[test]
fn a_token_lets_the_next_run_resume_and_no_password_is_kept() {
    let cluster = cluster_with(3, &["anna"]);
    let password = cluster.path().join("password");
    let password = password.to_str().expect("UTF-8");
    // Without `login`, the session that a password opened ends with the script.
    cluster
        .bare_mbclient(&["--user", "anna", "--password-file", password, "inbox"])
        .run()
        .expect_code(0);
    cluster
        .bare_mbclient(&["--user", "anna", "inbox"])
        .run()
        .expect_code(4);
    cluster
        .bare_mbclient(&["--user", "anna", "--password-file", password, "login"])
        .run()
        .expect_code(0);
    let state = files(&cluster.path().join("state/messagebase/test"));
    assert!(!state.is_empty(), "a token is kept");
    for (path, mode, bytes) in &state {
        assert_eq!(*mode, 0o600, "{path}");
        assert!(
            !String::from_utf8_lossy(bytes).contains(PASSWORD),
            "{path} holds the password"
        );
    }
    cluster
        .bare_mbclient(&["--user", "anna", "inbox"])
        .run()
        .expect_code(0);
    cluster
        .bare_mbclient(&["--user", "anna", "logout"])
        .run()
        .expect_code(0);
    cluster
        .bare_mbclient(&["--user", "anna", "inbox"])
        .run()
        .expect_code(4);
}

#[test]
fn accounts_are_changed_and_deleted_by_script() {
    let cluster = cluster_with(1, &["anna", "ben"]);
    cluster
        .mbclient("anna", &["3|ben"])
        .run()
        .expect_code(1)
        .expect_out("ERR not_permitted");
    cluster
        .mbclient("anna", &["3|anna"])
        .run()
        .expect_code(0)
        .expect_out("OK");
    cluster.mbclient("anna", &["inbox"]).run().expect_code(4);
}

#[test]
fn listen_prints_each_message_as_it_comes_and_acknowledges_it() {
    let cluster = cluster_with(3, &["anna", "ben"]);
    let mut anna = cluster.client(1);
    anna.login("anna");
    anna.send("ben", "queued before", "1");
    let mut listener = cluster.mbclient("ben", &["listen"]).start();
    let line = listener.hear("the queued message", |line| line.starts_with("MSG anna "));
    assert!(line.ends_with(" queued before"), "{line}");
    anna.send("ben", "live", "2");
    listener.hear("the live message", |line| line.ends_with(" live"));
    cluster.wait("both to be acknowledged", || {
        cluster
            .rows(1, "queued_messages")
            .rows
            .is_empty()
            .then_some(())
    });
    listener.signal(Signal::SIGINT);
    let ran = listener.end();
    assert_eq!(ran.stdout.matches("MSG ").count(), 2, "each once: {ran}");
}

#[test]
fn listen_survives_the_death_of_its_node_without_gap_or_repetition() {
    let cluster = cluster_with(3, &["anna", "ben"]);
    let mut listener = cluster.mbclient("ben", &["listen"]).start();
    let node = cluster.wait("the listener's node", || listener_node(&cluster));
    let elsewhere = cluster.others(&[node])[0];
    let mut anna = cluster.client(elsewhere);
    anna.login("anna");
    for n in 0..10 {
        anna.send("ben", &format!("number {n}"), &format!("{n}"));
    }
    cluster.node(node).kill();
    for n in 10..20 {
        let body = format!("number {n}");
        cluster.wait("a send", || {
            anna.ask(
                "send",
                json!({"to": "ben", "body": body, "key": format!("{n}")}),
            )
            .ok()
        });
    }
    listener.hear("the last message", |line| line.ends_with(" number 19"));
    let bodies: Vec<&str> = listener
        .heard()
        .iter()
        .filter_map(|line| line.splitn(4, ' ').nth(3))
        .collect();
    assert_eq!(
        bodies,
        (0..20).map(|n| format!("number {n}")).collect::<Vec<_>>()
    );
}

/// The node with a session.
fn listener_node(cluster: &Cluster) -> Option<u16> {
    let status = cluster.mbctl(&["status", "--json"]).json();
    let nodes = status["nodes"].as_array()?.clone();
    let with = nodes.iter().find(|node| node["sessions"] == 1)?;
    u16::try_from(with["node"].as_u64()?).ok()
}

#[test]
fn without_a_quorum_messages_wait_in_the_outbox_and_are_delivered_once() {
    let cluster = cluster_with(3, &["anna", "ben"]);
    let mut anna = cluster.mbclient("anna", &[]).start();
    anna.say("d|ben|before");
    anna.hear("the answer", |line| line.starts_with("OK "));
    let node = cluster.wait("anna's node", || listener_node(&cluster));
    cluster
        .others(&[node])
        .iter()
        .for_each(|n| cluster.node(*n).kill());
    anna.say("d|ben|while there is no quorum");
    cluster.wait("the client to say that it waits", || {
        (!anna.errors().is_empty()).then_some(())
    });
    cluster
        .others(&[node])
        .iter()
        .for_each(|n| cluster.node(*n).start());
    anna.hear("the delayed answer", |line| line.starts_with("OK "));
    anna.end().expect_code(0);
    cluster.wait_ready(&cluster.numbers());
    let inbox = cluster.mbclient("ben", &["inbox"]).run().expect_code(0);
    let bodies: Vec<&str> = inbox
        .lines()
        .iter()
        .filter_map(|line| line.splitn(4, ' ').nth(3))
        .collect();
    assert_eq!(bodies, ["before", "while there is no quorum"], "{inbox}");
}

#[test]
fn a_text_comes_from_standard_input() {
    let cluster = cluster_with(1, &["anna", "ben"]);
    cluster
        .mbclient("anna", &["msg", "ben", "-"])
        .stdin("two\nlines\n")
        .run()
        .expect_code(0)
        .expect_out("OK queued ");
    // In a script standard input holds the commands.
    cluster
        .mbclient("anna", &[])
        .stdin("msg ben -\n")
        .run()
        .expect_code(0);
    cluster
        .mbclient("anna", &["msg", "ben", "-"])
        .stdin("")
        .run()
        .expect_code(2);
    let inbox = objects(&cluster.mbclient("ben", &["--json", "inbox"]).run());
    let messages = inbox[0]["ok"]["messages"].as_array().expect("messages");
    let bodies: Vec<&Value> = messages.iter().map(|message| &message["body"]).collect();
    assert_eq!(bodies, ["two\nlines", "-"]);
}

#[test]
fn what_is_missing_is_named() {
    let cluster = cluster_with(1, &["anna"]);
    cluster
        .bare_mbclient(&["--user", "anna", "--password-file", "/nonexistent", "inbox"])
        .run()
        .expect_code(2)
        .expect_out("/nonexistent");
    cluster
        .bare_mbclient(&["inbox"])
        .env("MESSAGEBASE_PASSWORD", PASSWORD)
        .run()
        .expect_code(4)
        .expect_err("--user NAME");
}

#[test]
fn without_a_configuration_the_demos_is_taken_from_any_directory() {
    let cluster = cluster_with(1, &["anna"]);
    let elsewhere = cluster.path().join("elsewhere");
    std::fs::create_dir_all(elsewhere.join("state/messagebase")).expect("a directory");
    let mbclient = || {
        Command::new(&programs!().mbclient)
            .current_dir(&elsewhere)
            .env("XDG_STATE_HOME", elsewhere.join("state"))
            .arg("status")
    };
    mbclient()
        .run()
        .expect_code(2)
        .expect_err("no configuration")
        .expect_err("--config FILE");
    let record = elsewhere.join("state/messagebase/demo-config");
    std::fs::write(record, cluster.config().display().to_string()).expect("written");
    mbclient()
        .run()
        .expect_code(0)
        .expect_err("the demo's cluster")
        .expect_out("OK status");
}
