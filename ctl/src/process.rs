//! `mbd` processes of this machine: found by their pid file, checked by their command line, started and
//! signalled.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use messagebase_config::Config;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::atomic_file;
use crate::error::CtlError;

/// The file in a node's directory that holds its process id.
const PID_FILE: &str = "mbd.pid";
/// The file in a node's directory that holds what `mbd` writes when [`start`] started it.
const LOG_FILE: &str = "mbd.log";
/// Lines of a log that explain why a daemon ended.
const TAIL_LINES: usize = 12;
/// How much of a log's end is searched for these lines.
const TAIL_BYTES: u64 = 16 * 1024;

/// Where a node's log is.
pub fn log_file(config: &Config, node: u16) -> PathBuf {
    config.node_dir(node).join(LOG_FILE)
}

/// The process of a node of this machine, if it runs: the one that the pid file names, if it is an `mbd` of this node. After
/// a reboot the number may belong to another process.
pub fn running(config: &Config, node: u16) -> Option<Pid> {
    let text = std::fs::read_to_string(config.node_dir(node).join(PID_FILE)).ok()?;
    let pid: i32 = text
        .split_whitespace()
        .next()?
        .parse()
        .ok()
        .filter(|pid| *pid > 1)?;
    is_daemon_of(&command_line(pid)?, node).then(|| Pid::from_raw(pid))
}

/// Whether a command line is that of an `mbd` for this node.
fn is_daemon_of(arguments: &[String], node: u16) -> bool {
    let Some((program, rest)) = arguments.split_first() else {
        return false;
    };
    let name = Path::new(program)
        .file_name()
        .is_some_and(|name| name == "mbd");
    let number = node.to_string();
    let separate = rest
        .windows(2)
        .any(|pair| pair[0] == "--node" && pair[1] == number);
    name && (separate
        || rest
            .iter()
            .any(|argument| *argument == format!("--node={number}")))
}

/// A process's arguments; `None` when there is no such process. A zombie has none.
#[cfg(target_os = "linux")]
fn command_line(pid: i32) -> Option<Vec<String>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments = bytes
        .split(|byte| *byte == 0)
        .filter(|argument| !argument.is_empty());
    Some(
        arguments
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect(),
    )
}

/// A process's arguments, as far as `ps` can tell.
#[cfg(not(target_os = "linux"))]
fn command_line(pid: i32) -> Option<Vec<String>> {
    let output = Command::new("ps")
        .args(["-o", "command=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output
        .status
        .success()
        .then(|| text.split_whitespace().map(str::to_owned).collect())
}

/// Sends a signal.
///
/// # Errors
/// The process is gone or belongs to another user.
pub fn signal(pid: Pid, signal: Signal) -> Result<(), CtlError> {
    kill(pid, signal).map_err(|e| {
        CtlError::failed(
            "signal",
            format!("failed to send {signal} to process {pid}"),
        )
        .because(e)
    })
}

/// A program of this workspace: beside this executable, or on PATH.
///
/// # Errors
/// It is in neither place (exit 1).
pub fn program(name: &str) -> Result<PathBuf, CtlError> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|this| Some(this.parent()?.join(name)));
    if let Some(found) = beside.filter(|path| path.is_file()) {
        return Ok(found);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        CtlError::failed(
            "no_program",
            format!("`{name}` is neither beside mbctl nor on PATH"),
        )
        .hint("`cargo install --path .` puts mbd, mbctl and mbclient in one place")
    })
}

/// A daemon that was just started.
pub struct Started {
    /// Its node.
    pub node: u16,
    child: Child,
    log: PathBuf,
    /// Where its part of the log begins.
    log_start: u64,
}

/// Starts `mbd` for a node: its own session, so that closing the terminal leaves it alone; its output appended to the
/// node's log.
///
/// # Errors
/// There is no `mbd`, or the log can't be written.
pub fn start(config: &Config, node: u16) -> Result<Started, CtlError> {
    let mbd = program("mbd")?;
    let directory = config.node_dir(node);
    let failed = |what: &str, e: std::io::Error| CtlError::failed("io", what.to_owned()).because(e);
    atomic_file::directory(&directory)
        .map_err(|e| failed(&format!("failed to make {}", directory.display()), e))?;
    let log = log_file(config, node);
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(atomic_file::FILE_MODE)
        .open(&log);
    let opening = |e| failed(&format!("failed to open {}", log.display()), e);
    let file = opened.map_err(opening)?;
    let log_start = file.metadata().map_err(opening)?.len();
    let errors = file.try_clone().map_err(opening)?;
    let mut command = Command::new(&mbd);
    command
        .arg("--node")
        .arg(node.to_string())
        .arg("--config")
        .arg(&config.path);
    command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .env_remove(crate::password::PASSWORD_ENV);
    own_session(&mut command);
    let child = command
        .spawn()
        .map_err(|e| failed(&format!("failed to start {}", mbd.display()), e))?;
    Ok(Started {
        node,
        child,
        log,
        log_start,
    })
}

/// Lets the command begin a session of its own.
#[allow(
    unsafe_code,
    reason = "std has no safe way to call setsid in the child"
)]
fn own_session(command: &mut Command) {
    // SAFETY: between fork and exec the closure calls setsid alone, which is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()
                .map(drop)
                .map_err(std::io::Error::from)
        });
    }
}

impl Started {
    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills it, if it still runs, and waits until it is gone; a stopped or hung one as well.
    pub fn kill(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The last lines it wrote.
    pub fn last_lines(&self) -> String {
        tail(&self.log, self.log_start)
            .unwrap_or_else(|e| format!("(failed to read {}: {e})", self.log.display()))
    }
}

/// The last lines of a file, none from before `start`.
fn tail(path: &Path, start: u64) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(
        start.max(length.saturating_sub(TAIL_BYTES)),
    ))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_daemon_of_that_node_is_taken_for_one() {
        let line = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_daemon_of(&line("/usr/bin/mbd --node 2 --config /x"), 2));
        assert!(is_daemon_of(&line("mbd --config /x --node=2"), 2));
        assert!(!is_daemon_of(&line("mbd --node 22"), 2));
        assert!(!is_daemon_of(&line("/usr/bin/vim mbd --node 2"), 2));
        assert!(!is_daemon_of(&[], 2), "a zombie");
    }

    #[test]
    fn a_tail_starts_where_the_process_did() {
        let dir = tempfile::tempdir().expect("dir");
        let log = dir.path().join("mbd.log");
        std::fs::write(&log, "of an earlier run\nfirst\nlast\n").expect("written");
        assert_eq!(tail(&log, 18).expect("read"), "first\nlast");
        let many: String = (0..50).map(|line| format!("{line}\n")).collect();
        std::fs::write(&log, many).expect("written");
        assert!(tail(&log, 0).expect("read").starts_with("38\n"));
    }
}
