//! Sends while others log in: the same load without and with connections that do nothing but log in, with right and
//! with wrong passwords, to the node that the senders use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use messagebase_client::connection::CallError;
use messagebase_protocol::code::Code;
use messagebase_protocol::json::{LoggedIn, Op};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::load::figures::{Figures, Point};
use crate::load::load_users::{ClusterAccess, LoadUsers};
use crate::load::messagebase::{Messagebase, leader_at};
use crate::load::{LoadError, Say, Shape, Subject, Timing, round};

/// Accounts that log in, over and over.
pub const ACCOUNTS: usize = 32;
/// A login waits for those before it.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a refusal that doesn't name one, and after a connection that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause that a refusal can ask for and get: this is not a polite client.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Answers up to now.
#[derive(Debug, Default)]
struct Counters {
    logged_in: AtomicU64,
    wrong: AtomicU64,
    busy: AtomicU64,
    rate_limited: AtomicU64,
    failed: AtomicU64,
}

/// Answers to the storm.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Answers {
    /// Right passwords that began a session.
    pub logged_in: u64,
    /// Wrong passwords that were hashed and refused.
    pub wrong: u64,
    /// Refused because too many were waiting.
    pub busy: u64,
    /// Refused because too many had failed.
    pub rate_limited: u64,
    /// Connections that were lost, answers that did not come, other refusals.
    pub failed: u64,
    /// Passwords checked a second.
    pub checked_per_second: f64,
}

/// Connections that log in. They end when it is dropped.
pub struct Storm {
    counters: Arc<Counters>,
    begun: Instant,
    _tasks: JoinSet<()>,
}

impl Storm {
    /// Begins, on `connections` connections to the node in that place.
    pub fn start(
        access: &ClusterAccess,
        node: usize,
        users: &LoadUsers,
        connections: usize,
    ) -> Storm {
        let counters = Arc::new(Counters::default());
        let mut tasks = JoinSet::new();
        let (accounts, password) = (users.recipients(), users.password());
        for at in 0..connections {
            let user = accounts[at % accounts.len()].clone();
            tasks.spawn(log_in_for_ever(
                access.clone(),
                node,
                user,
                password.to_owned(),
                counters.clone(),
            ));
        }
        Storm {
            counters,
            begun: Instant::now(),
            _tasks: tasks,
        }
    }

    /// Ends it.
    pub fn end(self) -> Answers {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (logged_in, wrong) = (of(&self.counters.logged_in), of(&self.counters.wrong));
        #[allow(
            clippy::cast_precision_loss,
            reason = "a count of logins is far below 2^52"
        )]
        let checked_per_second = (logged_in + wrong) as f64 / self.begun.elapsed().as_secs_f64();
        Answers {
            logged_in,
            wrong,
            busy: of(&self.counters.busy),
            rate_limited: of(&self.counters.rate_limited),
            failed: of(&self.counters.failed),
            checked_per_second,
        }
    }
}

/// A wrong password, then the right one, then a new connection.
async fn log_in_for_ever(
    access: ClusterAccess,
    node: usize,
    user: String,
    password: String,
    counters: Arc<Counters>,
) {
    loop {
        let Ok(connection) = access.connect(node).await else {
            counters.failed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let mut wrong = true;
        loop {
            let password = if wrong {
                format!("not {password}")
            } else {
                password.clone()
            };
            let op = Op::Login {
                user: user.clone(),
                password,
            };
            let (counter, pause) = match connection.call::<LoggedIn>(op, LOGIN_TIMEOUT).await {
                Ok(_) => (&counters.logged_in, None),
                Err(CallError::Refused(failure)) => {
                    let pause = failure
                        .retry_after_ms
                        .map_or(PAUSE, Duration::from_millis)
                        .min(PAUSE_MAX);
                    match failure.code {
                        Code::BadCredentials => (&counters.wrong, None),
                        Code::Busy => (&counters.busy, Some(pause)),
                        Code::RateLimited => (&counters.rate_limited, Some(pause)),
                        _ => (&counters.failed, Some(pause)),
                    }
                }
                Err(_) => (&counters.failed, Some(PAUSE)),
            };
            counter.fetch_add(1, Ordering::Relaxed);
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            } else if !wrong {
                break;
            }
            wrong = !wrong;
            if connection.is_closed() {
                break;
            }
        }
    }
}

/// Sends without and with the storm.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Connections that log in.
    pub storming: usize,
    /// Without.
    pub calm: Point,
    /// With.
    pub storm: Point,
    /// What the storm was answered, in each of its rounds.
    pub answers: Vec<Answers>,
    /// The median p50 with the storm by the median without.
    pub p50_ratio: f64,
    /// The same of p99.
    pub p99_ratio: f64,
}

/// Measures in alternating rounds.
///
/// # Errors
/// See [`LoadError`].
pub async fn measure(
    subject: &mut Messagebase,
    shape: &Shape,
    timing: Timing,
    rounds: usize,
    storming: usize,
    say: Say<'_>,
) -> Result<Report, LoadError> {
    let access = subject.users().access().clone();
    let stormers = LoadUsers::gather(access.clone(), ACCOUNTS, say).await?;
    let (mut calm, mut stormy, mut answers): (Vec<Figures>, Vec<Figures>, Vec<Answers>) =
        Default::default();
    for number in 1..=rounds {
        let one = round(subject, shape, timing, say).await?;
        say(&format!("round {number} of {rounds}, calm: {one}"));
        calm.push(one);
        let storm = Storm::start(&access, leader_at(&access).await?, &stormers, storming);
        let one = round(subject, shape, timing, say).await;
        let answered = storm.end();
        let one = one?;
        say(&format!(
            "round {number} of {rounds}, {:.0} logins/s: {one}",
            answered.checked_per_second
        ));
        stormy.push(one);
        answers.push(answered);
    }
    let calm = Point::new(subject.name(), shape.clone(), calm);
    let storm = Point::new(subject.name(), shape.clone(), stormy);
    let by = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    Ok(Report {
        storming,
        p50_ratio: by(storm.median.p50_ms, calm.median.p50_ms),
        p99_ratio: by(storm.median.p99_ms, calm.median.p99_ms),
        calm,
        storm,
        answers,
    })
}
