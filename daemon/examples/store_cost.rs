//! What one send costs the store of one node, in CPU time of its writer: `cargo run --release -p messagebase-daemon
//! --example store_cost -- [messages [batch [users]]]`. Appends and applies as Raft would ask for them, without Raft,
//! sockets or TLS. Prints µs of CPU a message, apart for the log and for the state.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]
#![allow(clippy::expect_used, reason = "a measurement that can't go on ends")]

use std::sync::Arc;

use messagebase_daemon::change::{Change, Envelope, LOG_VERSION, Outcome, Secrets};
use messagebase_daemon::entry::{LogId, LogPayload, LogRow};
use messagebase_daemon::state::effect::Effect;
use messagebase_daemon::store::{
    ApplyItem, EffectSink, Job, MERGE_AT, Store, StoreOptions, Writer,
};

/// Milliseconds since 1970 of the first message.
const BEGAN_AT: u64 = 1_700_000_000_000;
/// Messages in a millisecond: what a cluster takes in, so that as many keys share their first digits as in service.
const MESSAGES_PER_MS: u64 = 16;
/// A client makes a key this many milliseconds before the store gets the message, at most.
const ON_THE_WAY_MS: u64 = 8;

struct Nobody;

impl EffectSink for Nobody {
    fn publish(&self, _: Vec<Effect>) {}
    fn resync(&self) {}
}

struct Bench {
    store: Store,
    writer: Writer,
    runtime: tokio::runtime::Runtime,
    index: u64,
    log_us: f64,
    apply_us: f64,
}

/// Keys of sends: as our clients make them unless the environment has `KEYS=random`.
struct Keys {
    time_ordered: bool,
    random: fastrand::Rng,
}

impl Keys {
    fn from_environment() -> Keys {
        let random = std::env::var("KEYS").is_ok_and(|keys| keys == "random");
        Keys {
            time_ordered: !random,
            // The same keys in each run.
            random: fastrand::Rng::with_seed(1),
        }
    }

    /// The time in milliseconds and 80 random bits, as `client/src/random.rs` makes them. The keys of one moment come
    /// in any order, because messages are on their way for different times.
    fn next(&mut self, number: u64) -> String {
        let random = self.random.u128(..);
        if self.time_ordered {
            let at = BEGAN_AT + number / MESSAGES_PER_MS - self.random.u64(..ON_THE_WAY_MS);
            format!("{:032x}", u128::from(at) << 80 | random >> 48)
        } else {
            format!("{random:032x}")
        }
    }
}

/// CPU time of this thread, µs.
fn cpu_us() -> f64 {
    let t = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("Linux has it");
    t.tv_sec() as f64 * 1e6 + t.tv_nsec() as f64 / 1e3
}

impl Bench {
    fn rows(&mut self, changes: Vec<(Option<u64>, Change, Option<Secrets>)>) -> Vec<LogRow> {
        changes
            .into_iter()
            .map(|(actor, body, secrets)| {
                self.index += 1;
                let at = BEGAN_AT + self.index;
                let envelope = Envelope {
                    v: LOG_VERSION,
                    at,
                    actor,
                    body,
                    secrets,
                };
                let id = LogId {
                    term: 1,
                    leader: 65_537,
                    index: self.index,
                };
                LogRow {
                    id,
                    payload: LogPayload::Change(Arc::new(envelope)),
                }
            })
            .collect()
    }

    fn job(&mut self, job: Job) -> f64 {
        self.runtime
            .block_on(self.store.submit(job))
            .expect("the writer lives");
        let next = self
            .runtime
            .block_on(self.writer.recv())
            .expect("just submitted");
        let before = cpu_us();
        self.writer.step(next).expect("the disk works");
        cpu_us() - before
    }

    fn carry_out(&mut self, changes: Vec<(Option<u64>, Change, Option<Secrets>)>) {
        let rows = self.rows(changes);
        let done = || Box::new(|result: Result<(), _>| result.expect("durable"));
        self.log_us += self.job(Job::Append {
            rows: rows.clone(),
            done: done(),
        });
        let items = rows.into_iter().map(|row| {
            let respond = |outcome| {
                assert!(
                    !matches!(outcome, Outcome::Refused(_) | Outcome::Rejected),
                    "{outcome:?}"
                )
            };
            ApplyItem {
                row,
                respond: Some(Box::new(respond)),
            }
        });
        let items = items.collect();
        self.apply_us += self.job(Job::Apply {
            items,
            done: done(),
        });
    }
}

/// Accounts with a session each, and queues without limits.
fn register(bench: &mut Bench, users: usize) {
    let settings = messagebase_daemon::change::Settings {
        queued_messages_per_user: u32::MAX,
        queued_bytes_per_user: u64::MAX >> 1,
        ..Default::default()
    };
    bench.carry_out(vec![(None, Change::Settings(settings), None)]);
    for user in 1..=users {
        let hash = Some(
            "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2E$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g".into(),
        );
        let register = Change::Register {
            name: format!("user-{user}"),
            key: format!("k{user}"),
            by_operator: false,
        };
        let login = Change::Login {
            user: user as u64,
            credential_version: 1,
        };
        let mut token_hash = [0; 32];
        token_hash[..8].copy_from_slice(&(user as u64).to_be_bytes());
        bench.carry_out(vec![
            (
                None,
                register,
                Some(Secrets {
                    password_hash: hash,
                    token_hash: None,
                }),
            ),
            (
                None,
                login,
                Some(Secrets {
                    password_hash: None,
                    token_hash: Some(token_hash),
                }),
            ),
        ]);
    }
}

fn main() {
    let args: Vec<usize> = std::env::args()
        .skip(1)
        .map(|a| a.parse().expect("a number"))
        .collect();
    let arg = |n: usize, default| args.get(n).copied().unwrap_or(default);
    let (messages, batch, users) = (arg(0, 100_000), arg(1, 64), arg(2, 64));
    let dir = tempfile::tempdir().expect("a directory");
    let options = StoreOptions {
        dir: dir.path().join("node-1"),
        node: 1,
        readers: 1,
        merge_at: MERGE_AT,
        change_log_bytes: 64 << 20,
        effects: Arc::new(Nobody),
    };
    let (store, writer) = Store::open(options).expect("a blank store opens");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let mut bench = Bench {
        store,
        writer,
        runtime,
        index: 0,
        log_us: 0.0,
        apply_us: 0.0,
    };
    register(&mut bench, users);
    if let Ok(sql) = std::env::var("LOCAL_SQL") {
        let write = Box::new(move |conn: &rusqlite::Connection| conn.execute_batch(&sql));
        bench.job(Job::Local {
            write,
            done: Box::new(|result| result.expect("the SQL is right")),
        });
    }
    (bench.log_us, bench.apply_us) = (0.0, 0.0);
    let mut keys = Keys::from_environment();
    let began = std::time::Instant::now();
    let mut sent = 0;
    while sent < messages {
        let changes = (0..batch)
            .map(|n| {
                let number = (sent + n) as u64;
                let from = number % users as u64 + 1;
                let to = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % users as u64 + 1;
                let key = keys.next(number);
                let body = Change::Send {
                    user: from,
                    to: format!("user-{to}"),
                    body: "x".repeat(256),
                    key,
                };
                (Some(from), body, None)
            })
            .collect();
        bench.carry_out(changes);
        sent += batch;
    }
    let each = |us: f64| us / sent as f64;
    println!(
        "{sent} messages, batches of {batch}, {users} users: log {:.1} µs, apply {:.1} µs of CPU a message; {:.0} messages/s; {:.1} MB",
        each(bench.log_us),
        each(bench.apply_us),
        sent as f64 / began.elapsed().as_secs_f64(),
        bench.store.db_bytes() as f64 / 1e6,
    );
}
