//! `cargo xtask arrows`: the dependency arrows that ARCHITECTURE.md draws, between crates and between the daemon's rooms,
//! and no circles between the modules of any folder. Each failure names the arrow and where it is broken. Reads
//! ARCHITECTURE.md, `cargo tree`, the manifests and the sources; it does not compile anything.

mod circles;
mod paths;
mod table;

use std::path::Path;
use std::process::{Command, ExitCode};

use crate::sources::{Source, sources};
use circles::Siblings;
use table::Arrows;

/// (package, crates of others that it must never depend on, not even through others; why). Which of the project's own crates
/// it may use is a table of ARCHITECTURE.md.
const OTHERS: &[(&str, &[&str], &str)] = &[
    (
        "messagebase-protocol",
        &["tokio", "rustls", "rusqlite", "openraft"],
        "the protocol is bytes in, values out",
    ),
    (
        "messagebase-config",
        &["tokio", "rusqlite", "openraft"],
        "the configuration is files in, values out",
    ),
    (
        "messagebase-client",
        &["openraft", "rusqlite"],
        "a client sees the line protocol alone",
    ),
    (
        "messagebase-bench",
        &["openraft", "rusqlite"],
        "a benchmark measures what any client would see",
    ),
    (
        "messagebase-checker",
        &["tokio", "openraft", "rusqlite"],
        "the checker takes histories and knows no program",
    ),
    (
        "messagebase-ctl",
        &["openraft", "rusqlite", "h2", "hdrhistogram"],
        "an operator's tool talks to nodes",
    ),
    (
        "messagebase-harness",
        &["openraft"],
        "integration tests see the programs from outside",
    ),
];

/// (path prefixes where they may stand, texts, why). A log filter may name the crate; code that uses it may not.
const WORDS: &[(&[&str], &[&str], &str)] = &[(
    &["daemon/src/raft", "sim/", "xtask/"],
    &["openraft::", "openraft_", "use openraft"],
    "only the daemon's raft/ and the simulation name openraft, so that it can be replaced",
)];

/// (path prefix, text that must not stand under it, why).
const BANNED: &[(&str, &str, &str)] = &[
    (
        "daemon/src/state",
        "SystemTime::now",
        "replicas that read their own clock diverge",
    ),
    (
        "daemon/src/state",
        "Instant::now",
        "replicas that read their own clock diverge",
    ),
    ("daemon/src/state", "tokio::", "apply is synchronous"),
    ("protocol/src", "std::net", "the protocol does no I/O"),
];

pub fn run(root: &Path) -> ExitCode {
    let sources = sources(root, "rs");
    let broken = match std::fs::read_to_string(root.join("ARCHITECTURE.md")) {
        Ok(drawn) => broken_arrows(root, &drawn, &sources),
        Err(e) => vec![format!("failed to read ARCHITECTURE.md: {e}")],
    };
    if broken.is_empty() {
        println!("arrows: {} source files keep them", sources.len());
        return ExitCode::SUCCESS;
    }
    for line in &broken {
        eprintln!("broken arrow: {line}");
    }
    ExitCode::FAILURE
}

fn broken_arrows(root: &Path, drawn: &str, sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    match Arrows::read(drawn, "Crate") {
        Ok(arrows) => check_crates(root, &arrows, &mut broken),
        Err(e) => broken.push(format!("ARCHITECTURE.md: {e}")),
    }
    match Arrows::read(drawn, "Room") {
        Ok(arrows) => check_rooms(&arrows, sources, &mut broken),
        Err(e) => broken.push(format!("ARCHITECTURE.md: {e}")),
    }
    check_others(root, &mut broken);
    check_lock(root, &mut broken);
    check_circles(sources, &mut broken);
    for source in sources {
        check_words(source, &mut broken);
    }
    broken
}

/// Every manifest of the workspace and what the table says of it; dependencies of tests count too.
fn check_crates(root: &Path, arrows: &Arrows, broken: &mut Vec<String>) {
    for manifest in sources(root, "toml") {
        let Some(package) = package_name(&manifest.text) else {
            continue;
        };
        let Some(allowed) = arrows.of(package) else {
            broken.push(format!(
                "{package} is not in ARCHITECTURE.md's table of crates ({})",
                manifest.path
            ));
            continue;
        };
        for (at, line) in manifest.text.lines().enumerate() {
            let own = own_dependency(line).filter(|name| !allowed.iter().any(|a| a == name));
            if let Some(name) = own {
                broken.push(format!("{package} → {name} ({}:{})", manifest.path, at + 1));
            }
        }
    }
}

/// The name of the package of a manifest of this workspace.
fn package_name(manifest: &str) -> Option<&str> {
    let package = manifest.split("[package]").nth(1)?;
    let name = package.lines().find_map(|l| l.strip_prefix("name = \""))?;
    name.strip_suffix('"')
}

/// `messagebase-x` in a line `messagebase-x.workspace = true` or `messagebase-x = { workspace = true }`; a profile may name it
/// too.
fn own_dependency(line: &str) -> Option<&str> {
    let name = line.split(['.', ' ', '=']).next()?;
    let is_use = name.starts_with("messagebase-") && line.contains("workspace");
    is_use.then_some(name)
}

fn check_rooms(arrows: &Arrows, sources: &[Source], broken: &mut Vec<String>) {
    for source in sources {
        let Some(inside) = source.path.strip_prefix("daemon/src/") else {
            continue;
        };
        let module = paths::module_of(inside);
        let Some(room) = module.first().filter(|_| !is_test(inside)) else {
            continue;
        };
        let Some(allowed) = arrows.of(room) else {
            broken.push(format!(
                "{room} is not in ARCHITECTURE.md's table of rooms ({})",
                source.path
            ));
            continue;
        };
        for (line, named) in paths::named(&source.text, &module) {
            let Some(other) = named.first().filter(|other| *other != room) else {
                continue;
            };
            if !allowed.contains(other) {
                broken.push(format!("{room} → {other} ({}:{line})", source.path));
            }
        }
    }
    for room in arrows.names() {
        let found = |path: &str| sources.iter().any(|source| source.path.starts_with(path));
        if !found(&format!("daemon/src/{room}.rs")) && !found(&format!("daemon/src/{room}/")) {
            broken.push(format!(
                "ARCHITECTURE.md draws a room {room} that is not there"
            ));
        }
    }
}

/// Tests of a room in files of their own may reach for more than the room.
fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("testing")
}

fn check_circles(sources: &[Source], broken: &mut Vec<String>) {
    let mut crates: std::collections::BTreeMap<&str, Siblings> = std::collections::BTreeMap::new();
    for source in sources {
        let Some((package, inside)) = source.path.split_once("/src/") else {
            continue;
        };
        if is_test(inside) {
            continue;
        }
        let module = paths::module_of(inside);
        let siblings = crates.entry(package).or_default();
        for (line, named) in paths::named(&source.text, &module) {
            siblings.note(&module, &named, &format!("{}:{line}", source.path));
        }
    }
    for siblings in crates.values() {
        broken.extend(siblings.circles());
    }
}

fn check_others(root: &Path, broken: &mut Vec<String>) {
    for (package, never, why) in OTHERS {
        let tree = match tree_of(root, package) {
            Ok(tree) => tree,
            Err(e) => {
                broken.push(format!("cargo tree {package}: {e}"));
                continue;
            }
        };
        let names = tree
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        let mut found: Vec<&str> = names.filter(|name| never.contains(name)).collect();
        found.sort_unstable();
        found.dedup();
        for name in found {
            broken.push(format!("{package} → {name}: {why} (see its Cargo.toml)"));
        }
    }
}

/// All crates that the package is built with, one a line.
fn tree_of(root: &Path, package: &str) -> Result<String, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--edges", "normal", "--prefix", "none"])
        .args(["--format", "{p}", "--package", package])
        .current_dir(root)
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn check_lock(root: &Path, broken: &mut Vec<String>) {
    match std::fs::read_to_string(root.join("Cargo.lock")) {
        Ok(lock) if lock.contains("name = \"aws-lc-sys\"") => {
            broken.push(
                "Cargo.lock: aws-lc-sys came in; a TLS crate lost its `default-features = false`"
                    .into(),
            );
        }
        Ok(_) => {}
        Err(e) => broken.push(format!("failed to read Cargo.lock: {e}")),
    }
}

fn check_words(source: &Source, broken: &mut Vec<String>) {
    let path = &source.path;
    for (number, line) in paths::code_lines(&source.text) {
        for (allowed, words, why) in WORDS {
            let found = words.iter().find(|word| line.contains(**word));
            if let Some(word) =
                found.filter(|_| !allowed.iter().any(|prefix| path.starts_with(prefix)))
            {
                broken.push(format!("{word}: {why} ({path}:{number})"));
            }
        }
        for (prefix, banned, why) in BANNED {
            if path.starts_with(prefix) && line.contains(banned) {
                broken.push(format!("{banned}: {why} ({path}:{number})"));
            }
        }
    }
}
