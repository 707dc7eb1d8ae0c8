//! `mbbench load`: how many sends a second, how long each takes, and what it costs the nodes.

use std::io::IsTerminal;
use std::path::Path;

use crate::load::figures::{Figures, Point};
use crate::load::messagebase::Through;
use crate::load::{self, Place, Shape, Timing};
use crate::measure::Machine;
use serde::Serialize;

use crate::bench_cluster::{BenchCluster, Proven, failed};
use crate::cli::{ClientLayer, LoadArgs, LoadShape, SendersOn};
use messagebase_ctl::error::CtlError;
use messagebase_ctl::exit::Exit;
use messagebase_ctl::output::Output;
use messagebase_ctl::table::{Column, or_none, render};

/// Connections of the shapes when none are named.
const CONNECTIONS: [u16; 5] = [1, 16, 64, 256, 1_024];
/// Rounds of each shape when their number is not named.
const ROUNDS: u32 = 3;

/// What was measured, on what, and how.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    version: &'static str,
    timing: Timing,
    rounds: usize,
    body_bytes: usize,
    through: Through,
    points: Vec<Point>,
    proof: Proven,
}

/// Runs the command.
///
/// # Errors
/// The cluster can't be made or used, a send failed, or the proof did: exit 1.
pub async fn run(
    flag: Option<&Path>,
    arguments: &LoadArgs,
    output: &Output,
) -> Result<Exit, CtlError> {
    let machine = Machine::here();
    let cluster = BenchCluster::start(flag, &arguments.place, output).await?;
    let progress = progress(output);
    let through = match arguments.through {
        ClientLayer::Connection => Through::Connection,
        ClientLayer::Client => Through::Client,
    };
    let body_bytes = usize::from(arguments.shape.body_bytes);
    let mut subject = cluster.subject(through, body_bytes, &progress).await?;
    let (shapes, timing) = (
        shapes(&arguments.shape, &CONNECTIONS),
        timing(&arguments.shape),
    );
    let rounds = arguments.shape.rounds.unwrap_or(ROUNDS) as usize;
    let points = load::measure(&mut subject, &shapes, timing, rounds, &progress)
        .await
        .map_err(failed)?;
    let proof = cluster
        .prove(&mut subject, last(&shapes)?, &progress, output)
        .await?;
    let version = env!("CARGO_PKG_VERSION");
    let report = Report {
        machine,
        version,
        timing,
        rounds,
        body_bytes,
        through,
        points,
        proof,
    };
    output.data(&report, text);
    Ok(Exit::Done)
}

/// Lines of progress, for a user at a terminal.
pub(super) fn progress(output: &Output) -> impl Fn(&str) + Sync {
    let output = *output;
    let shown = std::io::stderr().is_terminal();
    move |line: &str| {
        if shown {
            output.note(line);
        }
    }
}

pub(super) fn shapes(arguments: &LoadShape, default: &[u16]) -> Vec<Shape> {
    let place = match arguments.clients_on {
        SendersOn::Leader => Place::Leader,
        SendersOn::All => Place::Spread,
    };
    let of = |connections: &u16| Shape {
        connections: usize::from(*connections),
        outstanding: usize::from(arguments.outstanding),
        place,
    };
    let named = if arguments.connections.is_empty() {
        default
    } else {
        &arguments.connections
    };
    named.iter().map(of).collect()
}

pub(super) fn timing(arguments: &LoadShape) -> Timing {
    const SECOND_MS: u64 = 1_000;
    Timing {
        warm_up_ms: u64::from(arguments.warm_up) * SECOND_MS,
        measured_ms: u64::from(arguments.seconds) * SECOND_MS,
    }
}

/// The proof's load is the last shape's.
pub(super) fn last(shapes: &[Shape]) -> Result<&Shape, CtlError> {
    shapes
        .last()
        .ok_or_else(|| CtlError::usage("no number of connections was given"))
}

const COLUMNS: [Column; 15] = [
    ("CONNECTIONS", true),
    ("OUTSTANDING", true),
    ("SENDS/S", true),
    ("LEAST", true),
    ("MOST", true),
    ("P50 MS", true),
    ("P99 MS", true),
    ("P99.9 MS", true),
    ("SERVER µS", true),
    ("CLIENT µS", true),
    ("SYNCS", true),
    ("WRITES", true),
    ("NODE MIB", true),
    ("DISK MIB", true),
    ("STOLEN %", true),
];

fn row(point: &Point) -> Vec<String> {
    let Figures {
        p50_ms,
        p99_ms,
        p999_ms,
        server_cpu_us,
        client_cpu_us,
        write_calls,
        memory_mib,
        ..
    } = &point.median;
    let spread = &point.per_second;
    vec![
        point.shape.connections.to_string(),
        point.shape.outstanding.to_string(),
        format!("{:.0}", spread.median),
        format!("{:.0}", spread.least),
        format!("{:.0}", spread.greatest),
        format!("{p50_ms:.2}"),
        format!("{p99_ms:.2}"),
        format!("{p999_ms:.2}"),
        format!("{server_cpu_us:.0}"),
        format!("{client_cpu_us:.0}"),
        or_none(
            point
                .median
                .synced_commits
                .map(|syncs| format!("{syncs:.3}")),
        ),
        format!("{write_calls:.2}"),
        format!("{memory_mib:.0}"),
        format!("{:.0}", point.median.disk_mib),
        format!("{:.0}", point.median.stolen_percent),
    ]
}

fn text(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report.points.iter().map(row).collect();
    let mut lines = vec![render(&COLUMNS, &rows), String::new()];
    lines.push(format!(
        "Medians of {} rounds of {} s after {} s of warming up; bodies of {} bytes. Per send: processor time of all \
         nodes together and of the clients, commits synced to disk and writing system calls of all nodes. Memory and \
         disk of the largest node. Stolen: processor time that the machine's host gave to others; above a few percent \
         the figures say little.",
        report.rounds,
        report.timing.measured_ms / 1_000,
        report.timing.warm_up_ms / 1_000,
        report.body_bytes,
    ));
    lines.push(on(&report.machine));
    lines.push(proven(&report.proof));
    lines.join("\n")
}

/// The machine in a line.
pub(super) fn on(machine: &Machine) -> String {
    let Machine {
        processors,
        model,
        kernel,
        memory_mib,
        load_average,
    } = machine;
    format!(
        "Machine: {processors} x {model}, {memory_mib} MiB, Linux {kernel}; load average before: {load_average:.2}."
    )
}

/// The proof in a line.
pub(super) fn proven(proven: &Proven) -> String {
    let Proven { killed, proof } = proven;
    let after = if *killed {
        "SIGKILL of all nodes under load and their restart"
    } else {
        "the run"
    };
    format!(
        "Proof: after {after}, each of {} acknowledged messages is there, once ({} more whose answer did not arrive).",
        proof.acknowledged, proof.unanswered
    )
}
