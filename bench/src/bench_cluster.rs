//! The cluster that load is put on: one of the command's own, or the configured one; and what is done to it for the
//! proof.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::growth::fill::{Size, fill};
use crate::load::buffered::buffered;
use crate::load::drive::Load;
use crate::load::load_users::{ClusterAccess, LoadUsers, RECIPIENTS};
use crate::load::messagebase::{Messagebase, Through};
use crate::load::proof::{Proof, read_back};
use crate::load::{LoadError, Say, Server, Shape, Subject};
use messagebase_config::DATABASE_FILE;
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::cli::BenchPlace;
use crate::temp_cluster::TempCluster;
use messagebase_ctl::cluster::Cluster;
use messagebase_ctl::error::CtlError;
use messagebase_ctl::output::Output;
use messagebase_ctl::poll::{Look, Patience, until};
use messagebase_ctl::process;

/// How long the nodes may take to serve.
const SERVE_PATIENCE: Patience = Patience {
    limit: Duration::from_secs(60),
    every: Duration::from_millis(100),
    speak: Duration::from_secs(5),
};
/// Files filled at a time: each takes a processor, and 3.4 GB of memory for ten million messages.
const FILLING_AT_A_TIME: usize = 2;
/// How long ago the messages that a file is filled with were sent.
const FILLED_AGO: Duration = Duration::from_secs(3_600);
/// Load that the kill interrupts.
const LAST_LOAD: Duration = Duration::from_secs(2);
/// Longest silence during it.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The cluster.
pub struct BenchCluster {
    cluster: Cluster,
    /// It is this command's own.
    own: Option<TempCluster>,
}

/// What was read back, and after what.
#[derive(Debug, Serialize)]
pub struct Proven {
    /// All nodes were killed under load and started again before the reading.
    pub killed: bool,
    /// What was found.
    #[serde(flatten)]
    pub proof: Proof,
}

impl BenchCluster {
    /// Makes and starts a cluster, or takes the one that runs, and waits until it serves.
    ///
    /// # Errors
    /// It can't be made, or does not serve.
    pub async fn start(
        flag: Option<&Path>,
        place: &BenchPlace,
        output: &Output,
    ) -> Result<BenchCluster, CtlError> {
        BenchCluster::with_limits(flag, place, &[], output).await
    }

    /// As [`BenchCluster::start`]; a new cluster gets these `[limits]`.
    ///
    /// # Errors
    /// As [`BenchCluster::start`].
    pub async fn with_limits(
        flag: Option<&Path>,
        place: &BenchPlace,
        limits: &[(&str, u32)],
        output: &Output,
    ) -> Result<BenchCluster, CtlError> {
        let cluster = if place.existing {
            BenchCluster {
                cluster: Cluster::open(flag)?,
                own: None,
            }
        } else {
            let own = TempCluster::started(place, limits, output)?;
            BenchCluster {
                cluster: Cluster::of(own.config().clone())?,
                own: Some(own),
            }
        };
        cluster.served(output).await?;
        Ok(cluster)
    }

    /// Makes a cluster whose nodes hold users and messages, and starts it. How long it took from there until all nodes
    /// served.
    ///
    /// # Errors
    /// As [`BenchCluster::start`]; or the files can't be filled.
    pub async fn filled(
        place: &BenchPlace,
        size: Size,
        say: Say<'_>,
        output: &Output,
    ) -> Result<(BenchCluster, Duration), CtlError> {
        // Its nodes make their files and agree on who they are.
        let cluster = BenchCluster::start(None, place, output).await?;
        let Some(own) = &cluster.own else {
            return Err(CtlError::usage("only a new cluster is filled"));
        };
        own.kill_all();
        say(&format!(
            "filling the files with {} messages of {} users",
            size.messages, size.users
        ));
        let files = own
            .numbers()
            .into_iter()
            .map(|node| own.config().node_dir(node).join(DATABASE_FILE));
        // In the past: the state's clock must not be ahead of the nodes'.
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .saturating_sub(FILLED_AGO);
        let at = u64::try_from(at.as_millis()).unwrap_or(0);
        let deed = |_, file: PathBuf| async move { fill(&file, size, at).await };
        let tell = |files: usize| say(&format!("filled the files of {files} nodes"));
        buffered(files, FILLING_AT_A_TIME, deed, tell)
            .await
            .map_err(failed)?;
        let started = Instant::now();
        own.start_all()?;
        cluster.served(output).await?;
        Ok((cluster, started.elapsed()))
    }

    /// Where everything of the cluster is, if it is this command's own.
    pub fn directory(&self) -> Option<&Path> {
        self.own.as_ref().map(TempCluster::directory)
    }

    /// Its certificates.
    pub fn pki(&self) -> &Path {
        &self.cluster.config.pki_dir
    }

    async fn served(&self, output: &Output) -> Result<(), CtlError> {
        let nodes = self.cluster.config.nodes.len();
        let served = until(output, SERVE_PATIENCE, || async {
            self.own.as_ref().map_or(Ok(()), TempCluster::check)?;
            let survey = self.cluster.survey().await;
            let verdict = survey.quorum_view();
            let all = verdict.leader.is_some()
                && survey.reports().iter().filter(|r| r.ready).count() == nodes;
            let why = || format!("all {nodes} nodes to serve; {}", survey.why_no_leader());
            Ok::<_, CtlError>(if all {
                Look::Found(())
            } else {
                Look::Missing(why())
            })
        });
        served.await?.map_err(|missing| {
            let seconds = SERVE_PATIENCE.limit.as_secs();
            CtlError::no_quorum(format!(
                "the cluster does not serve after {seconds} s: {missing}"
            ))
            .hint("load is measured with all nodes up; see `mbctl status`")
        })
    }

    /// How its nodes are reached.
    ///
    /// # Errors
    /// `ca.pem` can't be used.
    pub fn access(&self) -> Result<ClusterAccess, CtlError> {
        ClusterAccess::from_config(&self.cluster.config).map_err(failed)
    }

    /// The nodes' processes.
    ///
    /// # Errors
    /// One of them does not run on this machine.
    pub fn servers(&self) -> Result<Vec<Server>, CtlError> {
        let config = &self.cluster.config;
        let of = |node: &messagebase_config::NodeConfig| {
            let pid =
                process::running(config, node.id).and_then(|pid| u32::try_from(pid.as_raw()).ok());
            let pid = pid.ok_or_else(|| {
                CtlError::failed(
                    "not_here",
                    format!("node {} does not run on this machine", node.id),
                )
                .hint("what nodes cost can be measured on their own machine alone")
            })?;
            let metrics = node.http.as_ref().map(ToString::to_string);
            Ok(Server {
                node: node.id,
                pid,
                data_dir: config.node_dir(node.id),
                metrics,
            })
        };
        config.nodes.iter().map(of).collect()
    }

    /// The cluster with its accounts, ready for load.
    ///
    /// # Errors
    /// The accounts can't be made.
    pub async fn subject(
        &self,
        through: Through,
        value_bytes: usize,
        say: Say<'_>,
    ) -> Result<Messagebase, CtlError> {
        let users = LoadUsers::gather(self.access()?, RECIPIENTS, say)
            .await
            .map_err(failed)?;
        Ok(Messagebase::new(
            users,
            self.servers()?,
            through,
            value_bytes,
        ))
    }

    /// Reads back all that was acknowledged. On a cluster of the command's own, all nodes are killed before that, under
    /// load, and started again.
    ///
    /// # Errors
    /// Something is missing or doubled, or the nodes don't come back.
    pub async fn prove(
        &self,
        subject: &mut Messagebase,
        shape: &Shape,
        say: Say<'_>,
        output: &Output,
    ) -> Result<Proven, CtlError> {
        if let Some(own) = &self.own {
            let links = subject.links(shape, say).await.map_err(failed)?;
            let load = Load::start(&links, shape.outstanding);
            load.pass(LAST_LOAD, TELL_EVERY, |_| {
                say("load until all nodes are killed")
            })
            .await;
            for node in own.numbers() {
                if let Some(pid) = process::running(own.config(), node) {
                    process::signal(pid, Signal::SIGKILL)?;
                }
            }
            // What was under way fails, as it should; what was acknowledged is kept.
            subject.absorb(load.finish().await.worked);
            drop(links);
            own.kill_all();
            own.start_all()?;
            self.served(output).await?;
            subject.restarted(self.servers()?);
        }
        let proof = read_back(subject.users(), say).await.map_err(failed)?;
        Ok(Proven {
            killed: self.own.is_some(),
            proof,
        })
    }
}

/// What a measurement failed with.
pub fn failed(error: LoadError) -> CtlError {
    let code = if matches!(error, LoadError::Disproved(_)) {
        "disproved"
    } else {
        "bench"
    };
    CtlError::failed(code, "the measurement failed")
        .because(error)
        .hint("`--keep` keeps the nodes' logs, RUST_LOG=debug makes them say more")
}
