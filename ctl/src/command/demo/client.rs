//! `mbclient` as a subprocess that takes lines of the `plain` protocol, for the demo that plays itself.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::atomic_file;
use crate::error::CtlError;
use crate::password::PASSWORD_ENV;
use crate::process::program;

/// How long a line may take: longer than a failover and a held write together.
const LINE_DEADLINE: Duration = Duration::from_secs(20);
/// How long a client may take to close its session.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// Lines of a client's standard error that are shown when it failed.
const ERROR_LINES: usize = 5;

/// What both clients need.
pub struct Stage {
    /// The configuration.
    pub config: PathBuf,
    /// A directory for the tokens of each user, so that they don't replace the person's own.
    pub state: PathBuf,
    /// The password of both users.
    pub password: String,
}

/// A running `mbclient`. Killed when this is dropped.
pub struct Client {
    user: String,
    child: Child,
    /// `None` once the input was ended.
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    errors_path: PathBuf,
}

impl Stage {
    /// Registers a user.
    ///
    /// # Errors
    /// The client can't be started, or the cluster refuses.
    pub async fn register(&self, user: &str) -> Result<(), CtlError> {
        // The password goes through standard input: a process list shows arguments.
        let mut client = self.start(user, &[])?;
        client.say(&format!("1|{user}|{}", self.password)).await?;
        client.expect("OK").await?;
        Ok(())
    }

    /// Logs a user in; `arguments` begin with the node.
    ///
    /// # Errors
    /// The client can't be started.
    pub fn log_in(&self, user: &str, arguments: &[&str]) -> Result<Client, CtlError> {
        self.start(user, &[&["--user", user], arguments].concat())
    }

    fn start(&self, user: &str, arguments: &[&str]) -> Result<Client, CtlError> {
        let mbclient = program("mbclient")?;
        let failed = |e| {
            CtlError::failed("io", format!("failed to start {}", mbclient.display())).because(e)
        };
        let errors_path = self.state.join(format!("{user}.err"));
        let home = self.state.join(user);
        atomic_file::directory(&home).map_err(failed)?;
        let errors = std::fs::File::create(&errors_path).map_err(failed)?;
        let mut command = Command::new(&mbclient);
        command
            .arg("--config")
            .arg(&self.config)
            .args(arguments)
            .env("XDG_STATE_HOME", home);
        if arguments.is_empty() {
            command.env_remove(PASSWORD_ENV);
        } else {
            command.env(PASSWORD_ENV, &self.password);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let missing = || failed(std::io::Error::other("its pipes are missing"));
        let input = Some(child.stdin.take().ok_or_else(missing)?);
        let lines = BufReader::new(child.stdout.take().ok_or_else(missing)?).lines();
        Ok(Client {
            user: user.to_owned(),
            child,
            input,
            lines,
            errors_path,
        })
    }
}

impl Client {
    /// Writes a line to it.
    ///
    /// # Errors
    /// It has ended.
    pub async fn say(&mut self, line: &str) -> Result<(), CtlError> {
        let Some(input) = &mut self.input else {
            return Err(self.failed("its input was ended"));
        };
        let written = async {
            input.write_all(line.as_bytes()).await?;
            input.write_all(b"\n").await?;
            input.flush().await
        };
        match written.await {
            Ok(()) => Ok(()),
            Err(e) => Err(self.failed(&format!("it does not read: {e}"))),
        }
    }

    /// The next line that begins with `start`; a refusal before it is an error, other lines are skipped.
    ///
    /// # Errors
    /// It is refused, ends, or takes too long.
    pub async fn expect(&mut self, start: &str) -> Result<String, CtlError> {
        let found = timeout(LINE_DEADLINE, async {
            loop {
                match self.lines.next_line().await {
                    Ok(Some(line)) if line.starts_with(start) => return Ok(line),
                    Ok(Some(line)) if line.starts_with("ERR") => return Err(line),
                    Ok(Some(_)) => {}
                    Ok(None) => return Err(format!("it ended before a line `{start}…`")),
                    Err(e) => return Err(e.to_string()),
                }
            }
        });
        let found = found
            .await
            .unwrap_or_else(|_| Err(format!("no line `{start}…` within {LINE_DEADLINE:?}")));
        found.map_err(|reason| self.failed(&reason))
    }

    /// Ends a `listen`, which goes on after the end of its input.
    pub fn interrupt(&self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // An error means that it has ended already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
    }

    /// Ends its input, lets it close its session, and returns the lines that were not read yet.
    pub async fn finish(mut self) -> Vec<String> {
        self.input = None;
        let mut rest = Vec::new();
        let ended = timeout(END_DEADLINE, async {
            while let Ok(Some(line)) = self.lines.next_line().await {
                rest.push(line);
            }
            self.child.wait().await
        });
        if ended.await.is_err() {
            // Its session expires later, which is no failure of the demo.
            let _ = self.child.start_kill();
        }
        rest
    }

    /// The last line of its standard error: what its user was told of the failover.
    pub fn told(&self) -> Option<String> {
        last_lines(&self.errors_path, 1).filter(|line| !line.is_empty())
    }

    fn failed(&self, reason: &str) -> CtlError {
        let said = last_lines(&self.errors_path, ERROR_LINES).filter(|said| !said.is_empty());
        let said = said.map_or_else(String::new, |said| {
            format!("; it said:\n  {}", said.replace('\n', "\n  "))
        });
        CtlError::failed(
            "demo",
            format!("the client of {} failed: {reason}{said}", self.user),
        )
    }
}

fn last_lines(path: &Path, count: usize) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let lines: Vec<&str> = text.lines().collect();
    Some(lines[lines.len().saturating_sub(count)..].join("\n"))
}
