//! Bad lines and bad requests: the code that PROTOCOL.md names, and the connection lives or closes as it says.

use messagebase_harness::{Cluster, Connection, Heard, PASSWORD, SHORT, TestClient, programs};
use serde_json::{Value, json};

const LINE_MAX_BYTES: usize = 128 * 1024;
const LINE_ABANDON_BYTES: usize = 1024 * 1024;

fn one_node() -> Cluster {
    Cluster::start(programs!(), 1)
}

/// Still there and still answering?
#[track_caller]
fn lives(client: &mut TestClient) {
    client.ok("ping", json!({}));
}

#[test]
fn malformed_json_lines_are_refused_and_the_connection_lives() {
    let cluster = one_node();
    let mut client = cluster.client(1);
    lives(&mut client);
    let cases: [&[u8]; 9] = [
        b"{\n",
        b"{\"id\":1,\n",
        b"hello\n",
        b"4\n",
        b"[1,2]\n",
        b"\n",
        b"{\"id\":-1,\"op\":\"ping\"}\n",
        b"{\"id\":9007199254740992,\"op\":\"ping\"}\n",
        b"{\"id\":1,\"op\":\"ping\xff\"}\n",
    ];
    for line in cases {
        client.write(line);
        if line == b"\n" {
            // An empty line may be ignored; what follows must work all the same.
            lives(&mut client);
            continue;
        }
        let refusal = client.unnumbered(&format!("a refusal of {}", String::from_utf8_lossy(line)));
        let expected = ("bad_request", "not_done");
        assert_eq!(
            (refusal.code.as_str(), refusal.outcome.as_str()),
            expected,
            "{}",
            String::from_utf8_lossy(line)
        );
    }
    lives(&mut client);
    client.refused("frobnicate", json!({}), "unknown_op");
    client.refused("login", json!({"user": "anna"}), "bad_request");
    client.refused(
        "login",
        json!({"user": 7, "password": PASSWORD}),
        "bad_request",
    );
    lives(&mut client);
}

#[test]
fn an_overlong_line_is_skipped_and_an_endless_one_closes() {
    let cluster = one_node();
    let mut client = cluster.client(1);
    lives(&mut client);
    let mut line = vec![b'x'; LINE_MAX_BYTES + 1];
    line.push(b'\n');
    client.write(&line);
    assert_eq!(client.unnumbered("a refusal of the line").code, "too_large");
    lives(&mut client);

    let padded = |bytes: usize| {
        let request =
            json!({"id": 900, "op": "ping", "padding": "x".repeat(bytes - 50)}).to_string();
        format!("{request}{}\n", " ".repeat(bytes - request.len() - 1))
    };
    client.write(padded(LINE_MAX_BYTES).as_bytes());
    assert!(
        client.answer(900, SHORT).is_ok(),
        "a line of exactly the limit is a line"
    );

    let mut endless = cluster.client(1);
    lives(&mut endless);
    endless.write(&vec![b'x'; LINE_ABANDON_BYTES + LINE_MAX_BYTES]);
    assert_eq!(
        endless.unnumbered("a refusal of the line").code,
        "too_large"
    );
    endless.wait_closed();
    lives(&mut client);
}

#[test]
fn a_first_line_of_no_dialect_is_refused_and_closed() {
    let cluster = one_node();
    for line in [
        "hello",
        "GET / HTTP/1.1",
        "6|x|y",
        "d",
        "[1]",
        "\"x\"",
        "help",
    ] {
        let mut connection = cluster.pipe(1);
        connection.say(line);
        let words = connection.last_words();
        assert!(
            matches!(words.as_slice(), [only] if only.starts_with("ERR bad_request ")),
            "{line:?}: {words:?}"
        );
    }
    let mut connection = cluster.pipe(1);
    connection.write(b"\xff\xfe\n");
    assert!(
        connection
            .last_words()
            .first()
            .is_some_and(|line| line.starts_with("ERR bad_request "))
    );
}

#[test]
fn a_pipe_connection_stays_a_pipe_connection() {
    let cluster = one_node();
    let mut connection = cluster.pipe(1);
    connection.say("h");
    connection.list("the help");
    let refused = |connection: &mut Connection, line: &[u8], code: &str| {
        connection.write(line);
        let answer = connection.line("a refusal");
        assert!(
            answer.starts_with(&format!("ERR {code} ")),
            "{:?}: {answer}",
            String::from_utf8_lossy(line)
        );
    };
    refused(
        &mut connection,
        b"{\"id\":1,\"op\":\"hello\"}\n",
        "bad_request",
    );
    refused(&mut connection, b"1|only a name\n", "bad_request");
    refused(&mut connection, b"9|x\n", "bad_request");
    refused(&mut connection, b"1|\xff\xfe|password\n", "bad_request");
    refused(&mut connection, b"1|-x|long enough\n", "bad_name");
    refused(&mut connection, b"1|anna|short\n", "bad_password");
    refused(&mut connection, b"4\n", "not_logged_in");
    refused(&mut connection, b"5|a\n", "not_logged_in");
    refused(&mut connection, b"3|anna\n", "not_logged_in");
    let mut long = vec![b'd'; LINE_MAX_BYTES + 1];
    long.push(b'\n');
    refused(&mut connection, &long, "too_large");
    connection.say("h");
    assert!(
        connection.list("the help").len() > 1,
        "the connection lives"
    );
}

#[test]
fn bad_names_passwords_and_keys_are_refused_before_anything_is_done() {
    let cluster = one_node();
    let mut client = cluster.client(1);
    let register = |user: &str, password: &str, key: &str| json!({"user": user, "password": password, "key": key});
    let long = "x".repeat(33);
    for name in [
        "",
        "-a",
        ".a",
        "_a",
        "a b",
        "a|b",
        "ä",
        "a\n",
        "a/b",
        long.as_str(),
    ] {
        let refusal = client.refused("register", register(name, PASSWORD, "k"), "bad_name");
        assert_eq!(refusal.outcome, "not_done");
    }
    let long = "x".repeat(257);
    for password in ["", "1234567", long.as_str()] {
        client.refused("register", register("anna", password, "k"), "bad_password");
    }
    let long = "k".repeat(65);
    for key in ["", "kéy", "a\tb", long.as_str()] {
        client.refused("register", register("anna", PASSWORD, key), "bad_request");
    }
    for name in ["a", "A-Z.a_z-0", "0", &"x".repeat(32)] {
        client.ok(
            "register",
            register(name, &"p".repeat(256), &"k".repeat(64)),
        );
    }
    client.refused("register", register("A", PASSWORD, "other"), "name_taken");
    assert_eq!(cluster.rows(1, "users").rows.len(), 4);
}

#[test]
fn what_needs_a_session_says_so() {
    let cluster = one_node();
    let mut client = cluster.client(1);
    let needing = [
        ("logout", json!({})),
        (
            "password",
            json!({"old": PASSWORD, "new": PASSWORD, "key": "k"}),
        ),
        ("delete", json!({"password": PASSWORD, "key": "k"})),
        ("users", json!({})),
        ("send", json!({"to": "anna", "body": "x", "key": "k"})),
        ("inbox", json!({})),
        ("sync", json!({"after": 0})),
        ("ack", json!({"through": 1})),
        ("history", json!({"with": "anna"})),
    ];
    for (op, fields) in needing {
        // `logout` with a dead token is a success; without any session there is nothing to log out of.
        client.refused(op, fields, "not_logged_in");
    }
    for op in ["hello", "ping", "status"] {
        client.ok(op, json!({}));
    }
}

#[test]
fn unknown_users_and_wrong_passwords_get_the_same_answer() {
    let cluster = one_node();
    let mut client = cluster.client(1);
    client.register("anna");
    let wrong = client.refused(
        "login",
        json!({"user": "anna", "password": "not the password"}),
        "bad_credentials",
    );
    let unknown = client.refused(
        "login",
        json!({"user": "nobody", "password": "not the password"}),
        "bad_credentials",
    );
    assert_eq!(wrong, unknown);
    client.refused(
        "resume",
        json!({"token": "x".repeat(43)}),
        "bad_credentials",
    );
    client.login("anna");
    client.refused(
        "login",
        json!({"user": "anna", "password": PASSWORD}),
        "bad_request",
    );
}

#[test]
fn bodies_recipients_and_limits_are_checked() {
    let cluster = one_node();
    let mut anna = cluster.client(1);
    anna.sign_up("anna");
    let send = |to: &str, body: &str, key: &str| json!({"to": to, "body": body, "key": key});
    anna.refused("send", send("nobody", "x", "1"), "no_such_user");
    anna.refused("send", send("anna", &"x".repeat(16_385), "2"), "too_large");
    anna.refused("send", send("anna", &"ü".repeat(8_193), "3"), "too_large");
    anna.refused("send", send("anna", "a\0b", "4"), "bad_request");
    let sent = anna.ok("send", send("anna", &"ü".repeat(8_192), "5"));
    anna.ok("send", send("ANNA", "", "6"));
    let inbox = anna.inbox();
    assert_eq!(inbox[0]["body"].as_str().map(str::len), Some(16_384));
    for limit in [json!(1_001), json!(-1), json!("many"), json!(1.5)] {
        anna.refused("inbox", json!({"limit": limit}), "bad_request");
    }
    anna.refused("inbox", json!({"consistency": "strong"}), "bad_request");
    let far = sent["id"].as_u64().unwrap_or_default() + 1_000;
    for through in [json!(0), json!(far), json!(-1), Value::Null] {
        anna.refused("ack", json!({"through": through}), "bad_request");
    }
    anna.ok("ack", json!({"through": sent["id"]}));
    anna.refused("history", json!({"with": "nobody"}), "no_such_user");
    anna.refused(
        "delete",
        json!({"password": PASSWORD, "key": "d", "user": "somebody"}),
        "not_permitted",
    );
}

#[test]
fn only_failed_logins_count_against_the_limit() {
    let cluster = Cluster::with(programs!(), 1)
        .limit("failed_logins_per_name", 3)
        .start();
    let mut client = cluster.client(1);
    client.register("anna");
    client.register("ben");
    for _ in 0..5 {
        cluster.client(1).login("anna");
    }
    for _ in 0..3 {
        client.refused(
            "login",
            json!({"user": "anna", "password": "not the password"}),
            "bad_credentials",
        );
    }
    let refusal = client.refused(
        "login",
        json!({"user": "ANNA", "password": PASSWORD}),
        "rate_limited",
    );
    assert_eq!(refusal.outcome, "not_done");
    client.login("ben");
}

#[test]
fn a_full_mailbox_is_busy_and_nothing_is_written() {
    let cluster = Cluster::with(programs!(), 1)
        .limit("queued_messages_per_user", 3)
        .start();
    let mut anna = cluster.client(1);
    anna.sign_up("anna");
    let mut ben = cluster.client(1);
    ben.sign_up("ben");
    (0..3).for_each(|n| drop(anna.send("ben", &format!("{n}"), &format!("{n}"))));
    let refusal = anna.refused(
        "send",
        json!({"to": "ben", "body": "3", "key": "3"}),
        "busy",
    );
    assert_eq!(refusal.outcome, "not_done");
    let inbox = ben.inbox();
    assert_eq!(inbox.len(), 3);
    ben.ok("ack", json!({"through": inbox[0]["id"]}));
    let sent = anna.send("ben", "3", "3");
    assert_eq!(
        sent["duplicate"], false,
        "the refused attempt was not written"
    );
}

#[test]
fn closed_registration_is_not_permitted() {
    let cluster = Cluster::with(programs!(), 1)
        .setting("registration = \"closed\"")
        .start();
    let fields = json!({"user": "anna", "password": PASSWORD, "key": "k"});
    cluster
        .client(1)
        .refused("register", fields, "not_permitted");
}

#[test]
fn the_oldest_session_ends_when_one_too_many_begins() {
    let cluster = Cluster::with(programs!(), 1)
        .limit("sessions_per_user", 2)
        .start();
    let mut first = cluster.client(1);
    let token = first.sign_up("anna");
    let mut second = cluster.client(1);
    second.login("anna");
    let mut third = cluster.client(1);
    third.login("anna");
    first.event("closing");
    first.wait_closed();
    cluster
        .client(1)
        .refused("resume", json!({"token": token}), "bad_credentials");
    second.ok("inbox", json!({}));
    third.ok("inbox", json!({}));
}

#[test]
fn garbage_on_many_connections_does_not_stop_the_node() {
    let cluster = one_node();
    for seed in 0..40_u8 {
        let mut connection = cluster.pipe(1);
        let bytes: Vec<u8> = (0..4_000_u32)
            .map(|n| (n * 37 + u32::from(seed) * 91) as u8)
            .collect();
        let first: &[u8] = if seed % 2 == 0 {
            b"{\"id\":1,\"op\":\"hello\"}\n"
        } else {
            b"h\n"
        };
        connection.write(first);
        connection.write(&bytes);
        connection.write(b"\n");
        assert!(
            matches!(connection.hear(SHORT), Heard::Line(_)),
            "seed {seed}"
        );
    }
    cluster.client(1).register("anna");
}
