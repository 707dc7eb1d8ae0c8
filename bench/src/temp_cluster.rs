//! A cluster that exists for one command: its own directory, its own ports, its own nodes. All of it is gone when the
//! value is dropped, however the command ends; only SIGKILL of this very program leaves its nodes behind.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

use messagebase_config::{CONFIG_FILE, Config};
use tempfile::TempDir;

use crate::cli::BenchPlace;

use messagebase_ctl::cluster::Cluster;
use messagebase_ctl::command::init::{self, NODES, Shape};
use messagebase_ctl::command::up::ended_early;
use messagebase_ctl::error::CtlError;
use messagebase_ctl::output::Output;
use messagebase_ctl::process::{self, Started};

/// Base ports. Below Linux' ephemeral range, so that no outgoing connection takes the port of a node that is down. Node
/// N has the ports P+N, P+100+N, P+200+N and P+300+N, so clusters whose base ports differ by ten share the hundreds.
const BASE_PORTS: std::ops::Range<u16> = 32_000..32_100;
/// From one base port to the next; more than nodes in a cluster.
const BASE_PORT_STEP: usize = 10;
/// What its directory's name begins with.
const PREFIX: &str = "messagebase-bench-";
const CLUSTER_NAME: &str = "throw-away";

/// The cluster. Nothing runs until it is started.
pub struct TempCluster {
    /// How to reach it.
    pub cluster: Cluster,
    /// By node; the process that was started last.
    nodes: RefCell<BTreeMap<u16, Started>>,
    directory: TempDir,
    /// The owner of the listener on a base port owns the ports above it: P itself is no node's. The system frees it
    /// when its owner ends, however it ends.
    _ports: TcpListener,
}

impl TempCluster {
    /// Makes the directory in `within` (or where the system keeps temporary files), the configuration and the keys.
    ///
    /// # Errors
    /// There are no free ports, or something can't be written (exit 1).
    pub fn make(within: Option<&Path>) -> Result<TempCluster, CtlError> {
        TempCluster::with_limits(within, &[])
    }

    /// As [`TempCluster::make`], with other `[limits]` than the defaults.
    ///
    /// # Errors
    /// As [`TempCluster::make`]; or a limit is out of its bounds (exit 2).
    pub fn with_limits(
        within: Option<&Path>,
        limits: &[(&str, u32)],
    ) -> Result<TempCluster, CtlError> {
        let parent = within.map_or_else(std::env::temp_dir, Path::to_owned);
        let failed = |e| {
            CtlError::failed(
                "io",
                format!("failed to make a directory in {}", parent.display()),
            )
            .because(e)
        };
        if !parent.is_dir() {
            return Err(
                CtlError::failed("io", format!("{} is no directory", parent.display()))
                    .hint("make it first, or leave `--dir` out"),
            );
        }
        // Absolute, because daemons take its paths too.
        let parent = std::path::absolute(&parent).map_err(failed)?;
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&parent)
            .map_err(failed)?;
        let (ports, base_port) = take_ports()?;
        let shape = Shape {
            cluster: CLUSTER_NAME,
            nodes: NODES,
            base_port,
            limits,
        };
        let (config, _) = init::make(&directory.path().join(CONFIG_FILE), &shape)?;
        let cluster = Cluster::of(config)?;
        Ok(TempCluster {
            cluster,
            nodes: RefCell::default(),
            directory,
            _ports: ports,
        })
    }

    /// Makes the cluster where `place` says, with these `[limits]`, and starts its nodes.
    ///
    /// # Errors
    /// As [`TempCluster::with_limits`] and [`TempCluster::start`].
    pub fn started(
        place: &BenchPlace,
        limits: &[(&str, u32)],
        output: &Output,
    ) -> Result<TempCluster, CtlError> {
        let mut own = TempCluster::with_limits(place.dir.as_deref(), limits)?;
        if place.keep {
            own.keep();
            output.note(format!(
                "The cluster's directory is {}",
                own.directory().display()
            ));
        }
        own.start_all()?;
        Ok(own)
    }

    /// Starts all nodes, none of which runs.
    ///
    /// # Errors
    /// As [`TempCluster::start`].
    pub fn start_all(&self) -> Result<(), CtlError> {
        self.numbers()
            .into_iter()
            .try_for_each(|node| self.start(node))
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.cluster.config
    }

    /// The numbers of its nodes.
    pub fn numbers(&self) -> Vec<u16> {
        self.config().nodes.iter().map(|node| node.id).collect()
    }

    /// Starts a node that does not run, and returns at once.
    ///
    /// # Errors
    /// It can't be started (exit 1).
    pub fn start(&self, node: u16) -> Result<(), CtlError> {
        // No await between the start and the entry: a node that is not entered would outlive an interruption.
        let started = process::start(self.config(), node)?;
        if let Some(mut former) = self.nodes.borrow_mut().insert(node, started) {
            former.kill();
        }
        Ok(())
    }

    /// Kills the nodes that still run and waits until none holds its directory any more: a killed process gives that
    /// back only when its memory is freed, which takes a moment. Blocks that long.
    pub fn kill_all(&self) {
        std::mem::take(&mut *self.nodes.borrow_mut())
            .into_values()
            .for_each(|mut started| started.kill());
    }

    /// Takes notice of a node that ended without having been told to.
    ///
    /// # Errors
    /// What it said last (exit 1).
    pub fn check(&self) -> Result<(), CtlError> {
        for started in self.nodes.borrow_mut().values_mut() {
            if let Some(status) = started.ended() {
                return Err(ended_early(started, status));
            }
        }
        Ok(())
    }

    /// Keeps the directory when the nodes are gone.
    pub fn keep(&mut self) {
        self.directory.disable_cleanup(true);
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for TempCluster {
    fn drop(&mut self) {
        // Waiting blocks the thread, which has nothing else to do any more. The directory goes after this, with its field.
        self.nodes.get_mut().values_mut().for_each(Started::kill);
    }
}

/// A base port whose ports are all free, and what keeps others from choosing it, too.
fn take_ports() -> Result<(TcpListener, u16), CtlError> {
    for base_port in BASE_PORTS.step_by(BASE_PORT_STEP) {
        let Ok(guard) = TcpListener::bind(("127.0.0.1", base_port)) else {
            continue;
        };
        let shape = Shape {
            cluster: CLUSTER_NAME,
            nodes: NODES,
            base_port,
            limits: &[],
        };
        if init::ports(&shape)
            .into_iter()
            .all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        {
            return Ok((guard, base_port));
        }
    }
    Err(CtlError::failed(
        "no_ports",
        format!("found no free ports between {} and 32400", BASE_PORTS.start),
    )
    .hint("other benchmarks may be running; `--existing` measures a cluster that runs already"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clusters_have_different_ports_and_a_dropped_one_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = TempCluster::make(Some(dir.path())).expect("made");
        let second = TempCluster::make(Some(dir.path())).expect("made");
        let ports = |of: &TempCluster| {
            of.config()
                .nodes
                .iter()
                .map(|node| node.peer.port)
                .collect::<Vec<_>>()
        };
        assert!(
            ports(&first)
                .iter()
                .all(|port| !ports(&second).contains(port))
        );
        assert_eq!(first.numbers(), [1, 2, 3]);
        drop((first, second));
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 0);
    }

    #[test]
    fn limits_can_be_other_than_the_defaults() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = TempCluster::with_limits(Some(dir.path()), &[("failed_logins_per_name", 77)])
            .expect("made");
        let (ours, theirs) = (
            own.config().limits,
            TempCluster::make(Some(dir.path()))
                .expect("made")
                .config()
                .limits,
        );
        assert_eq!(
            (ours.failed_logins_per_name, theirs.failed_logins_per_name),
            (77, 10)
        );
    }

    #[test]
    fn a_kept_directory_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut kept = TempCluster::make(Some(dir.path())).expect("made");
        kept.keep();
        let file = kept.config().path.clone();
        drop(kept);
        assert!(file.exists());
    }
}
