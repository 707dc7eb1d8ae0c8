//! Senders in the background that keep a window of sends under way until their connection ends or they are stopped.
//! What they ask and are answered is taken down for the checker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use messagebase_checker::{Answer, Call, Open, Recorder, RecordingConnection, Reply};

use crate::client::TestClient;
use crate::cluster::Cluster;
use crate::wait::SHORT;

/// Sends of one connection that wait for their answer.
const WINDOW: usize = 16;
/// A node answers every send in less, if only with `no_quorum`.
const ANSWER_WITHIN: Duration = SHORT;

/// Running senders. Stopped when dropped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    recorder: Recorder,
    senders: Vec<JoinHandle<()>>,
}

impl Load {
    /// Logs each user in on a node and begins to send to `to`. The users must exist.
    #[track_caller]
    pub fn start(cluster: &Cluster, senders: &[(&str, u16)], to: &str) -> Load {
        Load::start_beside(&Recorder::new(), cluster, senders, to)
    }

    /// The same, into a history that others take part in.
    #[track_caller]
    pub fn start_beside(
        recorder: &Recorder,
        cluster: &Cluster,
        senders: &[(&str, u16)],
        to: &str,
    ) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let recorder = recorder.clone();
        let start = |(from, node): &(&str, u16)| {
            let mut client = cluster.client(*node);
            client.login(from);
            let recording = recorder.client().connect(*node);
            let (from, to, stop) = ((*from).to_owned(), to.to_owned(), Arc::clone(&stop));
            let sender = Sender {
                client,
                recording,
                from,
                to,
                stop,
            };
            std::thread::spawn(move || sender.run())
        };
        let senders = senders.iter().map(start).collect();
        Load {
            stop,
            recorder,
            senders,
        }
    }

    /// How many sends were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.recorder.acknowledged()
    }

    /// Ends the senders and returns what was taken down.
    #[track_caller]
    pub fn finish(mut self) -> Recorder {
        self.stop.store(true, Ordering::Relaxed);
        for sender in std::mem::take(&mut self.senders) {
            sender.join().expect("a sender failed");
        }
        self.recorder.clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Sender {
    client: TestClient,
    recording: RecordingConnection,
    from: String,
    to: String,
    stop: Arc<AtomicBool>,
}

impl Sender {
    fn run(mut self) {
        let mut open: VecDeque<(u64, Open, Call)> = VecDeque::new();
        let mut sequence = 0;
        loop {
            while open.len() < WINDOW && !self.stop.load(Ordering::Relaxed) {
                let call = self.message(sequence);
                sequence += 1;
                let (op, fields) = call.request();
                let begun = self.recording.invoke(Some(&self.from), call.clone());
                open.push_back((self.client.post(op, fields), begun, call));
            }
            let Some((request, begun, call)) = open.pop_front() else {
                return;
            };
            match self.client.answer(request, ANSWER_WITHIN) {
                Ok(sent) => {
                    let reply = Reply::read(&call, sent).expect("a reply to send");
                    self.recording.complete(begun, Answer::Ok(reply));
                }
                // Whatever else was under way on a lost connection stays unanswered.
                Err(refusal) if refusal.code == "lost" => return,
                Err(refusal) => {
                    self.recording
                        .complete(begun, Answer::refused(&refusal.code, &refusal.outcome));
                    assert_eq!(refusal.outcome, "unknown", "{refusal:?}");
                }
            }
        }
    }

    fn message(&self, sequence: u64) -> Call {
        let connection = self.recording.number();
        let body = format!(
            "{} over connection {connection}, number {sequence}",
            self.from
        );
        Call::Send {
            to: self.to.clone(),
            body,
            key: format!("{connection}-{sequence}"),
        }
    }
}
