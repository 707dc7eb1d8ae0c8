//! `cargo xtask arrows`: the dependency arrows of ARCHITECTURE.md, between crates and between the daemon's modules.
//! Each failure names the arrow and where it is broken. Reads `cargo tree`, `Cargo.lock` and the sources; it does not
//! compile anything.

mod modules;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// (package, what it must never depend on, why).
const CRATES: &[(&str, &[&str], &str)] = &[
    (
        "messagebase-protocol",
        &[
            "tokio",
            "rustls",
            "messagebase-config",
            "messagebase-daemon",
            "messagebase-client",
            "messagebase-ctl",
        ],
        "the protocol is bytes in, values out",
    ),
    (
        "messagebase-config",
        &[
            "messagebase-daemon",
            "messagebase-client",
            "messagebase-ctl",
            "rusqlite",
            "openraft",
        ],
        "the configuration knows no program",
    ),
    (
        "messagebase-daemon",
        &[
            "messagebase-client",
            "messagebase-ctl",
            "messagebase-harness",
        ],
        "the daemon serves clients, it is none",
    ),
    (
        "messagebase-client",
        &[
            "messagebase-daemon",
            "messagebase-ctl",
            "openraft",
            "rusqlite",
        ],
        "a client sees the line protocol alone",
    ),
    (
        "messagebase-bench",
        &["messagebase-daemon", "openraft", "rusqlite"],
        "a benchmark measures what any client would see",
    ),
    (
        "messagebase-checker",
        &[
            "messagebase-daemon",
            "messagebase-client",
            "messagebase-ctl",
            "tokio",
            "openraft",
            "rusqlite",
        ],
        "a judge takes values and knows no program",
    ),
    (
        "messagebase-ctl",
        &[
            "messagebase-daemon",
            "messagebase-client",
            "messagebase-bench",
            "openraft",
            "rusqlite",
            "h2",
            "hdrhistogram",
        ],
        "an operator's tool talks to nodes",
    ),
    (
        "messagebase-harness",
        &[
            "messagebase-daemon",
            "messagebase-ctl",
            "messagebase-sim",
            "openraft",
        ],
        "integration tests see the daemon and the operator's tool from outside",
    ),
];

/// (modules of the daemon, modules or crates they must never name, why).
const MODULES: &[(&[&str], &[&str], &str)] = &[
    (
        &["store"],
        &["raft", "service", "door", "peer", "fanout", "http"],
        "the store is at the bottom",
    ),
    (
        &["state"],
        &[
            "raft", "service", "door", "peer", "fanout", "http", "node", "config",
        ],
        "apply sees a transaction and a change alone",
    ),
    (
        &["raft"],
        &["service", "door"],
        "replication does not know who asks",
    ),
    (
        &["service"],
        &["door"],
        "a use case does not know the dialect",
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
    let mut broken = Vec::new();
    let sources = sources(root);
    check_crates(root, &mut broken);
    check_lock(root, &mut broken);
    for (path, text) in &sources {
        check_modules(path, text, &mut broken);
        check_words(path, text, &mut broken);
    }
    if sources.len() < CRATES.len() {
        broken.push(format!(
            "only {} source files were found under {}",
            sources.len(),
            root.display()
        ));
    }
    if broken.is_empty() {
        println!(
            "arrows: {} crates and {} source files keep them",
            CRATES.len(),
            sources.len()
        );
        return ExitCode::SUCCESS;
    }
    for line in &broken {
        eprintln!("broken arrow: {line}");
    }
    ExitCode::FAILURE
}

fn check_crates(root: &Path, broken: &mut Vec<String>) {
    for (package, never, why) in CRATES {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let tree = Command::new(cargo)
            .args([
                "tree",
                "--locked",
                "--edges",
                "normal",
                "--prefix",
                "none",
                "--format",
                "{p}",
                "--package",
                package,
            ])
            .current_dir(root)
            .output();
        let tree = match tree {
            Ok(output) if output.status.success() => {
                String::from_utf8_lossy(&output.stdout).into_owned()
            }
            Ok(output) => {
                broken.push(format!(
                    "cargo tree {package}: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                ));
                continue;
            }
            Err(e) => {
                broken.push(format!("failed to run cargo tree: {e}"));
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

fn check_modules(path: &str, text: &str, broken: &mut Vec<String>) {
    let Some(inside) = path.strip_prefix("daemon/src/") else {
        return;
    };
    let module = inside.split('/').next().unwrap_or_default();
    let module = module.strip_suffix(".rs").unwrap_or(module);
    for (modules, never, why) in MODULES
        .iter()
        .filter(|(modules, ..)| modules.contains(&module))
    {
        debug_assert!(modules.contains(&module));
        for (line, named) in modules::named(text) {
            if never.contains(&named.as_str()) {
                broken.push(format!("{module} → {named}: {why} ({path}:{line})"));
            }
        }
    }
}

fn check_words(path: &str, text: &str, broken: &mut Vec<String>) {
    for (number, line) in modules::code_lines(text) {
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

/// (path from the root with `/`, text) of every Rust file of the workspace, build output left out.
fn sources(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut pending: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let shown = path
                    .strip_prefix(root)
                    .unwrap_or(&path)
                    .to_string_lossy()
                    .replace('\\', "/");
                found.extend(
                    std::fs::read_to_string(&path)
                        .ok()
                        .map(|text| (shown, text)),
                );
            }
        }
    }
    found.sort();
    found
}
