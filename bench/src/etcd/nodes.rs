//! Three etcd processes on loopback, in a directory of their own; they end with the value that holds them.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use messagebase_config::pki;

use super::grpc::Endpoint;
use crate::load::{LoadError, Say, Server};
use crate::measure::Counters;

/// The program, as Debian's `etcd-server` installs it.
pub const PROGRAM: &str = "etcd";
/// As many nodes as the cluster that it is compared with has.
const NODES: u16 = 3;
/// Until it has a leader.
const START_MAX: Duration = Duration::from_secs(30);
/// Between two looks at a cluster that starts.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bytes that a node may store; etcd's default of 2 GiB would end a long comparison.
const QUOTA_BYTES: u64 = 8 * 1024 * 1024 * 1024;
const LEADS: &str = "etcd_server_is_leader";

/// A running cluster. Dropping it kills the processes.
pub struct Nodes {
    children: Vec<Child>,
    servers: Vec<Server>,
    roads: Vec<Endpoint>,
}

/// The ports of one node.
struct Ports {
    client: u16,
    peer: u16,
    metrics: u16,
}

impl Nodes {
    /// The version of the program that would be started; `None` if there is none.
    pub fn version() -> Option<String> {
        let said = Command::new(PROGRAM).arg("--version").output().ok()?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        said.lines()
            .next()
            .and_then(|line| line.rsplit(' ').next())
            .map(str::to_owned)
    }

    /// Starts nodes below `dir` and waits for a leader. With `pki`, a directory as `mbctl init` makes it, peers and
    /// clients speak TLS with the same certificates as MessageBase's.
    ///
    /// # Errors
    /// There is no etcd, or it doesn't come up.
    pub async fn start(dir: &Path, pki: Option<&Path>, say: Say<'_>) -> Result<Nodes, LoadError> {
        let ports = (0..NODES)
            .map(|_| Ports::free())
            .collect::<std::io::Result<Vec<_>>>()?;
        let client_tls = pki
            .map(pki::client_tls)
            .transpose()
            .map_err(|e| LoadError::Refused(e.to_string()))?;
        let mut nodes = Nodes {
            children: Vec::new(),
            servers: Vec::new(),
            roads: Vec::new(),
        };
        for (node, own) in (1..=NODES).zip(&ports) {
            let data_dir = dir.join(format!("etcd-{node}"));
            let log = dir.join(format!("etcd-{node}.log"));
            let child = spawn(node, own, &ports, &data_dir, &log, pki).map_err(|e| {
                LoadError::Refused(format!(
                    "failed to start {PROGRAM}: {e}\nHint: `apt-get install etcd-server` installs it"
                ))
            })?;
            let metrics = Some(format!("127.0.0.1:{}", own.metrics));
            nodes.servers.push(Server {
                node,
                pid: child.id(),
                data_dir,
                metrics,
            });
            nodes.children.push(child);
            let address = format!("127.0.0.1:{}", own.client);
            nodes.roads.push(match &client_tls {
                Some(tls) => Endpoint::over_tls(address, tls),
                None => Endpoint { address, tls: None },
            });
        }
        let began = Instant::now();
        while nodes.leader_at().await.is_err() {
            for (child, node) in nodes.children.iter_mut().zip(1..) {
                if let Some(status) = child.try_wait()? {
                    let log: PathBuf = dir.join(format!("etcd-{node}.log"));
                    let said = std::fs::read_to_string(&log).unwrap_or_default();
                    let last = said.lines().last().unwrap_or_default();
                    return Err(LoadError::Refused(format!(
                        "etcd's node {node} ended early ({status}): {last}"
                    )));
                }
            }
            if began.elapsed() > START_MAX {
                let why = format!("no leader after {} s", START_MAX.as_secs());
                return Err(LoadError::Unreachable {
                    who: "etcd".into(),
                    why,
                });
            }
            say("etcd: waiting for a leader");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(nodes)
    }

    /// Its processes.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// How clients reach them, in the order of [`Nodes::servers`].
    pub fn roads(&self) -> Vec<Endpoint> {
        self.roads.clone()
    }

    /// The leader's place among the servers.
    ///
    /// # Errors
    /// None leads.
    pub async fn leader_at(&self) -> Result<usize, LoadError> {
        for (at, server) in self.servers.iter().enumerate() {
            let Some(address) = &server.metrics else {
                continue;
            };
            if let Ok(counters) = Counters::read(address).await
                && counters.value(LEADS) == Some(1.0)
            {
                return Ok(at);
            }
        }
        Err(LoadError::Unreachable {
            who: "etcd's leader".into(),
            why: "no node leads".into(),
        })
    }

    /// Ends the processes.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended already can't be killed; it is waited for all the same.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Ports {
    /// Ports that nobody listened on a moment ago.
    fn free() -> std::io::Result<Ports> {
        let held = [
            TcpListener::bind("127.0.0.1:0")?,
            TcpListener::bind("127.0.0.1:0")?,
            TcpListener::bind("127.0.0.1:0")?,
        ];
        let port = |at: usize| std::io::Result::Ok(held[at].local_addr()?.port());
        Ok(Ports {
            client: port(0)?,
            peer: port(1)?,
            metrics: port(2)?,
        })
    }
}

fn spawn(
    node: u16,
    own: &Ports,
    all: &[Ports],
    data_dir: &Path,
    log: &Path,
    pki: Option<&Path>,
) -> std::io::Result<Child> {
    let scheme = if pki.is_some() { "https" } else { "http" };
    let url = |port: u16| format!("{scheme}://127.0.0.1:{port}");
    let cluster: Vec<String> = (1..)
        .zip(all)
        .map(|(n, ports)| format!("etcd-{n}={}", url(ports.peer)))
        .collect();
    let log = File::create(log)?;
    let mut command = Command::new(PROGRAM);
    command
        .args(["--name", &format!("etcd-{node}")])
        .arg("--data-dir")
        .arg(data_dir)
        .args([
            "--listen-client-urls",
            &url(own.client),
            "--advertise-client-urls",
            &url(own.client),
        ])
        .args([
            "--listen-peer-urls",
            &url(own.peer),
            "--initial-advertise-peer-urls",
            &url(own.peer),
        ])
        .args([
            "--listen-metrics-urls",
            &format!("http://127.0.0.1:{}", own.metrics),
        ])
        .args([
            "--initial-cluster",
            &cluster.join(","),
            "--initial-cluster-state",
            "new",
        ])
        .args(["--initial-cluster-token", "messagebase-bench"])
        .args(["--quota-backend-bytes", &QUOTA_BYTES.to_string()])
        .args(["--logger", "zap", "--log-level", "warn"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    if let Some(pki) = pki {
        let (ca, pem, key) = (
            pki::ca_pem(pki),
            pki::node_pem(pki, node),
            pki::node_key(pki, node),
        );
        for [cert, key_option] in [
            ["--cert-file", "--key-file"],
            ["--peer-cert-file", "--peer-key-file"],
        ] {
            command.arg(cert).arg(&pem).arg(key_option).arg(&key);
        }
        command.arg("--peer-trusted-ca-file").arg(ca);
        command.arg("--peer-client-cert-auth");
    }
    command.spawn()
}
