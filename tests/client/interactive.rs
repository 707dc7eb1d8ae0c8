//! At a terminal: prompts say what Enter does, passwords stay hidden, an arriving message changes neither whom a
//! conversation addresses nor the half-typed line.

use messagebase_harness::{Cluster, LONG, PASSWORD, Terminal, TestClient};

use crate::cluster_with;

/// Logs a user in at a new terminal.
fn sit_down(cluster: &Cluster, user: &str) -> Terminal {
    let mut terminal = Terminal::start(cluster.bare_mbclient(&["--user", user]));
    terminal.wait("assword");
    terminal.enter(PASSWORD);
    terminal.wait(&format!("{user}@n"));
    terminal
}

fn logged_in(cluster: &Cluster, user: &str) -> TestClient {
    let mut client = cluster.client(1);
    client.login(user);
    client
}

#[track_caller]
fn assert_no_password_in_the_state(cluster: &Cluster) {
    let state = cluster.path().join("state");
    let kept = std::process::Command::new("grep")
        .arg("-r")
        .arg(PASSWORD)
        .arg(&state)
        .output()
        .expect("grep");
    assert!(
        kept.stdout.is_empty(),
        "the password is in the history: {}",
        String::from_utf8_lossy(&kept.stdout)
    );
}

/// The body of the next message to a client.
#[track_caller]
fn next_body(client: &mut TestClient) -> String {
    client.event("message")["message"]["body"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn the_password_is_asked_without_echo_and_the_next_start_resumes() {
    let cluster = cluster_with(1, &["anna"]);
    let mut terminal = sit_down(&cluster, "anna");
    assert!(!terminal.shown().contains(PASSWORD), "{}", terminal.shown());
    terminal.enter("/quit");
    assert_eq!(terminal.exit_code(LONG), 0);
    let mut again = Terminal::start(cluster.bare_mbclient(&["--user", "anna"]));
    again.wait("anna@n");
    assert!(!again.shown().contains("assword"), "{}", again.shown());
    again.enter("/quit");
    assert_eq!(again.exit_code(LONG), 0);
}

#[test]
fn enter_on_the_empty_line_opens_the_conversation_and_close_leaves_it() {
    let cluster = cluster_with(1, &["anna", "ben", "carl"]);
    let mut ben = logged_in(&cluster, "ben");
    let mut carl = logged_in(&cluster, "carl");
    let mut anna = sit_down(&cluster, "anna");
    ben.send("anna", "hello from ben", "1");
    anna.wait("hello from ben");
    anna.wait("[Enter: reply to ben]>");
    anna.enter("");
    anna.wait("→ ben>");
    anna.enter("hello yourself");
    assert_eq!(next_body(&mut ben), "hello yourself");

    // Commands are text here, and a message from somebody else changes nothing.
    carl.send("anna", "hello from carl", "1");
    anna.wait("hello from carl");
    for (typed, sent) in [
        ("4", "4"),
        ("1|x|y", "1|x|y"),
        ("//close", "/close"),
        ("still to ben", "still to ben"),
    ] {
        anna.enter(typed);
        assert_eq!(next_body(&mut ben), sent);
    }
    anna.enter("/close");
    anna.wait("anna@n");
    anna.enter("4");
    anna.wait("carl online");
    anna.enter("/quit");
    assert_eq!(anna.exit_code(LONG), 0);
    assert!(carl.events().is_empty(), "nothing went to carl");
}

#[test]
fn lines_that_are_typed_ahead_are_neither_lost_nor_reordered() {
    let cluster = cluster_with(1, &["anna", "ben"]);
    let mut ben = logged_in(&cluster, "ben");
    let mut anna = Terminal::start(cluster.bare_mbclient(&[]));
    anna.wait(">");
    // A password too, which must reach its question and nothing else.
    anna.keys(&format!(
        "/login anna\r{PASSWORD}\r/msg ben\rone\rtwo\r/close\r4\r"
    ));
    assert_eq!(next_body(&mut ben), "one");
    assert_eq!(next_body(&mut ben), "two");
    anna.wait("ben online");
    anna.enter("/quit");
    assert_eq!(anna.exit_code(LONG), 0);
    assert_no_password_in_the_state(&cluster);
}

#[test]
fn a_half_typed_line_survives_an_arriving_message() {
    let cluster = cluster_with(1, &["anna", "ben"]);
    let mut ben = logged_in(&cluster, "ben");
    let mut anna = sit_down(&cluster, "anna");
    anna.keys("d|ben|half a ");
    anna.wait("half a ");
    ben.send("anna", "in between", "1");
    anna.wait("in between");
    anna.enter("line");
    assert_eq!(next_body(&mut ben), "half a line");
}

#[test]
fn other_text_is_refused_with_a_hint_and_sent_to_nobody() {
    let cluster = cluster_with(1, &["anna", "ben"]);
    let mut ben = logged_in(&cluster, "ben");
    let mut anna = sit_down(&cluster, "anna");
    anna.enter("just some words");
    anna.wait("Hint");
    anna.enter("/msg ben words for ben");
    assert_eq!(next_body(&mut ben), "words for ben");
    anna.enter("d|nobody|x");
    anna.wait("no_such_user");
    anna.enter("/help");
    anna.wait("/history");
}

#[test]
fn register_log_in_and_delete_by_hand() {
    let cluster = cluster_with(1, &[]);
    let mut terminal = Terminal::start(cluster.bare_mbclient(&[]));
    terminal.wait(">");
    terminal.enter(&format!("1|anna|{PASSWORD}"));
    terminal.wait("OK");
    terminal.enter(&format!("2|anna|{PASSWORD}"));
    terminal.wait("anna@n1>");
    terminal.enter("3|anna");
    terminal.wait("assword");
    terminal.enter(PASSWORD);
    terminal.wait("OK");
    terminal.enter("/quit");
    assert_eq!(terminal.exit_code(LONG), 0);
    assert_no_password_in_the_state(&cluster);
}

#[test]
fn a_lost_node_is_told_in_one_line_and_the_prompt_names_the_new_one() {
    let cluster = cluster_with(3, &["anna", "ben"]);
    let mut anna = sit_down(&cluster, "anna");
    let shown = anna.shown();
    let node = shown
        .rsplit("anna@n")
        .next()
        .and_then(|rest| rest.chars().next()?.to_digit(10));
    let node = u16::try_from(node.expect("the prompt names a node")).expect("small");
    cluster.node(node).kill();
    anna.wait("term");
    anna.wait("anna@n");
    let shown = anna.shown();
    assert!(
        !shown.trim_end().ends_with(&format!("anna@n{node}>")),
        "{shown}"
    );
    anna.enter("d|ben|after the failover");
    anna.wait("OK");
    let other = cluster.others(&[node])[0];
    let mut ben = cluster.client(other);
    ben.login("ben");
    assert_eq!(ben.inbox().len(), 1);
}

#[test]
fn a_second_person_registers_with_the_password_that_was_asked_for() {
    let cluster = cluster_with(1, &["anna"]);
    let _anna = sit_down(&cluster, "anna");
    let mut ben = Terminal::start(cluster.bare_mbclient(&["--user", "ben"]));
    ben.wait("assword of ben");
    ben.enter(PASSWORD);
    ben.wait("To register ben");
    ben.enter(PASSWORD);
    ben.wait("OK logged in ben");
    ben.enter("hello there");
    ben.wait("Hint: /msg anna hello there");
    ben.enter("/quit");
    assert_eq!(ben.exit_code(LONG), 0);

    // A wrong password makes no account of a name that is taken.
    let mut wrong = Terminal::start(cluster.bare_mbclient(&["--user", "carl"]));
    wrong.wait("assword of carl");
    wrong.enter("not what I meant");
    wrong.wait("To register carl");
    wrong.enter("");
    wrong.wait("Hint: /login carl");
    wrong.enter("/login anna");
    wrong.wait("assword of anna");
    wrong.enter("a wrong password");
    wrong.wait("To register anna");
    wrong.enter("a wrong password");
    wrong.wait("name_taken");
    assert_no_password_in_the_state(&cluster);
}

#[test]
fn register_leads_on_to_being_logged_in() {
    let cluster = cluster_with(1, &[]);
    let mut anna = Terminal::start(cluster.bare_mbclient(&[]));
    anna.wait("New here?");
    anna.enter("/register anna");
    anna.wait("assword for anna");
    anna.enter(PASSWORD);
    anna.wait("Once more");
    anna.enter(PASSWORD);
    anna.wait("OK logged in anna");
    anna.wait("anna@n1>");
    anna.enter("/quit");
    assert_eq!(anna.exit_code(LONG), 0);
}

#[test]
fn another_account_takes_the_terminal_and_leaves_the_session_to_others() {
    let cluster = cluster_with(1, &["anna", "ben"]);
    let mut first = sit_down(&cluster, "anna");
    let mut second = Terminal::start(cluster.bare_mbclient(&[]));
    second.wait("resumed as anna (--user NAME for another account)");
    second.wait("anna@n1>");
    second.enter("/login ben");
    second.wait("assword of ben");
    second.enter("a wrong password");
    second.wait("To register ben");
    second.enter("");
    second.wait("still anna");
    second.enter("/login ben");
    second.wait("assword of ben");
    second.enter(PASSWORD);
    second.wait("OK logged in ben");
    second.wait("ben@n1>");

    // Two people talk, and who opens a conversation sees its last lines.
    second.enter("/msg anna how are you?");
    first.wait("how are you?");
    first.enter("/msg ben");
    first.wait("how are you?");
    first.wait("anna@n1 → ben>");
    first.enter("well");
    second.wait("anna: well");
    assert!(
        !first.shown().contains("session is over"),
        "{}",
        first.shown()
    );

    // The end of one account's session is not that of the other, which logged in last.
    let mut third = Terminal::start(cluster.bare_mbclient(&["--user", "anna"]));
    third.wait("resumed as anna");
    third.wait("anna@n1>");
    first.enter("/logout");
    first.wait("OK logged out anna");
    third.wait("session is over");
    let mut fourth = Terminal::start(cluster.bare_mbclient(&[]));
    fourth.wait("resumed as ben");
}

#[test]
fn a_new_cluster_of_the_same_name_greets_as_new() {
    let old = cluster_with(1, &["anna"]);
    sit_down(&old, "anna").enter("/quit");
    let new = cluster_with(1, &[]);
    let mut terminal = Terminal::start(
        new.bare_mbclient(&[])
            .env("XDG_STATE_HOME", old.path().join("state")),
    );
    terminal.wait("New here?");
    assert!(!terminal.shown().contains("anna"), "{}", terminal.shown());
}
