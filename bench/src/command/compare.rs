//! `mbbench compare`: this cluster and an etcd side by side.

use std::path::Path;

use crate::etcd::Etcd;
use crate::etcd::nodes::{self, Nodes};
use crate::load::Timing;
use crate::load::compare::{Pair, side_by_side};
use crate::load::figures::Point;
use crate::load::messagebase::Through;
use crate::measure::Machine;
use serde::Serialize;

use super::load::{last, on, progress, proven, shapes, timing};
use crate::bench_cluster::{BenchCluster, Proven, failed};
use crate::cli::CompareArgs;
use messagebase_ctl::error::CtlError;
use messagebase_ctl::exit::Exit;
use messagebase_ctl::output::Output;
use messagebase_ctl::table::{Column, or_none, render};

/// Connections of the shapes when none are named: those that targets are set for.
const CONNECTIONS: [u16; 3] = [1, 64, 256];
/// Rounds of each shape when their number is not named.
const ROUNDS: u32 = 5;

/// Both systems, on what, and how.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    version: &'static str,
    etcd_version: String,
    etcd_tls: bool,
    timing: Timing,
    rounds: usize,
    body_bytes: usize,
    pairs: Vec<Pair>,
    proof: Proven,
}

/// Runs the command.
///
/// # Errors
/// There is no etcd, a cluster can't be made, a send failed, or the proof did: exit 1.
pub async fn run(
    flag: Option<&Path>,
    arguments: &CompareArgs,
    output: &Output,
) -> Result<Exit, CtlError> {
    let machine = Machine::here();
    let etcd_version = Nodes::version().ok_or_else(|| {
        CtlError::failed("no_etcd", format!("`{}` is not on PATH", nodes::PROGRAM))
            .hint("`apt-get install etcd-server` installs it on Debian; its service need not run")
    })?;
    let cluster = BenchCluster::start(flag, &arguments.place, output).await?;
    // On the same disk as our own data: it is part of what is measured.
    let beside = match cluster.directory() {
        Some(own) => tempfile::tempdir_in(own),
        None => tempfile::tempdir(),
    };
    let directory = beside
        .map_err(|e| CtlError::failed("io", "failed to make a directory for etcd").because(e))?;
    let progress = progress(output);
    let pki = (!arguments.etcd_without_tls).then(|| cluster.pki());
    let nodes = Nodes::start(directory.path(), pki, &progress)
        .await
        .map_err(failed)?;
    let body_bytes = usize::from(arguments.shape.body_bytes);
    let mut etcd = Etcd::new(nodes, body_bytes);
    let mut subject = cluster
        .subject(Through::Connection, body_bytes, &progress)
        .await?;
    let (shapes, timing) = (
        shapes(&arguments.shape, &CONNECTIONS),
        timing(&arguments.shape),
    );
    let rounds = arguments.shape.rounds.unwrap_or(ROUNDS) as usize;
    let pairs = side_by_side(&mut subject, &mut etcd, &shapes, timing, rounds, &progress)
        .await
        .map_err(failed)?;
    etcd.stop();
    let proof = cluster
        .prove(&mut subject, last(&shapes)?, &progress, output)
        .await?;
    let report = Report {
        machine,
        version: env!("CARGO_PKG_VERSION"),
        etcd_version,
        etcd_tls: !arguments.etcd_without_tls,
        timing,
        rounds,
        body_bytes,
        pairs,
        proof,
    };
    output.data(&report, text);
    Ok(Exit::Done)
}

const COLUMNS: [Column; 12] = [
    ("CONNECTIONS", true),
    ("OUTSTANDING", true),
    ("SYSTEM", false),
    ("SENDS/S", true),
    ("LEAST", true),
    ("MOST", true),
    ("P50 MS", true),
    ("P99 MS", true),
    ("SERVER µS", true),
    ("SYNCS", true),
    ("NODE MIB", true),
    ("STOLEN %", true),
];

fn row(point: &Point) -> Vec<String> {
    let (median, spread) = (&point.median, &point.per_second);
    vec![
        point.shape.connections.to_string(),
        point.shape.outstanding.to_string(),
        point.system.to_owned(),
        format!("{:.0}", spread.median),
        format!("{:.0}", spread.least),
        format!("{:.0}", spread.greatest),
        format!("{:.2}", median.p50_ms),
        format!("{:.2}", median.p99_ms),
        format!("{:.0}", median.server_cpu_us),
        or_none(median.synced_commits.map(|syncs| format!("{syncs:.3}"))),
        format!("{:.0}", median.memory_mib),
        format!("{:.0}", median.stolen_percent),
    ]
}

fn ratios(pair: &Pair) -> Vec<String> {
    let ratios = &pair.ratios;
    let times = |ratio: f64| format!("{ratio:.2}x");
    let nothing = String::new;
    vec![
        nothing(),
        nothing(),
        "ours by theirs".into(),
        times(ratios.per_second),
        nothing(),
        nothing(),
        times(ratios.p50),
        times(ratios.p99),
        times(ratios.server_cpu),
        nothing(),
        times(ratios.memory),
        nothing(),
    ]
}

fn text(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report
        .pairs
        .iter()
        .flat_map(|pair| [row(&pair.ours), row(&pair.theirs), ratios(pair)])
        .collect();
    let tls = if report.etcd_tls {
        "with TLS to clients and peers, as ours"
    } else {
        "WITHOUT TLS"
    };
    let mut lines = vec![render(&COLUMNS, &rows), String::new()];
    lines.push(format!(
        "Medians of {} alternating rounds of {} s after {} s of warming up; values of {} bytes. etcd {}, three nodes, \
         {tls}; both acknowledge what is synced to disk on a majority. Per send: processor time of all nodes \
         together, commits synced to disk. Stolen: processor time that the machine's host gave to others; above a few \
         percent only the ratios say something.",
        report.rounds,
        report.timing.measured_ms / 1_000,
        report.timing.warm_up_ms / 1_000,
        report.body_bytes,
        report.etcd_version,
    ));
    lines.push(on(&report.machine));
    lines.push(proven(&report.proof));
    lines.join("\n")
}
