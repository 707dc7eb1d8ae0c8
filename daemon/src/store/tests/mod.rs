//! Tests of the store on real files. `Fixture` is a directory, a store, and its writer, which a test drives by hand (as
//! the simulation does) or runs on its thread.

mod backup;
mod install;
mod log;
mod opening;
mod segments;

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::change::{Change, Envelope, LOG_VERSION, Outcome, Secrets};
use crate::entry::{LogId, LogPayload, LogRow};
use crate::state::effect::Effect;

/// Longer than any disk takes. A test that waits this long has failed.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Heard {
    pub effects: Mutex<Vec<Effect>>,
    pub resyncs: Mutex<u32>,
}

impl EffectSink for Heard {
    fn publish(&self, effects: Vec<Effect>) {
        self.effects.lock().unwrap().extend(effects);
    }
    fn resync(&self) {
        *self.resyncs.lock().unwrap() += 1;
    }
}

pub(super) struct Fixture {
    pub dir: Arc<TempDir>,
    pub heard: Arc<Heard>,
}

impl Fixture {
    pub fn new() -> Fixture {
        Fixture {
            dir: Arc::new(TempDir::new().unwrap()),
            heard: Arc::default(),
        }
    }

    pub fn options(&self) -> StoreOptions {
        StoreOptions {
            dir: self.dir.path().join("node-1"),
            node: 1,
            readers: 2,
            merge_at: 4,
            // A few entries fill a segment.
            change_log_bytes: 3_000,
            effects: self.heard.clone(),
        }
    }

    pub fn open(&self) -> Driven {
        let (store, writer) = Store::open(self.options()).unwrap();
        Driven {
            store,
            writer,
            dir: self.dir.clone(),
        }
    }
}

/// A store whose writer steps when the test says so.
pub(super) struct Driven {
    pub store: Store,
    pub writer: Writer,
    /// Removed with its last user.
    pub dir: Arc<TempDir>,
}

pub(super) type Answer = Receiver<Result<(), StoreError>>;

pub(super) fn done() -> (BoxedDone<()>, Answer) {
    let (sender, receiver) = sync_channel(1);
    (
        Box::new(move |result| sender.send(result).unwrap()),
        receiver,
    )
}

/// Runs a future that is ready at once: in these tests the store's queue is never full.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

impl Driven {
    pub fn step(&mut self) -> Result<(), StoreError> {
        let job = now(self.writer.recv()).unwrap();
        self.writer.step(job)
    }

    /// Submits a job and carries it out.
    pub fn run(&mut self, job: impl FnOnce(BoxedDone<()>) -> Job) -> Result<(), StoreError> {
        let (done, answer) = done();
        now(self.store.submit(job(done)))?;
        let stepped = self.step();
        answer.recv_timeout(DEADLINE).unwrap().and(stepped)
    }

    pub fn append(&mut self, rows: Vec<LogRow>) {
        self.run(|done| Job::Append { rows, done }).unwrap();
    }

    /// Applies rows and returns their outcomes.
    pub fn apply(&mut self, rows: Vec<LogRow>) -> Vec<Outcome> {
        let outcomes: Arc<Mutex<Vec<Outcome>>> = Arc::default();
        let items = rows
            .into_iter()
            .map(|row| {
                let outcomes = outcomes.clone();
                let respond = Box::new(move |outcome| outcomes.lock().unwrap().push(outcome));
                ApplyItem {
                    row,
                    respond: Some(respond as Box<dyn FnOnce(Outcome) + Send>),
                }
            })
            .collect();
        self.run(|done| Job::Apply { items, done }).unwrap();
        outcomes.lock().unwrap().clone()
    }

    pub fn log(&self, range: std::ops::Range<u64>) -> Vec<u64> {
        self.store
            .read_log(range, usize::MAX)
            .unwrap()
            .into_iter()
            .map(|row| row.id.index)
            .collect()
    }

    pub fn count(&self, sql: &str) -> u64 {
        u64::try_from(self.query::<i64>(sql)).unwrap()
    }

    pub fn query<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        self.store
            .readers()
            .with(|conn| conn.query_row(sql, [], |row| row.get(0)))
            .unwrap()
    }
}

pub(super) fn id(term: u64, index: u64) -> LogId {
    LogId {
        term,
        leader: 65_537,
        index,
    }
}

pub(super) fn blank(term: u64, index: u64) -> LogRow {
    LogRow {
        id: id(term, index),
        payload: LogPayload::Blank,
    }
}

pub(super) fn change(index: u64, body: Change, secrets: Option<Secrets>) -> LogRow {
    let envelope = Envelope {
        v: LOG_VERSION,
        at: 1_000 + index,
        actor: None,
        body,
        secrets,
    };
    LogRow {
        id: id(1, index),
        payload: LogPayload::Change(Arc::new(envelope)),
    }
}

pub(super) fn register(index: u64, name: &str) -> LogRow {
    let secrets = Secrets {
        password_hash: Some("$argon2id$secret".into()),
        token_hash: None,
    };
    change(
        index,
        Change::Register {
            name: name.into(),
            key: format!("k{index}"),
            by_operator: false,
        },
        Some(secrets),
    )
}
