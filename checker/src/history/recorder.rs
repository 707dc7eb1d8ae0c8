//! Takes a history down while it happens, from as many threads as there are clients. Moments are given out by one
//! counter: an attempt that was completed before another was invoked has the smaller tick, on any connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Answer, Attempt, Call, Event, FaultRecord, History, KeptUp, Mailbox, Message, Moment, Record,
    Reply, Rows, Shown,
};

type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

#[derive(Default)]
struct State {
    ticks: u64,
    clients: u64,
    connections: u64,
    attempts: u64,
    acknowledged: usize,
    /// Begun and not completed.
    open: BTreeMap<u64, Attempt>,
    history: History,
}

/// Takes down a history; clones share it.
#[derive(Clone)]
pub struct Recorder {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

/// One client of the history.
#[derive(Debug, Clone)]
pub struct RecordingClient {
    recorder: Recorder,
    client: u64,
}

/// One connection of one client. The writer of the connection holds it, so that sequence and order agree.
#[derive(Debug)]
pub struct RecordingConnection {
    recorder: Recorder,
    client: u64,
    connection: u64,
    node: u16,
    sequence: u64,
}

/// An attempt that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use = "it is to be completed; what is not, counts as unanswered"]
pub struct Open(u64);

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new()
    }
}

impl Recorder {
    /// Begins a history whose µs count from now.
    pub fn new() -> Recorder {
        let began = std::time::Instant::now();
        Recorder::with_clock(move || u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Begins a history on another clock, µs; virtual time in a simulation.
    pub fn with_clock(us: impl Fn() -> u64 + Send + Sync + 'static) -> Recorder {
        Recorder {
            clock: Arc::new(us),
            state: Arc::default(),
        }
    }

    /// One more client.
    pub fn client(&self) -> RecordingClient {
        let mut state = self.lock();
        state.clients += 1;
        RecordingClient {
            recorder: self.clone(),
            client: state.clients,
        }
    }

    /// Now.
    pub fn moment(&self) -> Moment {
        self.tick(&mut self.lock())
    }

    /// What was done to the cluster.
    pub fn fault(&self, what: impl Into<String>) {
        let mut state = self.lock();
        let at = self.tick(&mut state);
        state.history.push(Record::Fault(FaultRecord {
            at,
            what: what.into(),
        }));
    }

    /// A mailbox in the end: all pages of a linear `sync` from 0 by `user`. `at` is before the first was asked for.
    pub fn mailbox(&self, user: &str, at: Moment, messages: Vec<Message>) {
        self.lock().history.push(Record::Mailbox(Mailbox {
            user: user.to_owned(),
            at,
            messages,
        }));
    }

    /// A table of a node in the end. To be recorded once all nodes have applied the same.
    pub fn rows(&self, node: u16, table: &str, rows: Vec<String>) {
        self.lock().history.push(Record::Rows(Rows {
            node,
            table: table.to_owned(),
            rows,
        }));
    }

    /// How many sends were answered with `ok` so far.
    pub fn acknowledged(&self) -> usize {
        self.lock().acknowledged
    }

    /// The history so far. What is under way counts as unanswered.
    pub fn finish(&self) -> History {
        let state = self.lock();
        let mut history = state.history.clone();
        history.attempts.extend(state.open.values().cloned());
        history
    }

    fn tick(&self, state: &mut State) -> Moment {
        state.ticks += 1;
        Moment {
            tick: state.ticks,
            us: (self.clock)(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecordingClient {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.client
    }

    /// One more connection, to this node.
    pub fn connect(&self, node: u16) -> RecordingConnection {
        let mut state = self.recorder.lock();
        state.connections += 1;
        let connection = state.connections;
        RecordingConnection {
            recorder: self.recorder.clone(),
            client: self.client,
            connection,
            node,
            sequence: 0,
        }
    }

    /// The claim that this client was shown every message to `user` with an id over `after` that was acknowledged by
    /// now. Only for a client that was told to take in everything, and has had a linear answer since.
    pub fn kept_up(&self, user: &str, after: u64) {
        let mut state = self.recorder.lock();
        let at = self.recorder.tick(&mut state);
        state.history.push(Record::KeptUp(KeptUp {
            client: self.client,
            user: user.to_owned(),
            after,
            at,
        }));
    }
}

impl RecordingConnection {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.connection
    }

    /// To be called just before the request is written. `user`: whose session the connection has.
    pub fn invoke(&mut self, user: Option<&str>, call: Call) -> Open {
        self.sequence += 1;
        let mut state = self.recorder.lock();
        let invoked = self.recorder.tick(&mut state);
        state.attempts += 1;
        let open = state.attempts;
        let attempt = Attempt {
            client: self.client,
            connection: self.connection,
            node: self.node,
            sequence: self.sequence,
            user: user.map(str::to_owned),
            call,
            invoked,
            completed: None,
            answer: Answer::Nothing,
        };
        state.open.insert(open, attempt);
        Open(open)
    }

    /// To be called just after the answer was read, or once it is clear that none will come.
    pub fn complete(&self, open: Open, answer: Answer) {
        let mut state = self.recorder.lock();
        let now = self.recorder.tick(&mut state);
        if let Some(mut attempt) = state.open.remove(&open.0) {
            state.acknowledged += usize::from(matches!(answer, Answer::Ok(Reply::Sent { .. })));
            attempt.completed = (answer != Answer::Nothing).then_some(now);
            attempt.answer = answer;
            state.history.push(Record::Attempt(attempt));
        }
    }

    /// To be called just after an event was read.
    pub fn shown(&self, event: Event) {
        let mut state = self.recorder.lock();
        let at = self.recorder.tick(&mut state);
        let (client, connection) = (self.client, self.connection);
        state.history.push(Record::Shown(Shown {
            client,
            connection,
            at,
            event,
        }));
    }

    /// [`RecordingClient::kept_up`] of the client that this connection is of.
    pub fn kept_up(&self, user: &str, after: u64) {
        RecordingClient {
            recorder: self.recorder.clone(),
            client: self.client,
        }
        .kept_up(user, after);
    }
}
