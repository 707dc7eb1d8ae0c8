//! Clients as the contract describes them, on the real replication and state, judged by the checker over histories.
//! `client` is what a client does, `door` what a node does for it: a door and a service without sockets, fan-out and
//! argon2, made of `Replica::propose`, the read barrier and `state::read`.

mod client;
mod door;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use messagebase_checker::{History, Message, Recorder, check};
use messagebase_daemon::state::read;
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::{SimJoinHandle, SimRuntime};

use crate::cluster::Cluster;
use crate::net::Net;
use crate::rng::Rng;
use crate::run::{Ending, Judging, Workload};
use client::Client;

/// Clients of a run; the last one shares the account of the first.
const CLIENTS: usize = 4;
/// Accounts of a run.
const USERS: usize = CLIENTS - 1;
/// More than a run's mailbox holds.
const ALL: u32 = 1_000_000;
/// Tables that must agree as one line of text a row.
const TABLES: [(&str, &str); 3] = [
    (
        "users",
        "SELECT concat_ws('|', id, name, password_hash, created_at, ifnull(locked_at, '-')) FROM users",
    ),
    (
        "messages",
        "SELECT concat_ws('|', id, sender_id, recipient_id, body, sent_at, ifnull(delivered_at, '-'), key) FROM messages",
    ),
    (
        "sessions",
        "SELECT concat_ws('|', id, user_id, hex(token_hash), created_at, expires_at) FROM sessions",
    ),
];

/// A promise that the nodes break on purpose, to see that the checker finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// A repeated key is taken for a new request.
    KeyUniqueness,
    /// A linear read does not wait for what was acknowledged before it.
    StaleRead,
}

/// See the file.
#[derive(Default)]
pub struct Clients {
    defect: Option<Defect>,
    recorder: Option<Recorder>,
    over: Arc<AtomicBool>,
    running: Vec<SimJoinHandle<()>>,
    history: Option<History>,
}

impl Clients {
    /// Clients of nodes with a defect.
    pub fn of_defective(defect: Defect) -> Self {
        Clients {
            defect: Some(defect),
            ..Clients::default()
        }
    }

    /// What was asked and told, once it was judged.
    pub fn history(&self) -> Option<&History> {
        self.history.as_ref()
    }
}

fn user(number: usize) -> String {
    format!("user{}", number % USERS)
}

impl Workload for Clients {
    fn begin(&mut self, net: Net, mut rng: Rng) {
        let context = net.context.clone();
        let recorder = Recorder::with_clock(move || {
            u64::try_from(context.elapsed().as_micros()).unwrap_or(u64::MAX)
        });
        let writing = Arc::new(AtomicUsize::new(CLIENTS));
        for number in 0..CLIENTS {
            let rng = rng.fork(number as u64);
            let (over, writing) = (self.over.clone(), writing.clone());
            let client = Client::new(
                &recorder,
                number,
                user(number),
                net.clone(),
                rng,
                over,
                writing,
            );
            let client = client.with_defect(self.defect);
            self.running.push(SimRuntime::spawn(client.live()));
        }
        self.recorder = Some(recorder);
    }

    fn end(&mut self) -> Ending<'_> {
        Box::pin(async {
            self.over.store(true, Ordering::SeqCst);
            for client in self.running.drain(..) {
                client.await.expect("a client does not panic");
            }
        })
    }

    fn judge<'a>(&'a mut self, cluster: &'a Cluster) -> Judging<'a> {
        Box::pin(async move {
            let Some(recorder) = &self.recorder else {
                return Vec::new();
            };
            take_down_the_end(recorder, cluster);
            let history = recorder.finish();
            let trace = &cluster.net.context;
            trace.trace().add("attempts", history.attempts.len() as u64);
            trace
                .trace()
                .add("sends acknowledged", history.acknowledged() as u64);
            let violations = check(&history).iter().map(ToString::to_string).collect();
            self.history = Some(history);
            violations
        })
    }
}

/// Every mailbox and the nodes' files. They agree by now, so any node's file will do for the mailboxes.
fn take_down_the_end(recorder: &Recorder, cluster: &Cluster) {
    for number in 0..USERS {
        let (name, at) = (user(number), recorder.moment());
        let Some(node) = cluster.nodes.values().next() else {
            return;
        };
        let readers = node.store.readers();
        let held = readers.with(|conn| {
            let Some(account) = read::user_by_name(conn, &name)? else {
                return Ok(None);
            };
            read::sync_page(conn, readers.memtable(), account.id, 0, ALL).map(Some)
        });
        if let Some(page) = held.expect("the file is readable") {
            recorder.mailbox(&name, at, page.items.into_iter().map(record).collect());
        }
    }
    for (number, node) in &cluster.nodes {
        for (table, query) in TABLES {
            let rows = node.store.readers().with(|conn| {
                let mut statement = conn.prepare(query)?;
                let rows = statement.query_map([], |row| row.get(0))?;
                rows.collect::<Result<Vec<String>, _>>()
            });
            recorder.rows(*number, table, rows.expect("the file is readable"));
        }
    }
}

/// As the checker calls it.
fn record(m: messagebase_protocol::json::MessageRecord) -> Message {
    let messagebase_protocol::json::MessageRecord {
        id,
        from,
        to,
        body,
        sent_at,
        delivered_at,
    } = m;
    Message {
        id,
        from,
        to,
        body,
        sent_at,
        delivered_at,
    }
}
