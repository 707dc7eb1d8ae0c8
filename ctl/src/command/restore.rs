//! `mbctl restore`: a new cluster with what is in a backup, as one node of this machine. The work is `mbd`'s, which knows
//! the file; this says what comes next.

use std::path::Path;
use std::process::{Command, Output as Ended, Stdio};

use messagebase_protocol::time::iso8601;
use serde::{Deserialize, Serialize};

use crate::cli::BackupArgs;
use crate::cluster::{Cluster, Survey, unknown_node};
use crate::command::these_or_here;
use crate::error::CtlError;
use crate::exit::Exit;
use crate::output::Output;
use crate::process;

/// What `mbd --restore` says.
#[derive(Debug, Deserialize)]
struct Made {
    cluster_id: String,
    former_cluster_id: String,
    taken_from: u16,
    taken_at: u64,
    users: u64,
}

/// What `mbd --restore` says.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answer {
    Made(Made),
    Failed { error: Failure },
}

/// Why it failed.
#[derive(Debug, Deserialize)]
struct Failure {
    code: String,
    message: String,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Restored {
    node: u16,
    cluster_id: String,
    former_cluster_id: String,
    taken_from: u16,
    /// Unix ms.
    taken_at: u64,
    users: u64,
    /// The commands that make the cluster whole, in order.
    next: Vec<String>,
}

/// Runs the command. `flag`: the configuration as it was named on the command line, for the commands that follow.
///
/// # Errors
/// The node is not known (exit 2); it or another one of a cluster runs, its directory is not empty or the file is no
/// backup (exit 1).
pub async fn run(
    cluster: &Cluster,
    flag: Option<&Path>,
    arguments: &BackupArgs,
    output: &Output,
) -> Result<Exit, CtlError> {
    let config = &cluster.config;
    let node = match arguments.node {
        Some(node) if config.node(node).is_none() => return Err(unknown_node(config, node)),
        Some(node) => node,
        // There is one, or `these_or_here` has said so.
        None => these_or_here(config, &[])?.first().copied().unwrap_or(1),
    };
    if let Some(pid) = process::running(config, node) {
        return Err(
            CtlError::failed("node_running", format!("node {node} runs (process {pid})")).hint(
                format!(
                    "a restore begins with a stopped node and an empty directory: mbctl down {node}"
                ),
            ),
        );
    }
    refuse_beside(&cluster.survey().await)?;
    output.note("checking and copying the backup");
    let (mbd, file) = (process::program("mbd")?, arguments.file.clone());
    let (config_file, directory) = (config.path.clone(), config.node_dir(node));
    let ended = tokio::task::spawn_blocking(move || mbd_restore(&mbd, node, &config_file, &file));
    let ended = ended
        .await
        .map_err(|e| CtlError::failed("internal", e.to_string()))?;
    let ended = ended.map_err(|e| CtlError::failed("io", "failed to run mbd").because(e))?;
    let made = read(&ended, &directory)?;
    let mut others: Vec<u16> = config
        .nodes
        .iter()
        .map(|other| other.id)
        .filter(|other| *other != node)
        .collect();
    others.sort_unstable();
    let flag = flag
        .map(|path| format!(" --config {}", quoted(&path.to_string_lossy())))
        .unwrap_or_default();
    let restored = Restored {
        node,
        cluster_id: made.cluster_id,
        former_cluster_id: made.former_cluster_id,
        taken_from: made.taken_from,
        taken_at: made.taken_at,
        users: made.users,
        next: next(node, &others)
            .into_iter()
            .map(|command| command + &flag)
            .collect(),
    };
    output.data(&restored, text);
    Ok(Exit::Done)
}

/// Two clusters at the addresses of one would both serve its clients.
fn refuse_beside(survey: &Survey) -> Result<(), CtlError> {
    let Some(member) = survey
        .reports()
        .into_iter()
        .find(|report| report.cluster_id.is_some())
    else {
        return Ok(());
    };
    let (node, id) = (
        member.node,
        member.cluster_id.as_deref().unwrap_or_default(),
    );
    Err(CtlError::failed("cluster_runs", format!("node {node} runs as a member of the cluster {id}")).hint(format!(
        "a node that lost its disk comes back with `mbctl member replace N`; to give that cluster up: mbctl stop {node}"
    )))
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%,".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn mbd_restore(mbd: &Path, node: u16, config: &Path, file: &Path) -> std::io::Result<Ended> {
    let mut command = Command::new(mbd);
    command
        .arg("--node")
        .arg(node.to_string())
        .arg("--config")
        .arg(config)
        .arg("--restore")
        .arg(file);
    command
        .stdin(Stdio::null())
        .env_remove(crate::password::PASSWORD_ENV)
        .output()
}

fn read(ended: &Ended, directory: &Path) -> Result<Made, CtlError> {
    match serde_json::from_slice(&ended.stdout) {
        Ok(Answer::Made(made)) => Ok(made),
        Ok(Answer::Failed { error }) => {
            let directory = directory.display();
            let failed = CtlError::failed(&error.code, error.message);
            Err(match error.code.as_str() {
                "not_empty" => failed.hint(format!(
                    "put what the old node left aside: mv {directory} {directory}.before (a node that lost nothing but \
                     its place in a living cluster needs no restore)"
                )),
                "no_backup" => failed.hint("`mbctl backup FILE` makes one"),
                _ => failed,
            })
        }
        Err(_) => {
            let errors = String::from_utf8_lossy(&ended.stderr);
            let last = errors.lines().last().unwrap_or("mbd said nothing");
            let why = last.strip_prefix("error: ").unwrap_or(last);
            Err(if ended.status.code() == Some(2) {
                CtlError::usage(why)
            } else {
                CtlError::failed("internal", why)
            })
        }
    }
}

/// A learner before the next one: each change needs a majority of those that vote.
fn next(node: u16, others: &[u16]) -> Vec<String> {
    let join = |other: &u16| {
        [
            format!("mbctl up {other}"),
            format!("mbctl member add {other}"),
            format!("mbctl member promote {other}"),
        ]
    };
    std::iter::once(format!("mbctl up {node}"))
        .chain(others.iter().flat_map(join))
        .collect()
}

fn text(restored: &Restored) -> String {
    let mut lines = vec![
        format!(
            "Restored node {} with {} accounts, as the only member of the new cluster {}.",
            restored.node, restored.users, restored.cluster_id
        ),
        format!(
            "The backup is of {}, from node {} of the cluster {}. Everybody logs in anew.",
            iso8601(restored.taken_at),
            restored.taken_from,
            restored.former_cluster_id
        ),
        "Next, each other node with an empty data directory, and `promote` once `mbctl status` shows lag 0:".into(),
    ];
    lines.extend(restored.next.iter().map(|command| format!("  {command}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_word() {
        assert_eq!(quoted("/etc/messagebase.toml"), "/etc/messagebase.toml");
        assert_eq!(quoted("my cluster's.toml"), r"'my cluster'\''s.toml'");
    }

    #[test]
    fn what_mbd_says_decides_the_code_and_the_hint() {
        use std::os::unix::process::ExitStatusExt;
        let ended = |code: i32, out: &str, err: &str| Ended {
            status: std::process::ExitStatus::from_raw(code << 8),
            stdout: out.into(),
            stderr: err.into(),
        };
        let read = |ended| read(&ended, Path::new("/d/node-1"));
        let made =
            r#"{"cluster_id":"n","former_cluster_id":"o","taken_from":2,"taken_at":5,"users":7}"#;
        assert_eq!(read(ended(0, made, "")).expect("made").users, 7);
        let refused = r#"{"error":{"code":"not_empty","message":"/d/node-1 is not empty"}}"#;
        let e = read(ended(1, refused, "error: /d/node-1 is not empty\n")).expect_err("refused");
        assert_eq!((e.code(), e.exit()), ("not_empty", Exit::Failed));
        assert!(
            e.hint_text()
                .is_some_and(|hint| hint.contains("mv /d/node-1 ")),
            "{e}"
        );
        let e = read(ended(2, "", "error: no key\n")).expect_err("refused");
        assert_eq!((e.to_string().as_str(), e.exit()), ("no key", Exit::Usage));
    }

    #[test]
    fn the_others_join_one_after_the_other() {
        assert_eq!(next(2, &[]), ["mbctl up 2"]);
        let expected = [
            "mbctl up 2",
            "mbctl up 1",
            "mbctl member add 1",
            "mbctl member promote 1",
        ];
        assert_eq!(next(2, &[1]), expected);
    }
}
