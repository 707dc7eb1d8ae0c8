//! The pipe dialect over the `plain` port, as its first users typed it into netcat.

use std::time::Duration;

use messagebase_harness::{Cluster, Connection, Heard, PASSWORD};
use serde_json::json;

use crate::cluster;

/// Longer than the 150 ms after which an unfinished command counts as a line.
const QUIET: Duration = Duration::from_millis(700);

#[track_caller]
fn log_in(cluster: &Cluster, node: u16, user: &str) -> Connection {
    let mut connection = cluster.pipe(node);
    connection.say(&format!("2|{user}|{PASSWORD}"));
    let line = connection.line("the answer to a login");
    assert!(line.starts_with("OK"), "{line}");
    connection
}

#[track_caller]
fn say_ok(connection: &mut Connection, line: &str) -> String {
    connection.say(line);
    let answer = connection.line(&format!("the answer to {line}"));
    assert!(answer.starts_with("OK"), "{line}: {answer}");
    answer
}

#[test]
fn a_whole_conversation_in_pipes() {
    let cluster = cluster(3);
    let mut anna = cluster.pipe(1);
    say_ok(&mut anna, &format!("1|anna|{PASSWORD}"));
    say_ok(&mut anna, &format!("1|ben|{PASSWORD}"));
    anna.say("d|ben|too early");
    assert!(anna.line("a refusal").starts_with("ERR not_logged_in "));
    say_ok(&mut anna, &format!("2|anna|{PASSWORD}"));

    let queued = say_ok(&mut anna, "d|ben|back\\slash | bar");
    assert!(queued.starts_with("OK queued "), "{queued}");
    let id = queued
        .rsplit(' ')
        .next()
        .and_then(|id| id.parse::<u64>().ok());
    assert!(id.is_some(), "{queued}");

    let mut ben = log_in(&cluster, 2, "ben");
    let message = ben.line("the queued message");
    let fields: Vec<&str> = message.splitn(4, ' ').collect();
    assert_eq!(
        (fields[0], fields[1], fields[3]),
        ("MSG", "anna", "back\\\\slash | bar"),
        "{message}"
    );
    assert!(
        fields[2].len() == 24 && fields[2].ends_with('Z') && fields[2].contains('T'),
        "{message}"
    );
    let sent = cluster.wait("ben to count as online", || {
        let sent = say_ok(&mut anna, "d|ben|live");
        sent.starts_with("OK sent ").then_some(sent)
    });
    assert!(
        sent.rsplit(' ')
            .next()
            .is_some_and(|id| id.parse::<u64>().is_ok()),
        "{sent}"
    );
    assert!(ben.line("the live message").ends_with(" live"));

    // A JSON client can send what a pipe client can't: the escapes keep it on one line.
    let mut json = cluster.client(3);
    json.login("anna");
    json.send("ben", "two\nlines\rand a \\", "1");
    let escaped = cluster.wait("the escaped message", || {
        let line = ben.line("a message");
        line.contains("lines").then_some(line)
    });
    assert!(escaped.ends_with(" two\\nlines\\rand a \\\\"), "{escaped}");

    anna.say("d|nobody|hello");
    assert!(anna.line("a refusal").starts_with("ERR no_such_user "));
    anna.say("4");
    assert_eq!(
        anna.list("the user list"),
        ["OK users", "anna online", "ben online", "END"]
    );
    anna.say("5|be");
    assert_eq!(
        anna.list("a search by prefix"),
        ["OK users", "ben online", "END"]
    );
    anna.say("5|?nn*");
    assert_eq!(
        anna.list("a search by glob"),
        ["OK users", "anna online", "END"]
    );
    anna.say("h");
    let help = anna.list("the help");
    for command in [
        "1|USER|PASSWORD",
        "2|",
        "3|USER",
        "4 ",
        "5|PATTERN",
        "d|TO|MESSAGE",
        "h ",
    ] {
        assert!(
            help.iter().any(|line| line.contains(command)),
            "{command} in {help:?}"
        );
    }
    anna.say("3|ben");
    assert!(anna.line("a refusal").starts_with("ERR not_permitted "));
    say_ok(&mut anna, "3|anna");
    let mut again = cluster.pipe(3);
    again.say(&format!("2|anna|{PASSWORD}"));
    assert!(again.line("a refusal").starts_with("ERR bad_credentials "));
}

#[test]
fn the_first_clients_send_no_newline() {
    let cluster = cluster(1);
    let mut anna = cluster.pipe(1);
    let mut once = |command: &str| {
        anna.write(command.as_bytes());
        anna.line(&format!("the answer to {command}"))
    };
    assert!(once(&format!("1|anna|{PASSWORD}")).starts_with("OK"));
    assert!(once(&format!("1|ben|{PASSWORD}")).starts_with("OK"));
    assert!(once(&format!("2|anna|{PASSWORD}")).starts_with("OK"));
    assert!(once("d|ben|no newline").starts_with("OK queued "));
    let mut ben = cluster.pipe(1);
    ben.write(format!("2|ben|{PASSWORD}").as_bytes());
    assert!(ben.line("the answer to a login").starts_with("OK"));
    assert!(ben.line("the queued message").ends_with(" no newline"));
    anna.write(b"4");
    assert_eq!(
        anna.list("the user list"),
        ["OK users", "anna online", "ben online", "END"]
    );
    anna.write(b"5|b");
    assert_eq!(anna.list("a search"), ["OK users", "ben online", "END"]);
    anna.write(b"3|anna");
    assert!(anna.line("the answer to a deletion").starts_with("OK"));
}

#[test]
fn a_command_in_two_pieces_is_one_command() {
    let cluster = cluster(1);
    let mut anna = cluster.pipe(1);
    anna.write(b"1|anna|");
    anna.write(format!("{PASSWORD}\r\n").as_bytes());
    assert!(anna.line("the answer").starts_with("OK"));
    anna.say(&format!("2|anna|{PASSWORD}"));
    assert!(anna.line("the answer").starts_with("OK"));
}

#[test]
fn a_message_counts_as_delivered_when_anything_comes_back_and_comes_again_otherwise() {
    let cluster = cluster(1);
    let mut anna = cluster.client(1);
    anna.register("ben");
    anna.sign_up("anna");
    anna.send("ben", "first", "1");
    let mut silent = log_in(&cluster, 1, "ben");
    assert!(silent.line("the message").ends_with(" first"));
    assert_eq!(silent.hear(QUIET), Heard::Nothing);
    assert_eq!(
        undelivered(&cluster),
        1,
        "nothing came from the client after it was written"
    );
    silent.say("4");
    silent.list("the user list");
    cluster.wait("the message to be delivered", || {
        (undelivered(&cluster) == 0).then_some(())
    });

    anna.send("ben", "second", "2");
    assert!(silent.line("the message").ends_with(" second"));
    silent.close();
    cluster.wait("the message to be delivered by an orderly end", || {
        (undelivered(&cluster) == 0).then_some(())
    });
    let mut ben = cluster.client(1);
    ben.login("ben");
    assert_eq!(ben.inbox(), Vec::<serde_json::Value>::new());
    assert_eq!(ben.sync(0).len(), 2);
    assert_eq!(
        anna.ok("history", json!({"with": "ben"}))["messages"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
}

fn undelivered(cluster: &Cluster) -> usize {
    cluster.rows(1, "queued_messages").rows.len()
}
