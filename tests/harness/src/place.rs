//! A temporary directory with a `messagebase.toml` and keys, in which the programs run in a hermetic environment.
//! Starts no daemon; what was started from it in the background (`mbctl up`) dies with it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::PASSWORD;
use crate::clock_stall::Watch;
use crate::command::{Command, Ran};
use crate::ports::{NodePorts, PortBlock};
use crate::wait::{LONG, wait_for};

/// Of `mbclient`, in seconds: less than a program may run, more than a machine stands still.
const PATIENCE: [&str; 2] = ["--patience", "180"];

/// Paths of the three programs; see [`crate::programs`].
#[derive(Debug, Clone)]
pub struct Programs {
    /// The daemon.
    pub mbd: PathBuf,
    /// The operator's tool.
    pub mbctl: PathBuf,
    /// The chat client.
    pub mbclient: PathBuf,
}

/// What a [`Place`] shall be like.
#[derive(Debug)]
pub struct PlaceBuilder {
    programs: Programs,
    nodes: u16,
    top: Vec<String>,
    limits: Vec<String>,
}

impl PlaceBuilder {
    /// A line of TOML for the top of the file, e.g. `registration = "closed"`.
    #[must_use]
    pub fn setting(mut self, line: &str) -> Self {
        self.top.push(line.to_owned());
        self
    }

    /// A key of `[limits]`.
    #[must_use]
    pub fn limit(mut self, key: &str, value: u64) -> Self {
        self.limits.push(format!("{key} = {value}"));
        self
    }

    /// Writes the configuration, without keys.
    pub fn without_keys(self) -> Place {
        let directory = tempfile::Builder::new()
            .prefix("messagebase-")
            .tempdir()
            .expect("a temporary directory");
        let place = Place {
            directory,
            ports: PortBlock::take(),
            programs: self.programs.clone(),
            nodes: self.nodes,
        };
        let text = self.toml(&place.ports, |_, ports| ports.peer);
        place.write("messagebase.toml", &text);
        place.write("password", PASSWORD);
        place
    }

    /// Writes the configuration and lets `mbctl init` make the keys.
    pub fn make(self) -> Place {
        let place = self.without_keys();
        let directory = place
            .path()
            .to_str()
            .expect("temporary paths are UTF-8")
            .to_owned();
        place.mbctl(&["init", "--dir", &directory]).expect_code(0);
        place
    }

    /// The configuration with the `peer` ports that `peer` says.
    pub(crate) fn toml(&self, ports: &PortBlock, peer: impl Fn(u16, NodePorts) -> u16) -> String {
        let mut text = String::from("cluster = \"test\"\ndata_dir = \"data\"\npki_dir = \"pki\"\n");
        for line in &self.top {
            text.push_str(line);
            text.push('\n');
        }
        for n in 1..=self.nodes {
            let node = ports.node(n);
            let peer = peer(n, node);
            let _ = write!(
                text,
                "\n[[node]]\nid = {n}\nclient = \"127.0.0.1:{}\"\npeer = \"127.0.0.1:{peer}\"\n\
                 http = \"127.0.0.1:{}\"\nplain = \"127.0.0.1:{}\"\n",
                node.client, node.http, node.plain
            );
        }
        if !self.limits.is_empty() {
            let _ = write!(text, "\n[limits]\n{}\n", self.limits.join("\n"));
        }
        text
    }
}

/// The directory. Removed when dropped, after the daemons that still run in it.
#[derive(Debug)]
pub struct Place {
    directory: tempfile::TempDir,
    pub(crate) ports: PortBlock,
    programs: Programs,
    nodes: u16,
}

impl Place {
    /// Begins to describe a place for `nodes` nodes.
    pub fn with(programs: Programs, nodes: u16) -> PlaceBuilder {
        PlaceBuilder {
            programs,
            nodes,
            top: Vec::new(),
            limits: Vec::new(),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.path().join("messagebase.toml")
    }

    /// The keys.
    pub fn pki(&self) -> PathBuf {
        self.path().join("pki")
    }

    /// Node N's data directory.
    pub fn data(&self, node: u16) -> PathBuf {
        self.path().join(format!("data/node-{node}"))
    }

    /// Node N's database.
    pub fn database(&self, node: u16) -> PathBuf {
        self.data(node).join(messagebase_config::DATABASE_FILE)
    }

    /// The numbers of the nodes in the configuration.
    pub fn numbers(&self) -> Vec<u16> {
        (1..=self.nodes).collect()
    }

    /// Node N's ports.
    pub fn ports(&self, node: u16) -> NodePorts {
        self.ports.node(node)
    }

    /// Writes a file below the directory.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text)
            .unwrap_or_else(|e| panic!("failed to write {}: {e}", path.display()));
        path
    }

    /// Reads a file below the directory.
    pub fn read(&self, name: &str) -> String {
        let path = self.path().join(name);
        std::fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("failed to read {}: {e}", path.display()))
    }

    /// Replaces a text of the configuration that must be there.
    pub fn edit_config(&self, from: &str, to: &str) {
        let text = self.read("messagebase.toml");
        assert!(
            text.contains(from),
            "the configuration does not contain {from:?}:\n{text}"
        );
        self.write("messagebase.toml", &text.replacen(from, to, 1));
    }

    /// One of the programs in this place's environment: temporary home and state, no colour, no terminal.
    fn command(&self, program: &Path) -> Command {
        Command::new(program)
            .current_dir(self.path())
            .env("HOME", self.path())
            .env("XDG_STATE_HOME", self.path().join("state"))
            .env("XDG_CONFIG_HOME", self.path().join("config-home"))
            .env("COLUMNS", "160")
    }

    /// `mbd` with these arguments, to be run or started.
    pub fn mbd(&self, arguments: &[&str]) -> Command {
        self.command(&self.programs.mbd).args(arguments)
    }

    /// Runs `mbctl` on this configuration to its end.
    #[track_caller]
    pub fn mbctl(&self, arguments: &[&str]) -> Ran {
        self.mbctl_command(arguments).run()
    }

    /// `mbctl` with what may be asked again: it is when nobody could answer in time (3) on a machine that stood still.
    #[track_caller]
    pub fn mbctl_until_served(&self, arguments: &[&str]) -> Ran {
        wait_for(&format!("mbctl {arguments:?} to be served"), LONG, || {
            let watch = Watch::begin();
            Some(self.mbctl(arguments)).filter(|ran| ran.code != 3 || watch.stood_still().is_none())
        })
    }

    /// `mbctl` on this configuration.
    pub fn mbctl_command(&self, arguments: &[&str]) -> Command {
        self.command(&self.programs.mbctl)
            .arg("--config")
            .arg(self.config())
            .args(arguments)
    }

    /// `mbctl` without a `--config`.
    pub fn bare_mbctl(&self, arguments: &[&str]) -> Command {
        self.command(&self.programs.mbctl).args(arguments)
    }

    /// `mbclient --user USER` on this configuration, with the password that [`crate::TestClient`] registers users with, and
    /// with more patience than usual if the arguments don't say how much.
    pub fn mbclient(&self, user: &str, arguments: &[&str]) -> Command {
        let command = self
            .bare_mbclient(&["--user", user])
            .env("MESSAGEBASE_PASSWORD", PASSWORD);
        let patience = if arguments.contains(&"--patience") {
            &[]
        } else {
            &PATIENCE[..]
        };
        command.args(patience).args(arguments)
    }

    /// `mbclient` on this configuration and nothing else.
    pub fn bare_mbclient(&self, arguments: &[&str]) -> Command {
        self.mbclient_on(&self.config()).args(arguments)
    }

    /// `mbclient` on another configuration.
    pub fn mbclient_on(&self, config: &Path) -> Command {
        self.command(&self.programs.mbclient)
            .arg("--config")
            .arg(config)
    }

    /// The daemons that run on data directories of this place, by their pid files.
    fn background_daemons(&self) -> Vec<Pid> {
        let ours = self
            .programs
            .mbd
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let pids = self.numbers().into_iter().filter_map(|node| {
            let pid: i32 = std::fs::read_to_string(self.data(node).join("mbd.pid"))
                .ok()?
                .trim()
                .parse()
                .ok()?;
            // A stale file may name a process that is none of ours.
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
            command.contains(&ours).then(|| Pid::from_raw(pid))
        });
        pids.collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in self.background_daemons() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        if std::thread::panicking() {
            for node in self.numbers() {
                let log = self.data(node).join("mbd.log");
                if let Ok(text) = std::fs::read_to_string(&log) {
                    crate::node::show_log(node, &text);
                }
            }
        }
    }
}
