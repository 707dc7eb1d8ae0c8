//! `mbbench connections`: what sessions that say nothing cost a node.

use std::path::Path;

use crate::connections::{self, Figures, Plan};
use crate::measure::Machine;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use super::load::{on, progress};
use crate::bench_cluster::{BenchCluster, failed};
use crate::cli::ConnectionsArgs;
use messagebase_ctl::error::CtlError;
use messagebase_ctl::exit::Exit;
use messagebase_ctl::output::Output;
use messagebase_ctl::table::{Column, render};

/// Files that this program needs open beside the connections.
const OTHER_FILES: u64 = 200;

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    version: &'static str,
    #[serde(flatten)]
    figures: Figures,
}

/// Runs the command.
///
/// # Errors
/// The cluster can't be made or used, too few files may be open, a session ended or missed its message: exit 1.
pub async fn run(
    flag: Option<&Path>,
    arguments: &ConnectionsArgs,
    output: &Output,
) -> Result<Exit, CtlError> {
    let plan = Plan {
        sessions: arguments.sessions.into(),
        accounts: arguments.accounts.min(arguments.sessions).into(),
    };
    // Before the nodes are started: they inherit it.
    allow_files(u64::from(arguments.sessions) + OTHER_FILES)?;
    let machine = Machine::here();
    let cluster = BenchCluster::start(flag, &arguments.place, output).await?;
    let (access, servers) = (cluster.access()?, cluster.servers()?);
    let figures = connections::measure(&access, &servers, plan, &progress(output))
        .await
        .map_err(failed)?;
    output.data(
        &Report {
            machine,
            version: env!("CARGO_PKG_VERSION"),
            figures,
        },
        text,
    );
    Ok(Exit::Done)
}

/// Every connection is an open file, and the usual soft limit is 1,024.
fn allow_files(needed: u64) -> Result<(), CtlError> {
    let failed = |e| CtlError::failed("io", "failed to raise the limit on open files").because(e);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    if hard < needed {
        return Err(CtlError::failed(
            "files",
            format!("{needed} open files are needed, {hard} are allowed"),
        )
        .hint("raise the hard limit (`ulimit -Hn`), or ask for fewer `--sessions`"));
    }
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(failed)
    } else {
        Ok(())
    }
}

const COLUMNS: [Column; 10] = [
    ("SESSIONS", true),
    ("BEFORE MIB", true),
    ("OPEN MIB", true),
    ("AFTER MESSAGES", true),
    ("CLOSED MIB", true),
    ("KIB A SESSION", true),
    ("LOGINS/S", true),
    ("P50 MS", true),
    ("P99 MS", true),
    ("MAX MS", true),
];

fn text(report: &Report) -> String {
    let figures = &report.figures;
    let row = vec![
        figures.plan.sessions.to_string(),
        format!("{:.1}", figures.before_mib),
        format!("{:.1}", figures.open_mib),
        format!("{:.1}", figures.after_messages_mib),
        format!("{:.1}", figures.closed_mib),
        format!("{:.1}", figures.per_session_kib),
        format!("{:.0}", figures.opened_per_second),
        format!("{:.2}", figures.p50_ms),
        format!("{:.2}", figures.p99_ms),
        format!("{:.2}", figures.max_ms),
    ];
    let lines = [
        render(&COLUMNS, &[row]),
        String::new(),
        format!(
            "Resident memory of node {}, the leader: before the first of these TLS connections, with all of them, after \
             {} messages had been heard, and after all were closed. Latency from before a send until a session has \
             the message; each message goes to the {} sessions of one of {} accounts.",
            figures.node,
            figures.deliveries,
            figures.plan.sessions.div_ceil(figures.plan.accounts),
            figures.plan.accounts,
        ),
        on(&report.machine),
    ];
    lines.join("\n")
}
