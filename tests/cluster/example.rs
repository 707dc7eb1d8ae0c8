//! `examples/client.py`, two of it in conversation while the leader they are connected to dies: nothing is lost, doubled
//! or reordered.

use std::io::Write;
use std::path::Path;

use messagebase_harness::{Command, PASSWORD, Signal, Talk, messages};

use crate::cluster;

const FIRST_HALF: usize = 10;
const AT_THE_KILL: usize = 20;
const ALL: usize = 30;

/// An interpreter that is new enough for the example, or a notice past the test runner.
fn python() -> Option<&'static Path> {
    let path = Path::new("python3");
    let new_enough = "import sys; sys.exit(sys.version_info < (3, 11))";
    let tried = std::process::Command::new(path)
        .args(["-c", new_enough])
        .status();
    if tried.is_ok_and(|status| status.success()) {
        return Some(path);
    }
    let notice =
        "NOT TESTED: examples/client.py needs python3, 3.11 or later, which is not installed";
    let _ = writeln!(std::io::stderr(), "{notice}");
    None
}

fn number(n: usize) -> String {
    format!("number {n}, with \"quotes\" and ü")
}

/// How the example shows that message.
fn from_anna(n: usize) -> String {
    format!("anna: {}", number(n))
}

#[test]
fn the_example_client_survives_the_sigkill_of_its_leader() {
    let Some(python) = python() else { return };
    let cluster = cluster(3);
    // The example dials the nodes in the order of the configuration, so the first is the one it is connected to.
    cluster.lead(1);
    let example = |user: &str, peer: &str| -> Talk {
        Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/client.py"))
            .arg(cluster.config())
            .args(&[user, peer])
            .env("MESSAGEBASE_PASSWORD", PASSWORD)
            .start()
    };
    let mut ben = example("ben", "anna");
    cluster.wait("ben's account", || {
        let names = cluster.rows(1, "users");
        names.column("name").contains(&"ben").then_some(())
    });
    let mut anna = example("anna", "ben");

    (0..FIRST_HALF).for_each(|n| anna.say(&number(n)));
    ben.hear("the first half", |line| line == from_anna(FIRST_HALF - 1));
    // Ben sleeps meanwhile, so that his client has to fetch what it was not told.
    ben.signal(Signal::SIGSTOP);
    let answered = |line: &str| line.starts_with("sent ");
    (FIRST_HALF..AT_THE_KILL).for_each(|n| anna.say(&number(n)));
    (0..=FIRST_HALF).for_each(|_| drop(anna.hear("an answer", answered)));
    cluster.node(1).kill();
    (AT_THE_KILL..ALL).for_each(|n| anna.say(&number(n)));
    (FIRST_HALF + 1..ALL).for_each(|_| drop(anna.hear("an answer", answered)));
    ben.signal(Signal::SIGCONT);
    ben.hear("the last message", |line| line == from_anna(ALL - 1));
    ben.say("all there");
    anna.hear("ben's answer", |line| line == "ben: all there");

    let sent = anna.end().expect_code(0);
    let received = ben.end().expect_code(0);
    let answers = sent.lines().into_iter().filter(|line| answered(line));
    assert_eq!(answers.count(), ALL, "{sent}");
    let told: Vec<&str> = received
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("anna: "))
        .collect();
    assert_eq!(
        told,
        (0..ALL).map(from_anna).collect::<Vec<_>>(),
        "{received}"
    );

    let mut reader = cluster.client(2);
    reader.login("ben");
    let bodies: Vec<String> = messages(&reader.sync(0))
        .into_iter()
        .map(|message| message.body)
        .filter(|body| body.starts_with("number "))
        .collect();
    assert_eq!(bodies, (0..ALL).map(number).collect::<Vec<_>>());
    assert!(reader.inbox().is_empty(), "everything was acknowledged");
}
