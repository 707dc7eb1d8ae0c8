//! `mbbench growth`: what questions and sends cost when millions of messages are stored.

use std::path::Path;
use std::time::Duration;

use crate::growth::fill::{self, Size};
use crate::growth::readers::Question;
use crate::growth::{self, Line, Plan, Request, Site};
use crate::load::Timing;
use crate::load::figures::Point;
use crate::measure::Machine;
use serde::Serialize;

use super::load::{on, progress};
use crate::bench_cluster::{BenchCluster, failed};
use crate::cli::{BenchPlace, GrowthArgs, GrowthRequest};
use messagebase_ctl::error::CtlError;
use messagebase_ctl::exit::Exit;
use messagebase_ctl::output::Output;
use messagebase_ctl::table::{Column, render};

const LARGE: &str = "large";
const SMALL: &str = "small";

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    version: &'static str,
    #[serde(flatten)]
    plan: Plan,
    /// From the start of the large cluster's nodes until all of them served; not of one that ran already.
    large_serves_after_ms: Option<u64>,
    lines: Vec<Line>,
}

/// Runs the command.
///
/// # Errors
/// There is no sqlite3, a cluster can't be made or filled, or a question or a send failed: exit 1.
pub async fn run(
    flag: Option<&Path>,
    arguments: &GrowthArgs,
    output: &Output,
) -> Result<Exit, CtlError> {
    if arguments.messages < arguments.users {
        return Err(CtlError::usage(
            "--messages must not be less than --users: those who ask would have none",
        ));
    }
    let machine = Machine::here();
    if !fill::is_possible().await {
        return Err(CtlError::failed("no_sqlite3", format!("`{}` is not on PATH", fill::PROGRAM))
            .hint("`apt-get install sqlite3` installs it on Debian; the nodes' files are filled with it"));
    }
    let plan = plan(arguments);
    let progress = progress(output);
    let (large, large_serves_after) = if arguments.place.existing {
        (
            BenchCluster::start(flag, &arguments.place, output).await?,
            None,
        )
    } else {
        let (cluster, after) =
            BenchCluster::filled(&arguments.place, plan.large, &progress, output).await?;
        (cluster, Some(after))
    };
    let beside = BenchPlace {
        existing: false,
        dir: arguments.place.dir.clone(),
        keep: false,
    };
    let (small, _) = BenchCluster::filled(&beside, plan.small, &progress, output).await?;
    let mut at_large = visit(LARGE, &large, plan.large, &plan, &progress).await?;
    let mut at_small = visit(SMALL, &small, plan.small, &plan, &progress).await?;
    let lines = growth::measure(
        &mut at_large,
        &mut at_small,
        &requests(arguments),
        &plan,
        &progress,
    )
    .await
    .map_err(failed)?;
    let large_serves_after_ms =
        large_serves_after.map(|after: Duration| after.as_millis().try_into().unwrap_or(u64::MAX));
    let report = Report {
        machine,
        version: env!("CARGO_PKG_VERSION"),
        plan,
        large_serves_after_ms,
        lines,
    };
    output.data(&report, text);
    Ok(Exit::Done)
}

fn plan(arguments: &GrowthArgs) -> Plan {
    const SECOND_MS: u64 = 1_000;
    let large = Size {
        users: arguments.users,
        messages: arguments.messages,
    };
    Plan {
        large,
        small: Plan::small(large, arguments.askers.into()),
        questions: arguments.questions.into(),
        sends: arguments.senders.into(),
        body_bytes: arguments.body_bytes.into(),
        timing: Timing {
            warm_up_ms: u64::from(arguments.warm_up) * SECOND_MS,
            measured_ms: u64::from(arguments.seconds) * SECOND_MS,
        },
        rounds: arguments.rounds as usize,
    }
}

fn requests(arguments: &GrowthArgs) -> Vec<Request> {
    let of = |request: &GrowthRequest| match request {
        GrowthRequest::Inbox => Request::Ask(Question::Inbox),
        GrowthRequest::Sync => Request::Ask(Question::Sync),
        GrowthRequest::History => Request::Ask(Question::History),
        GrowthRequest::Search => Request::Ask(Question::Search),
        GrowthRequest::Send => Request::Send,
        GrowthRequest::Login => Request::Ask(Question::Login),
    };
    if arguments.requests.is_empty() {
        Request::ALL.to_vec()
    } else {
        arguments.requests.iter().map(of).collect()
    }
}

async fn visit(
    name: &'static str,
    cluster: &BenchCluster,
    size: Size,
    plan: &Plan,
    progress: &(impl Fn(&str) + Sync),
) -> Result<Site, CtlError> {
    Site::visit(
        name,
        &cluster.access()?,
        &cluster.servers()?,
        size,
        plan,
        progress,
    )
    .await
    .map_err(failed)
}

const COLUMNS: [Column; 9] = [
    ("REQUEST", false),
    ("MESSAGES", true),
    ("A SECOND", true),
    ("P50 MS", true),
    ("P99 MS", true),
    ("SERVER µS", true),
    ("CLIENT µS", true),
    ("NODE MIB", true),
    ("STOLEN %", true),
];

fn row(request: &str, messages: u32, point: &Point) -> Vec<String> {
    let median = &point.median;
    vec![
        request.to_owned(),
        messages.to_string(),
        format!("{:.0}", median.per_second),
        format!("{:.2}", median.p50_ms),
        format!("{:.2}", median.p99_ms),
        format!("{:.0}", median.server_cpu_us),
        format!("{:.0}", median.client_cpu_us),
        format!("{:.0}", median.memory_mib),
        format!("{:.0}", median.stolen_percent),
    ]
}

fn ratios(line: &Line) -> Vec<String> {
    let ratios = &line.ratios;
    let times = |ratio: f64| format!("{ratio:.2}x");
    vec![
        String::new(),
        "ratio".into(),
        times(ratios.per_second),
        times(ratios.p50),
        times(ratios.p99),
        times(ratios.server_cpu),
        String::new(),
        times(ratios.memory),
        String::new(),
    ]
}

fn text(report: &Report) -> String {
    let Plan {
        large,
        small,
        questions,
        sends,
        body_bytes,
        timing,
        rounds,
    } = &report.plan;
    let of = |line: &Line| {
        [
            row(line.request, large.messages, &line.large),
            row("", small.messages, &line.small),
            ratios(line),
        ]
    };
    let rows: Vec<Vec<String>> = report.lines.iter().flat_map(of).collect();
    let mut lines = vec![render(&COLUMNS, &rows), String::new()];
    lines.push(format!(
        "Medians of {rounds} alternating rounds of {} s after {} s of warming up, on a cluster with {} messages of {} \
         users and on one with {} of {}, who are those that ask; {questions} questions at a time; {sends} sends of \
         {body_bytes} bytes at a time. Per request: processor time of all nodes together and of the clients. A login \
         has a new connection and a password hash.",
        timing.measured_ms / 1_000,
        timing.warm_up_ms / 1_000,
        large.messages,
        large.users,
        small.messages,
        small.users,
    ));
    if let Some(after) = report.large_serves_after_ms {
        lines.push(format!(
            "The large cluster served {after} ms after its nodes were started."
        ));
    }
    lines.push(on(&report.machine));
    lines.join("\n")
}
