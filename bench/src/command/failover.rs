//! `mbbench failover`: gives the faults that `crate::failover` measures, to nodes of this machine, and
//! prints what it found.

use std::cell::Cell;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use crate::failover::figures::ms;
use crate::failover::round::Round;
use crate::failover::{
    self, ClientOn, FailoverError, Fault, InjectedFault, Measure, Plan, Report, Stage, Standing,
};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::cli::{FailoverArgs, FaultKind, SenderOn};
use crate::temp_cluster::TempCluster;
use messagebase_ctl::cluster::{Cluster, Survey, explain};
use messagebase_ctl::command::{down, kill, name_nodes, transfer};
use messagebase_ctl::error::CtlError;
use messagebase_ctl::exit::Exit;
use messagebase_ctl::machine;
use messagebase_ctl::output::Output;
use messagebase_ctl::poll::{Look, Patience, until};
use messagebase_ctl::process;
use messagebase_ctl::table::{Column, render};

/// How long the nodes may take to be in and to have caught up.
const REST_PATIENCE: Patience = Patience {
    limit: Duration::from_secs(60),
    every: Duration::from_millis(50),
    speak: Duration::from_secs(5),
};
/// With fewer voters, there is no majority without the leader.
const VOTERS_MIN: usize = 3;

/// Runs the command.
///
/// # Errors
/// The cluster can't be made or used, or does not recover. A lost or doubled message is a result: exit 1.
pub async fn run(
    flag: Option<&Path>,
    arguments: &FailoverArgs,
    output: &Output,
) -> Result<Exit, CtlError> {
    let report = if arguments.place.existing {
        let cluster = Cluster::open(flag)?;
        // Who forgot to start it should not have to wait for it to come to rest.
        cluster.leader(output).await?;
        measure(
            &Machine::new(&cluster, None, arguments.rounds, output),
            arguments,
        )
        .await?
    } else {
        let own = TempCluster::started(&arguments.place, &[], output)?;
        measure(
            &Machine::new(&own.cluster, Some(&own), arguments.rounds, output),
            arguments,
        )
        .await?
    };
    output.data(&report, text);
    Ok(if report.is_clean() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

async fn measure(machine: &Machine<'_>, arguments: &FailoverArgs) -> Result<Report, CtlError> {
    let fault = match arguments.fault {
        FaultKind::Kill => Fault::Kill,
        FaultKind::Hang => Fault::Hang,
        FaultKind::Stop => Fault::Stop,
        FaultKind::Transfer => Fault::Transfer,
    };
    let client_on = match arguments.client_on {
        SenderOn::Leader => ClientOn::Leader,
        SenderOn::Follower => ClientOn::Follower,
    };
    let plan = Plan {
        fault,
        client_on,
        rounds: arguments.rounds,
        body_bytes: usize::from(arguments.body_bytes),
    };
    failover::run(&machine.cluster.config, &plan, machine)
        .await
        .map_err(|e| match e {
            FailoverError::Stage(e) => e,
            e => CtlError::failed("bench", "the measurement failed")
                .because(e)
                .hint("`--keep` keeps the nodes' logs, RUST_LOG=debug makes them say more"),
        })
}

/// What was done to a node and is not healed yet.
#[derive(Clone, Copy)]
enum Unhealed {
    Stopped(u16),
    Hung(Pid),
}

/// The nodes of this machine.
struct Machine<'a> {
    cluster: &'a Cluster,
    /// The cluster is this command's own.
    own: Option<&'a TempCluster>,
    rounds: u32,
    output: &'a Output,
    wound: Cell<Option<Unhealed>>,
    /// The process that was killed in this round.
    killed: Cell<Option<Pid>>,
}

impl<'a> Machine<'a> {
    fn new(
        cluster: &'a Cluster,
        own: Option<&'a TempCluster>,
        rounds: u32,
        output: &'a Output,
    ) -> Machine<'a> {
        Machine {
            cluster,
            own,
            rounds,
            output,
            wound: Cell::new(None),
            killed: Cell::new(None),
        }
    }

    fn start(&self, node: u16) -> Result<(), CtlError> {
        match self.own {
            Some(own) => own.start(node),
            None => process::start(&self.cluster.config, node).map(drop),
        }
    }

    /// The process of a node that this command may strike.
    fn process(&self, node: u16) -> Result<Pid, CtlError> {
        let here = machine::nodes_here(&self.cluster.config).contains(&node);
        process::running(&self.cluster.config, node).filter(|_| here).ok_or_else(|| {
            CtlError::failed("not_here", format!("node {node} leads, and it can't be struck and restarted from here"))
                .hint("`mbctl transfer N` hands leadership to a node of this machine; `--fault transfer` needs none")
        })
    }
}

impl Drop for Machine<'_> {
    /// A cluster that was there before is left as it was found. One of our own is about to be killed.
    fn drop(&mut self) {
        if self.own.is_some() {
            return;
        }
        let healed = match self.wound.get() {
            None => Ok(()),
            Some(Unhealed::Hung(pid)) => process::signal(pid, Signal::SIGCONT),
            Some(Unhealed::Stopped(node))
                if process::running(&self.cluster.config, node).is_some() =>
            {
                Ok(())
            }
            Some(Unhealed::Stopped(node)) => self.start(node),
        };
        if let Err(e) = healed {
            self.output.note(format!(
                "error: a node that was struck was not brought back: {e}"
            ));
            self.output.note(
                "Hint: `mbctl status` shows which, `mbctl kill N` and `mbctl up N` bring it back",
            );
        }
    }
}

impl Stage for Machine<'_> {
    type Error = CtlError;

    async fn at_rest(&self) -> Result<Standing, CtlError> {
        let goal = Cell::new(None);
        let rest = until(self.output, REST_PATIENCE, || async {
            self.own.map_or(Ok(()), TempCluster::check)?;
            Ok::<_, CtlError>(at_rest(&self.cluster.survey().await, &goal))
        });
        let standing = rest.await?.map_err(|missing| {
            let seconds = REST_PATIENCE.limit.as_secs();
            CtlError::no_quorum(format!(
                "the cluster is not at rest after {seconds} s: {missing}"
            ))
            .hint("all voters must be up before and between the rounds; see `mbctl status`")
        })?;
        if standing.followers.len() + 1 < VOTERS_MIN {
            return Err(CtlError::failed("too_few", "with fewer than three voters there is no failover to measure")
                .hint(
                    "`mbctl member add N` makes more; without `--existing` the benchmark makes its own three nodes",
                ));
        }
        Ok(standing)
    }

    async fn strike(&self, fault: Fault, standing: &Standing) -> Result<InjectedFault, CtlError> {
        let leader = standing.leader;
        let signal = match fault {
            Fault::Kill => Signal::SIGKILL,
            Fault::Hang => Signal::SIGSTOP,
            Fault::Stop => {
                self.process(leader)?;
                self.wound.set(Some(Unhealed::Stopped(leader)));
                let at = Instant::now();
                down::take_down(self.cluster, &[leader], self.output).await?;
                return Ok(InjectedFault {
                    at,
                    returned: Instant::now(),
                });
            }
            Fault::Transfer => {
                let to = standing.next().unwrap_or(leader);
                let at = Instant::now();
                transfer::hand_over(self.cluster, to, self.output).await?;
                return Ok(InjectedFault {
                    at,
                    returned: Instant::now(),
                });
            }
        };
        let pid = self.process(leader)?;
        let wound = if fault == Fault::Hang {
            Unhealed::Hung(pid)
        } else {
            Unhealed::Stopped(leader)
        };
        self.wound.set(Some(wound));
        self.killed.set((fault == Fault::Kill).then_some(pid));
        let at = Instant::now();
        process::signal(pid, signal)?;
        Ok(InjectedFault {
            at,
            returned: Instant::now(),
        })
    }

    async fn heal(&self, _: Fault, node: u16) -> Result<(), CtlError> {
        if let Some(pid) = self.killed.take() {
            kill::gone(self.cluster, node, pid, self.output).await?;
        }
        match self.wound.get() {
            None => {}
            Some(Unhealed::Hung(pid)) => process::signal(pid, Signal::SIGCONT)?,
            Some(Unhealed::Stopped(node)) => self.start(node)?,
        }
        self.wound.set(None);
        Ok(())
    }

    fn heard(&self, round: &Round) {
        if std::io::stderr().is_terminal() {
            let Round {
                number,
                struck,
                leader,
                time,
                ..
            } = round;
            let rounds = self.rounds;
            self.output.note(format!(
                "round {number} of {rounds}: node {struck}, then {leader}; {:.1} ms",
                ms(*time)
            ));
        }
    }
}

/// Whether all voters follow one leader and have applied what it had in its log when it was first seen (`goal`).
fn at_rest(survey: &Survey, goal: &Cell<Option<u64>>) -> Look<Standing> {
    let verdict = survey.quorum_view();
    let leading = verdict.leader.and_then(|leader| survey.report(leader));
    let Some(leading) = leading else {
        return Look::Missing(survey.why_no_leader());
    };
    if let Some(row) = survey.rows.iter().find(|row| row.answer.is_err()) {
        return Look::Missing(row.answer.as_ref().err().map_or_else(String::new, explain));
    }
    if verdict.agreeing < verdict.voters {
        return Look::Missing(format!(
            "{} of {} voters follow node {}",
            verdict.agreeing, verdict.voters, leading.node
        ));
    }
    let last = leading.last_log.map_or(0, |last| last.index);
    let goal = goal.get().unwrap_or_else(|| {
        goal.set(Some(last));
        last
    });
    let behind = |report: &&&messagebase_protocol::peer::NodeReport| {
        !report.ready || report.applied.unwrap_or(0) < goal
    };
    let reports = survey.reports();
    let behind: Vec<u16> = reports
        .iter()
        .filter(behind)
        .map(|report| report.node)
        .collect();
    if !behind.is_empty() {
        return Look::Missing(format!(
            "{} to catch up with log index {goal}",
            name_nodes(&behind)
        ));
    }
    let voters = leading
        .members
        .iter()
        .filter(|member| member.voter)
        .map(|member| member.node);
    let mut followers: Vec<u16> = voters.filter(|node| *node != leading.node).collect();
    followers.sort_unstable();
    Look::Found(Standing {
        leader: leading.node,
        term: leading.term,
        followers,
    })
}

const COLUMNS: [Column; 8] = [
    ("FAULT", false),
    ("CLIENT ON", false),
    ("ROUNDS", true),
    ("MIN", true),
    ("MEDIAN", true),
    ("P90", true),
    ("P99", true),
    ("MAX", true),
];

fn text(report: &Report) -> String {
    let fault = match report.fault {
        Fault::Kill => "kill",
        Fault::Hang => "hang",
        Fault::Stop => "stop",
        Fault::Transfer => "transfer",
    };
    let client_on = match report.client_on {
        ClientOn::Leader => "leader",
        ClientOn::Follower => "follower",
    };
    let figures = &report.figures;
    let times = [
        figures.min_ms,
        figures.median_ms,
        figures.p90_ms,
        figures.p99_ms,
        figures.max_ms,
    ];
    let mut row = vec![
        fault.to_owned(),
        client_on.to_owned(),
        report.rounds.to_string(),
    ];
    row.extend(times.map(|time| format!("{time:.1}")));
    let what = match report.measure {
        Measure::Recovery => "ms from the signal to the next acknowledged send",
        Measure::LongestSend => "ms of the longest send from the order to 2 s after it",
    };
    let verdict = &report.verdict;
    let mut lines = vec![render(&COLUMNS, &[row]), String::new()];
    lines.push(format!("Times: {what}; percentiles by nearest rank."));
    let calm = report.undisturbed_send_median_ms;
    lines.push(format!(
        "Without a fault, the median send took {calm:.1} ms ({} bytes each).",
        report.body_bytes
    ));
    lines.push(format!(
        "Sends acknowledged: {}; errors: {}; failovers that the client reported: {}.",
        verdict.acknowledged, report.errors, report.failovers
    ));
    lines.extend(
        report
            .error_messages
            .iter()
            .map(|message| format!("  error: {message}")),
    );
    lines.push(format!(
        "In the mailbox: lost {}, doubled {}, out of order {}, strange {}.",
        verdict.lost, verdict.doubled, verdict.out_of_order, verdict.strange
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use messagebase_ctl::testing::{report, survey};
    use messagebase_protocol::json::LogPosition;
    use messagebase_protocol::peer::NodeReport;
    use messagebase_protocol::role::NodeRole;

    #[test]
    fn a_cluster_is_at_rest_when_every_voter_follows_and_has_what_the_leader_had() {
        let all = [1, 2, 3];
        let mut reports = vec![
            report(2, NodeRole::Leader, 4, Some(2), &all),
            report(1, NodeRole::Follower, 4, Some(2), &all),
            report(3, NodeRole::Follower, 3, None, &all),
        ];
        reports
            .iter_mut()
            .for_each(|report| report.applied = Some(10));
        reports[0].last_log = Some(LogPosition {
            term: 4,
            leader: 2,
            index: 10,
        });
        let look =
            |reports: &[NodeReport], goal| at_rest(&survey(reports.to_vec()), &Cell::new(goal));
        assert!(matches!(look(&reports, None), Look::Missing(what) if what.contains("2 of 3")));
        reports[2] = report(3, NodeRole::Follower, 4, Some(2), &all);
        assert!(
            matches!(look(&reports, None), Look::Missing(what) if what.starts_with("node 3")),
            "it applied 8"
        );
        assert!(
            matches!(look(&reports, Some(8)), Look::Found(_)),
            "what came after the first look does not count"
        );
        reports[2].applied = Some(10);
        let wanted = Standing {
            leader: 2,
            term: 4,
            followers: vec![1, 3],
        };
        assert!(matches!(look(&reports, None), Look::Found(standing) if standing == wanted));
        reports[1].ready = false;
        assert!(matches!(look(&reports, None), Look::Missing(what) if what.starts_with("node 1")));
        assert!(matches!(look(&reports[1..], None), Look::Missing(_)));
    }
}
