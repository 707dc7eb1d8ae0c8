//! `mbctl init`: the configuration and everything in `pki/`. An existing configuration is kept; keys that are missing are
//! made.

use std::path::{Path, PathBuf};

use messagebase_config::{
    Address, CONFIG_ENV, CONFIG_FILE, Config, ExampleNode, NodeConfig, example_toml, pki,
};
use serde::Serialize;

use crate::atomic_file::{directory, publish};
use crate::cli::InitArgs;
use crate::error::CtlError;
use crate::exit::Exit;
use crate::keys::{self, Made};
use crate::output::Output;

/// The base port unless `--base-port` sets one. Node N's client port is the base port plus N.
pub const BASE_PORT: u16 = 7_100;
/// Nodes of a new configuration, unless `--nodes` says otherwise.
pub const NODES: u16 = 3;
/// What the peer, http and plain ports add to the client port.
const PORT_STEPS: [u16; 3] = [100, 200, 300];
const CLUSTER_NAME: &str = "messagebase";

/// Runs the command.
///
/// # Errors
/// The existing configuration is not valid or contradicts the arguments (exit 2), or something can't be written (exit 1).
pub fn run(flag: Option<&Path>, arguments: &InitArgs, output: &Output) -> Result<Exit, CtlError> {
    let file = place(flag, arguments.dir.as_deref())?;
    let existed = file.exists();
    if existed && let Some(reason) = contradiction(&Config::load(&file)?, arguments) {
        return Err(
            CtlError::usage(format!("{} exists, and {reason}", file.display())).hint(
                "edit the file, or make another cluster elsewhere with `mbctl init --dir DIR`",
            ),
        );
    }
    let shape = Shape {
        cluster: arguments.cluster.as_deref().unwrap_or(CLUSTER_NAME),
        nodes: arguments.nodes.unwrap_or(NODES),
        base_port: arguments.base_port.unwrap_or(BASE_PORT),
        limits: &[],
    };
    let (config, made) = make(&file, &shape)?;
    output.data(&Report::new(&config, existed, &made), |report| {
        report.text(&config)
    });
    Ok(Exit::Done)
}

/// Which argument contradicts an existing configuration, which `init` never changes.
fn contradiction(config: &Config, arguments: &InitArgs) -> Option<String> {
    if let Some(name) = arguments
        .cluster
        .as_ref()
        .filter(|name| **name != config.cluster)
    {
        return Some(format!("its cluster is `{}`, not `{name}`", config.cluster));
    }
    let nodes = config.nodes.len();
    if let Some(wanted) = arguments
        .nodes
        .filter(|wanted| usize::from(*wanted) != nodes)
    {
        return Some(format!("it has {nodes} nodes, not {wanted}"));
    }
    let base_port = arguments.base_port?;
    let other = |node: &&NodeConfig| {
        u32::from(node.client.port) != u32::from(base_port) + u32::from(node.id)
    };
    config.nodes.iter().find(other).map(|node| {
        format!(
            "node {} has the client port {}, not {base_port} + {}",
            node.id, node.client.port, node.id
        )
    })
}

/// What a new configuration looks like.
pub struct Shape<'a> {
    /// Its name for people.
    pub cluster: &'a str,
    /// How many nodes.
    pub nodes: u16,
    /// Node N's client port is the base port plus N.
    pub base_port: u16,
    /// Keys of `[limits]` and their values, where they are not the defaults.
    pub limits: &'a [(&'a str, u32)],
}

/// Writes the configuration and the keys that don't exist yet.
///
/// # Errors
/// As [`run`].
pub fn make(file: &Path, shape: &Shape<'_>) -> Result<(Config, Made), CtlError> {
    let mut wrote = false;
    if !file.exists() {
        if let Some(parent) = file
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            let failed = |e| {
                CtlError::failed("io", format!("failed to make {}", parent.display())).because(e)
            };
            directory(parent).map_err(failed)?;
        }
        let text = with_limits(example_toml(shape.cluster, &nodes(shape)), shape.limits);
        let failed =
            |e| CtlError::failed("io", format!("failed to write {}", file.display())).because(e);
        publish(file, text.as_bytes()).map_err(failed)?;
        wrote = true;
    }
    let config = Config::load(file)?;
    let mut made = keys::complete(&config)?;
    if wrote {
        made.created.insert(0, config.path.clone());
    }
    Ok((config, made))
}

/// The configuration's path: from `--dir`, `--config`, the environment, or the current directory.
fn place(flag: Option<&Path>, dir: Option<&Path>) -> Result<PathBuf, CtlError> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|e| {
            CtlError::usage(format!("`{}` is not a usable path", path.display())).because(e)
        })
    };
    match (flag, dir) {
        (Some(flag), Some(dir)) => {
            let (file, inside) = (absolute(flag)?, absolute(&dir.join(CONFIG_FILE))?);
            if file.parent() != inside.parent() {
                return Err(
                    CtlError::usage("--config and --dir name different directories")
                        .hint("give one of them"),
                );
            }
            Ok(file)
        }
        (Some(flag), None) => absolute(flag),
        (None, Some(dir)) => absolute(&dir.join(CONFIG_FILE)),
        (None, None) => {
            let named = std::env::var_os(CONFIG_ENV).filter(|named| !named.is_empty());
            absolute(&named.map_or_else(|| PathBuf::from(CONFIG_FILE), PathBuf::from))
        }
    }
}

fn nodes(shape: &Shape<'_>) -> Vec<ExampleNode> {
    let [peer, http, plain] = PORT_STEPS;
    let node = |id: u16| {
        let address = |step: u16| Address {
            host: "127.0.0.1".into(),
            port: shape.base_port + step + id,
        };
        ExampleNode {
            id,
            client: address(0),
            peer: address(peer),
            http: address(http),
            plain: address(plain),
        }
    };
    (1..=shape.nodes).map(node).collect()
}

/// Sets keys of `[limits]`. The example has every key with its default, as a comment.
fn with_limits(mut text: String, limits: &[(&str, u32)]) -> String {
    for (key, value) in limits {
        let lines = text
            .lines()
            .map(|line| match line.strip_prefix(&format!("# {key} = ")) {
                Some(_) => format!("{key} = {value}\n"),
                None => format!("{line}\n"),
            });
        text = lines.collect();
    }
    text
}

/// Every port that a new configuration of this shape names.
pub fn ports(shape: &Shape<'_>) -> Vec<u16> {
    let of = |node: ExampleNode| {
        [
            node.client.port,
            node.peer.port,
            node.http.port,
            node.plain.port,
        ]
    };
    nodes(shape).into_iter().flat_map(of).collect()
}

#[derive(Serialize)]
struct Report {
    config: PathBuf,
    config_kept: bool,
    created: Vec<PathBuf>,
    renewed: Vec<PathBuf>,
}

impl Report {
    fn new(config: &Config, existed: bool, made: &Made) -> Self {
        let (created, renewed) = (made.created.clone(), made.renewed.clone());
        Report {
            config: config.path.clone(),
            config_kept: existed,
            created,
            renewed,
        }
    }

    fn text(&self, config: &Config) -> String {
        let mut lines = Vec::new();
        if self.config_kept {
            lines.push(format!("kept     {}", self.config.display()));
        }
        lines.extend(
            self.created
                .iter()
                .map(|path| format!("created  {}", path.display())),
        );
        lines.extend(
            self.renewed
                .iter()
                .map(|path| format!("renewed  {} (the old one is beside it)", path.display())),
        );
        if self.created.is_empty() && self.renewed.is_empty() {
            lines.push("Nothing was missing.".into());
        }
        lines.push(String::new());
        lines.extend(advice(config));
        lines.join("\n")
    }
}

/// What to copy where, and what to do next.
fn advice(config: &Config) -> Vec<String> {
    let local = |node: &NodeConfig| keys::is_loopback_host(&node.peer.host);
    let all_here = config.nodes.iter().all(local);
    let mut lines = if all_here {
        vec!["All nodes are on this machine, so there is nothing to copy.".to_owned()]
    } else {
        copies(config)
    };
    lines.push(format!(
        "Keep {}/ca.key elsewhere: only `mbctl init` needs it, and its holder can pose as any node.",
        config.pki_dir.display()
    ));
    let default = std::path::absolute(CONFIG_FILE).is_ok_and(|default| default == config.path);
    let flag = if default {
        String::new()
    } else {
        format!(" --config {}", config.path.display())
    };
    lines.push(if all_here {
        format!("Next: `mbctl{flag} up`, then `mbclient{flag}`.")
    } else {
        format!(
            "Next: start `mbd --node N` on each node's machine, then look with `mbctl{flag} status`."
        )
    });
    lines
}

/// Which files each machine needs.
fn copies(config: &Config) -> Vec<String> {
    let file = config
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let mut lines = vec!["Copy, beside each other as they are here:".to_owned()];
    for node in &config.nodes {
        let host = &node.peer.host;
        let (pki, node) = (Path::new("pki"), node.id);
        let (ca, certificate) = (pki::ca_pem(pki), pki::node_pem(pki, node));
        lines.push(format!(
            "  to {host} (node {node}): {file}, {}, {}, pki/node-{node}.key",
            ca.display(),
            certificate.display()
        ));
    }
    lines.push(format!("  to clients: {file}, pki/ca.pem"));
    lines.push(format!(
        "  to operators: {file}, pki/ca.pem, pki/admin.pem, pki/admin.key"
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_the_base_and_are_all_different() {
        let shape = Shape {
            cluster: "x",
            nodes: 3,
            base_port: BASE_PORT,
            limits: &[],
        };
        let mut all = ports(&shape);
        assert_eq!(all[..4], [7101, 7201, 7301, 7401]);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 12);
        assert_eq!(
            ports(&Shape {
                nodes: 99,
                base_port: 65_100,
                ..shape
            })
            .iter()
            .max(),
            Some(&65_499)
        );
    }

    #[test]
    fn a_second_init_makes_nothing_and_changes_nothing() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("deep/messagebase.toml");
        let shape = Shape {
            cluster: "x",
            nodes: 2,
            base_port: 9_000,
            limits: &[],
        };
        let (config, made) = make(&file, &shape).expect("made");
        assert_eq!((config.nodes.len(), made.created.len()), (2, 9), "{made:?}");
        let text = std::fs::read(&file).expect("there");
        let (config, made) = make(&file, &Shape { nodes: 5, ..shape }).expect("kept");
        assert_eq!((config.nodes.len(), made), (2, Made::default()));
        assert_eq!(std::fs::read(&file).expect("there"), text);
    }

    #[test]
    fn both_flags_may_name_one_place() {
        let both = |flag: &str, dir: &str| place(Some(Path::new(flag)), Some(Path::new(dir)));
        assert_eq!(
            both("/a/messagebase.toml", "/a").expect("one place"),
            Path::new("/a/messagebase.toml")
        );
        assert!(both("/a/messagebase.toml", "/b").is_err());
    }

    fn arguments(nodes: Option<u16>, base_port: Option<u16>, cluster: Option<&str>) -> InitArgs {
        InitArgs {
            nodes,
            dir: None,
            base_port,
            cluster: cluster.map(str::to_owned),
        }
    }

    #[test]
    fn arguments_that_contradict_the_configuration_are_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("messagebase.toml");
        let shape = Shape {
            cluster: "x",
            nodes: 3,
            base_port: 9_000,
            limits: &[],
        };
        let (config, _) = make(&file, &shape).expect("made");
        for same in [
            arguments(None, None, None),
            arguments(Some(3), Some(9_000), Some("x")),
        ] {
            assert_eq!(contradiction(&config, &same), None);
        }
        for (other, reason) in [
            (arguments(Some(5), None, None), "it has 3 nodes, not 5"),
            (arguments(None, Some(23_100), None), "client port 9001"),
            (arguments(None, None, Some("y")), "`x`, not `y`"),
        ] {
            let found = contradiction(&config, &other).expect("a contradiction");
            assert!(found.contains(reason), "{found}");
        }
        let refused = run(
            Some(&file),
            &arguments(None, Some(23_100), None),
            &Output::new(false),
        );
        assert_eq!(refused.expect_err("refused").exit(), Exit::Usage);
    }

    #[test]
    fn nodes_of_other_machines_are_started_there() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("messagebase.toml");
        let shape = Shape {
            cluster: "x",
            nodes: 2,
            base_port: 9_000,
            limits: &[],
        };
        let (mut config, _) = make(&file, &shape).expect("made");
        let next = |config: &Config| advice(config).pop().expect("the last line");
        assert!(next(&config).contains(" up`"));
        config.nodes[1].peer.host = "two.example.org".into();
        let remote = next(&config);
        assert!(
            remote.contains("mbd --node N") && !remote.contains(" up`"),
            "{remote}"
        );
    }
}
