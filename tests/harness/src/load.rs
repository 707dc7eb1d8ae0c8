//! Senders in the background that keep a window of sends under way until their connection ends or they are stopped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use crate::checker::{Attempt, History};
use crate::client::Client;
use crate::cluster::Cluster;

/// Sends of one connection that wait for their answer.
const WINDOW: usize = 16;
/// A node answers every send in less, if only with `no_quorum`.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Running senders. Stopped when dropped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    senders: Vec<JoinHandle<Vec<Attempt>>>,
}

impl Load {
    /// Logs each user in on a node and begins to send to `to`. The users must exist.
    #[track_caller]
    pub fn start(cluster: &Cluster, senders: &[(&str, u16)], to: &str) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let start = |(connection, (from, node)): (usize, &(&str, u16))| {
            let mut client = cluster.client(*node);
            client.login(from);
            let sender = Sender {
                client,
                from: (*from).to_owned(),
                to: to.to_owned(),
                connection,
                stop: Arc::clone(&stop),
                acknowledged: Arc::clone(&acknowledged),
            };
            std::thread::spawn(move || sender.run())
        };
        let senders = senders.iter().enumerate().map(start).collect();
        Load { stop, acknowledged, senders }
    }

    /// How many sends were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Ends the senders and returns what they tried.
    #[track_caller]
    pub fn finish(mut self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        let senders = std::mem::take(&mut self.senders);
        let attempts = senders.into_iter().flat_map(|sender| sender.join().expect("a sender failed")).collect();
        History { attempts }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Sender {
    client: Client,
    from: String,
    to: String,
    connection: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

impl Sender {
    fn run(mut self) -> Vec<Attempt> {
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut open: VecDeque<(u64, usize)> = VecDeque::new();
        loop {
            while open.len() < WINDOW && !self.stop.load(Ordering::Relaxed) {
                let attempt = self.attempt(attempts.len());
                let fields = json!({"to": attempt.to, "body": attempt.body, "key": attempt.key});
                open.push_back((self.client.post("send", fields), attempts.len()));
                attempts.push(attempt);
            }
            let Some((request, at)) = open.pop_front() else { return attempts };
            match self.client.answer(request, ANSWER_WITHIN) {
                Ok(sent) => {
                    attempts[at].acknowledged = sent["id"].as_u64();
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                // Whatever else was under way on a lost connection stays unacknowledged.
                Err(refusal) if refusal.code == "lost" => return attempts,
                Err(refusal) => assert_eq!(refusal.outcome, "unknown", "{refusal:?}"),
            }
        }
    }

    fn attempt(&self, sequence: usize) -> Attempt {
        let name = format!("{} over connection {}, number {sequence}", self.from, self.connection);
        Attempt {
            from: self.from.clone(),
            to: self.to.clone(),
            connection: self.connection,
            sequence: sequence as u64,
            key: format!("{}-{sequence}", self.connection),
            body: name,
            acknowledged: None,
        }
    }
}
