//! `mbbench logins`: what a storm of logins does to those who send.

use std::path::Path;

use crate::load::figures::Point;
use crate::load::messagebase::Through;
use crate::load::{Place, Shape, Timing};
use crate::logins::{self, Answers, Report as Figures};
use crate::measure::Machine;
use serde::Serialize;

use super::load::{on, progress};
use crate::bench_cluster::{BenchCluster, failed};
use crate::cli::LoginsArgs;
use messagebase_ctl::error::CtlError;
use messagebase_ctl::exit::Exit;
use messagebase_ctl::output::Output;
use messagebase_ctl::table::{Column, render};

/// A new cluster's limits: wrong passwords are hashed, not refused unseen.
const LIMITS: [(&str, u32); 2] = [
    ("failed_logins_per_name", 1_000_000),
    ("failed_logins_per_address", 1_000_000),
];

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    version: &'static str,
    timing: Timing,
    #[serde(flatten)]
    figures: Figures,
}

/// Runs the command.
///
/// # Errors
/// The cluster can't be made or used, or a send failed: exit 1.
pub async fn run(
    flag: Option<&Path>,
    arguments: &LoginsArgs,
    output: &Output,
) -> Result<Exit, CtlError> {
    const SECOND_MS: u64 = 1_000;
    let machine = Machine::here();
    let cluster = BenchCluster::with_limits(flag, &arguments.place, &LIMITS, output).await?;
    let progress = progress(output);
    let mut subject = cluster
        .subject(Through::Connection, arguments.body_bytes.into(), &progress)
        .await?;
    let shape = Shape {
        connections: arguments.senders.into(),
        outstanding: 1,
        place: Place::Leader,
    };
    let timing = Timing {
        warm_up_ms: u64::from(arguments.warm_up) * SECOND_MS,
        measured_ms: u64::from(arguments.seconds) * SECOND_MS,
    };
    let (rounds, storming) = (arguments.rounds as usize, usize::from(arguments.storming));
    let figures = logins::measure(&mut subject, &shape, timing, rounds, storming, &progress)
        .await
        .map_err(failed)?;
    output.data(
        &Report {
            machine,
            version: env!("CARGO_PKG_VERSION"),
            timing,
            figures,
        },
        text,
    );
    Ok(Exit::Done)
}

const COLUMNS: [Column; 8] = [
    ("SENDS", false),
    ("SENDS/S", true),
    ("P50 MS", true),
    ("P99 MS", true),
    ("P99.9 MS", true),
    ("LOGINS/S", true),
    ("BUSY", true),
    ("NODE MIB", true),
];

fn row(name: &str, point: &Point, answers: &[Answers]) -> Vec<String> {
    let mut rates: Vec<f64> = answers.iter().map(|one| one.checked_per_second).collect();
    rates.sort_by(f64::total_cmp);
    let logins = rates
        .get(rates.len() / 2)
        .map_or_else(String::new, |rate| format!("{rate:.1}"));
    let busy: u64 = answers.iter().map(|one| one.busy).sum();
    vec![
        name.to_owned(),
        format!("{:.0}", point.median.per_second),
        format!("{:.2}", point.median.p50_ms),
        format!("{:.2}", point.median.p99_ms),
        format!("{:.2}", point.median.p999_ms),
        logins,
        if answers.is_empty() {
            String::new()
        } else {
            busy.to_string()
        },
        format!("{:.0}", point.median.memory_mib),
    ]
}

fn text(report: &Report) -> String {
    let figures = &report.figures;
    let rows = [
        row("alone", &figures.calm, &[]),
        row("in the storm", &figures.storm, &figures.answers),
    ];
    let lines = [
        render(&COLUMNS, &rows),
        String::new(),
        format!(
            "In the storm, p50 is {:.2} times and p99 {:.2} times what it is without. Medians of {} alternating rounds \
             of {} s after {} s of warming up; {} connections send, {} log in with wrong and right passwords in turn, \
             all on the leader. Logins a second are passwords checked.",
            figures.p50_ratio,
            figures.p99_ratio,
            figures.calm.rounds.len(),
            report.timing.measured_ms / 1_000,
            report.timing.warm_up_ms / 1_000,
            figures.calm.shape.connections,
            figures.storming,
        ),
        on(&report.machine),
    ];
    lines.join("\n")
}
