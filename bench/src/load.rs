//! Throughput and latency of sends: many connections, each with a number of sends outstanding, for a while; what it
//! cost the servers; and the proof that everything acknowledged is there exactly once, also after all nodes were
//! killed. Starts no servers: its caller does, and says where they are.
//!
//! - [`drive`]: the load itself, the same for every [`Subject`].
//! - [`load_users`]: accounts and their sessions; [`messagebase`]: a cluster as a [`Subject`].
//! - [`figures`]: what a round and several rounds come to; [`compare`]: two systems side by side.
//! - [`proof`]: reads back what was acknowledged.
//! - [`buffered`]: work on many items, some of them at a time.

pub mod buffered;
pub mod compare;
pub mod drive;
pub mod figures;
pub mod load_users;
pub mod messagebase;
pub mod proof;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::measure::{
    Counters, Memory, Ticks, Usage, directory_bytes, memory, mib, usage, usage_of_this,
};
use drive::{Done, Link, Load, Worked};
use figures::{Figures, Point};

/// The longest stretch of silence before the next line of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Why a measurement came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A server can't be reached, or the wrong one answers.
    #[error("failed to reach {who}: {why}")]
    Unreachable {
        /// Which.
        who: String,
        /// The reason.
        why: String,
    },
    /// A server answered no, or with nonsense.
    #[error("{0}")]
    Refused(String),
    /// Sends failed while none should: the figures would be worthless.
    #[error("{failed} of the connections failed under load; the first: {first}")]
    Failing {
        /// Connections.
        failed: usize,
        /// What the first one said.
        first: String,
    },
    /// What was acknowledged is not there exactly once.
    #[error("the proof failed: {0}")]
    Disproved(String),
    /// `/proc` or a data directory can't be read.
    #[error("failed to read what the servers use: {0}")]
    Measure(#[from] std::io::Error),
    /// A server's counters can't be read.
    #[error(transparent)]
    Counters(#[from] crate::measure::CountersError),
}

/// Where the clients connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// All to the leader.
    Leader,
    /// In turn to all nodes.
    Spread,
}

/// What a round is like.
#[derive(Debug, Clone, Serialize)]
pub struct Shape {
    /// Connections, each with a session of its own.
    pub connections: usize,
    /// Sends that a connection has outstanding; 1 is a closed loop.
    pub outstanding: usize,
    /// Where they connect.
    pub place: Place,
}

/// How a round is timed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Timing {
    /// Load before the measuring begins, ms.
    pub warm_up_ms: u64,
    /// The measured stretch, ms.
    pub measured_ms: u64,
}

/// A server process under measurement.
#[derive(Debug, Clone)]
pub struct Server {
    /// Number of the node.
    pub node: u16,
    /// Its process.
    pub pid: u32,
    /// Where it keeps its data.
    pub data_dir: PathBuf,
    /// `HOST:PORT` of its counters, if it has any.
    pub metrics: Option<String>,
}

/// A system under load.
#[allow(
    async_fn_in_trait,
    reason = "used with known types inside this crate's callers; nobody needs it to be Send"
)]
pub trait Subject {
    /// How a client calls.
    type Link: Link;
    /// For tables: `messagebase`, `etcd`.
    fn name(&self) -> &'static str;
    /// Its processes.
    fn servers(&self) -> &[Server];
    /// Counters whose sum counts the commits that are synced to disk, one fsync each.
    fn sync_counters(&self) -> &'static [&'static str];
    /// Opens the connections of a round.
    async fn links(
        &mut self,
        shape: &Shape,
        say: Say<'_>,
    ) -> Result<Vec<Arc<Self::Link>>, LoadError>;
    /// Sends that were asked again under the same key since the links were opened, because no majority had answered in
    /// time; `None` where nobody counts them.
    fn repeated(&self) -> Option<u64> {
        None
    }
    /// Takes note of what was acknowledged.
    fn absorb(&mut self, worked: Vec<Worked>);
}

/// Where progress goes, a line at a time.
pub type Say<'a> = &'a (dyn Fn(&str) + Sync);

/// What was used up to now.
struct Sample {
    /// In the order of the servers.
    servers: Vec<Spent>,
    clients: Usage,
    machine: Ticks,
}

/// What one server used up to now.
#[derive(Clone, Copy)]
struct Spent {
    /// `None`: it is gone.
    usage: Option<Usage>,
    syncs: Option<f64>,
}

async fn sample<S: Subject>(subject: &S) -> Result<Sample, LoadError> {
    let mut servers = Vec::new();
    for server in subject.servers() {
        servers.push(used_by(server, subject.sync_counters()).await?);
    }
    Ok(Sample {
        servers,
        clients: usage_of_this()?,
        machine: Ticks::now(),
    })
}

async fn used_by(server: &Server, sync_counters: &[&str]) -> Result<Spent, LoadError> {
    let Some(usage) = usage(server.pid)? else {
        return Ok(Spent {
            usage: None,
            syncs: None,
        });
    };
    let syncs = match &server.metrics {
        None => None,
        Some(address) => {
            let counters = Counters::read(address).await?;
            sync_counters
                .iter()
                .map(|name| counters.value(name))
                .sum::<Option<f64>>()
        }
    };
    Ok(Spent {
        usage: Some(usage),
        syncs,
    })
}

/// What all servers used between two samples: usage and syncs, and how many are missing because they ended.
fn spent(before: &Sample, after: &Sample) -> (Usage, Option<f64>, usize) {
    let (mut sum, mut syncs, mut gone) = (Usage::default(), Some(0.0), 0);
    for (before, after) in before.servers.iter().zip(&after.servers) {
        let Some((from, to)) = before.usage.zip(after.usage) else {
            gone += 1;
            continue;
        };
        sum = sum.and(to.since(from));
        syncs = syncs
            .zip(after.syncs.zip(before.syncs))
            .map(|(sum, (to, from))| sum + to - from);
    }
    (sum, syncs, gone)
}

/// One round: connects, warms up, measures, disconnects.
///
/// # Errors
/// See [`LoadError`].
pub async fn round<S: Subject>(
    subject: &mut S,
    shape: &Shape,
    timing: Timing,
    say: Say<'_>,
) -> Result<Figures, LoadError> {
    let links = subject.links(shape, say).await?;
    let load = Load::start(&links, shape.outstanding);
    let name = format!(
        "{}, {} x {}",
        subject.name(),
        shape.connections,
        shape.outstanding
    );
    load.pass(
        Duration::from_millis(timing.warm_up_ms),
        PROGRESS_EVERY,
        |_| say(&format!("{name}: warming up")),
    )
    .await;
    let before = sample(subject).await?;
    let measured = load.begin();
    load.pass(
        Duration::from_millis(timing.measured_ms),
        PROGRESS_EVERY,
        |per_second| {
            say(&format!("{name}: {per_second:.0} a second"));
        },
    )
    .await;
    let elapsed = load.end(measured);
    let after = sample(subject).await?;
    let done = load.finish().await;
    if let Some(first) = done.first_failure {
        return Err(LoadError::Failing {
            failed: done.failed,
            first,
        });
    }
    let figures = figures(subject, &name, elapsed, &done, &before, &after, say)?;
    subject.absorb(done.worked);
    Ok(figures)
}

/// What the round's samples say, a send.
fn figures<S: Subject>(
    subject: &S,
    name: &str,
    elapsed: Duration,
    done: &Done,
    before: &Sample,
    after: &Sample,
    say: Say<'_>,
) -> Result<Figures, LoadError> {
    let held: Vec<Option<Memory>> = subject
        .servers()
        .iter()
        .map(|s| memory(s.pid))
        .collect::<Result<_, _>>()?;
    let held = || held.iter().flatten();
    let disk: Vec<u64> = subject
        .servers()
        .iter()
        .map(|s| directory_bytes(&s.data_dir))
        .collect::<Result<_, _>>()?;
    #[allow(
        clippy::cast_precision_loss,
        reason = "counts of one round are far below 2^52"
    )]
    let answered = done.latencies.len() as f64;
    let each = |total: f64| {
        if answered > 0.0 {
            total / answered
        } else {
            0.0
        }
    };
    let (servers, syncs, gone) = spent(before, after);
    if gone > 0 {
        say(&format!(
            "{name}: {gone} of the nodes ended meanwhile; what they used is not counted"
        ));
    }
    let clients = after.clients.since(before.clients);
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    #[allow(clippy::cast_precision_loss, reason = "as above")]
    Ok(Figures {
        per_second: answered / elapsed.as_secs_f64(),
        p50_ms: done.latencies.ms_at(0.5),
        p90_ms: done.latencies.ms_at(0.9),
        p99_ms: done.latencies.ms_at(0.99),
        p999_ms: done.latencies.ms_at(0.999),
        max_ms: done.latencies.ms_at(1.0),
        server_cpu_us: each(micros(servers.cpu)),
        client_cpu_us: each(micros(clients.cpu)),
        synced_commits: syncs.map(each),
        write_calls: each(servers.write_calls as f64),
        storage_bytes: each(servers.storage_bytes as f64),
        memory_mib: held().map(|m| mib(m.now)).fold(0.0, f64::max),
        memory_peak_mib: held().map(|m| mib(m.peak)).fold(0.0, f64::max),
        repeated: subject.repeated(),
        stolen_percent: after.machine.stolen_since(before.machine),
        disk_mib: disk.iter().map(|bytes| mib(*bytes)).fold(0.0, f64::max),
    })
}

/// Every shape, `rounds` times.
///
/// # Errors
/// See [`LoadError`].
pub async fn measure<S: Subject>(
    subject: &mut S,
    shapes: &[Shape],
    timing: Timing,
    rounds: usize,
    say: Say<'_>,
) -> Result<Vec<Point>, LoadError> {
    let mut points = Vec::with_capacity(shapes.len());
    for shape in shapes {
        let mut figures = Vec::with_capacity(rounds);
        for number in 1..=rounds {
            let one = round(subject, shape, timing, say).await?;
            say(&format!(
                "{}: round {number} of {rounds}: {one}",
                subject.name()
            ));
            figures.push(one);
        }
        points.push(Point::new(subject.name(), shape.clone(), figures));
    }
    Ok(points)
}
