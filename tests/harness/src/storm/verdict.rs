//! Looks at a healed cluster, completes the history by what is there in the end, and judges it.

use std::path::Path;
use std::time::Duration;

use messagebase_checker::{Answer, Call, History, Message, Recorder, Reply, Violation};

use crate::cluster::Cluster;
use crate::rows::{Rows, TABLES_THAT_MUST_AGREE};
use crate::storm::recorded_client::RecordedClient;
use crate::wait::{LONG, wait_for};

const PAGE: u32 = 1_000;
/// The cluster is whole: an answer takes milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// The complete history and what is wrong with it.
#[derive(Debug)]
pub struct Findings {
    /// Everything that clients saw, and what is there in the end.
    pub history: History,
    /// What the checker says.
    pub violations: Vec<Violation>,
    /// All that is wrong, the violations included, for people.
    pub wrong: Vec<String>,
}

/// Waits until all nodes have applied the same, takes mailboxes and rows into the history, compares the nodes' digests and
/// judges. `accounts` are those that may exist, with the passwords that they may have. Nobody may write meanwhile.
///
/// # Panics
/// When the cluster does not come to rest.
#[track_caller]
pub fn examine(
    cluster: &Cluster,
    recorder: &Recorder,
    accounts: &[(String, Vec<String>)],
) -> Findings {
    let mut wrong = Vec::new();
    cluster.wait_ready(&cluster.numbers());
    for (user, passwords) in accounts {
        if let Err(problem) = take_mailbox(cluster, recorder, cluster.numbers()[0], user, passwords)
        {
            wrong.push(problem);
        }
    }
    take_rows(cluster, recorder);
    let verified = cluster.mbctl(&["verify", "--json"]);
    if verified.code != 0 {
        wrong.push(format!("mbctl verify: {verified}"));
    }
    wrong.extend(panics(cluster));
    let history = recorder.finish();
    let violations = messagebase_checker::check(&history);
    if !violations.is_empty() {
        wrong.push(messagebase_checker::report(&violations));
    }
    Findings {
        history,
        violations,
        wrong,
    }
}

/// Takes all pages of `sync` on a node into the history as what is there in the end. An account that nobody can log in to
/// was never made, unless its registration was answered.
///
/// # Errors
/// For people, when the mailbox could not be read.
pub fn take_mailbox(
    cluster: &Cluster,
    recorder: &Recorder,
    node: u16,
    user: &str,
    passwords: &[String],
) -> Result<(), String> {
    let failed =
        |what: &str| format!("the mailbox of {user} could not be read on node {node}: {what}");
    let client = recorder.client();
    let mut caller = RecordedClient::dial(cluster, node, false, &client)
        .ok_or_else(|| failed("no connection"))?;
    let ask = |caller: &mut RecordedClient, call| {
        caller
            .ask(call, ANSWER_WITHIN, &mut drop)
            .ok_or_else(|| failed("no answer"))
    };
    let mut refused = None;
    for password in passwords {
        match ask(
            &mut caller,
            Call::Login {
                user: user.into(),
                password: password.clone(),
            },
        )? {
            Answer::Ok(_) => {
                refused = None;
                break;
            }
            answer => refused = Some(answer),
        }
    }
    match refused {
        Some(answer) if answer.not_done() == Some("bad_credentials") => return Ok(()),
        Some(answer) => return Err(failed(&format!("{answer:?}"))),
        None => {}
    }
    let at = recorder.moment();
    let mut messages: Vec<Message> = Vec::new();
    loop {
        let after = messages.last().map_or(0, |message| message.id);
        match ask(
            &mut caller,
            Call::Sync {
                after,
                limit: Some(PAGE),
                linear: true,
            },
        )? {
            Answer::Ok(Reply::Page {
                messages: page,
                more,
            }) => {
                let came = !page.is_empty();
                messages.extend(page);
                if !more || !came {
                    break;
                }
            }
            answer => return Err(failed(&format!("{answer:?}"))),
        }
    }
    recorder.mailbox(user, at, messages);
    Ok(())
}

/// The tables of all nodes at one applied index.
fn take_rows(cluster: &Cluster, recorder: &Recorder) {
    let applied = || -> Vec<String> {
        let query = "SELECT applied_index FROM node_state";
        cluster
            .numbers()
            .iter()
            .map(|n| Rows::read(&cluster.database(*n), query).single().to_owned())
            .collect()
    };
    let rows = wait_for(
        "the same applied index on all nodes, and time to read their rows",
        LONG,
        || {
            let before = applied();
            if before.iter().any(|index| *index != before[0]) {
                return None;
            }
            let mut rows = Vec::new();
            for n in cluster.numbers() {
                rows.extend(TABLES_THAT_MUST_AGREE.map(|table| (n, table, cluster.rows(n, table))));
            }
            (applied() == before).then_some(rows)
        },
    );
    for (node, table, rows) in rows {
        recorder.rows(
            node,
            table,
            rows.rows.iter().map(|row| row.join("|")).collect(),
        );
    }
}

/// Panics in a daemon's log: it may have gone on, but nothing that the storm does justifies one.
fn panics(cluster: &Cluster) -> Vec<String> {
    let of = |n: u16| {
        let log = cluster.node(n).log();
        let found = log
            .lines()
            .filter(|line| line.contains("panicked at"))
            .map(|line| format!("node {n}: {line}"));
        found.collect::<Vec<_>>()
    };
    cluster.numbers().into_iter().flat_map(of).collect()
}

/// Writes a history as JSON lines.
pub(super) fn write(history: &History, to: &Path) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(to)?);
    history.write_lines(&mut file)?;
    std::io::Write::flush(&mut file)
}
