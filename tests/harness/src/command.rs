//! Runs a command-line program to its end, or keeps one running and talks to it over its standard input and output.

use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{LONG, SHORT, wait_for};

/// Lines of a [`Talk`] that wait to be heard; a program that writes more than this unheard waits.
const UNHEARD_MAX: usize = 100_000;

/// A program that is about to run. Its environment is empty but for `PATH` and what is added here.
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    program: PathBuf,
    stdin: Option<Vec<u8>>,
    within: Duration,
}

impl Command {
    /// A program in an empty environment.
    pub fn new(program: &Path) -> Command {
        let mut inner = std::process::Command::new(program);
        inner
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        inner
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            .env("TERM", "dumb")
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "1");
        if let Some(filter) = std::env::var_os("RUST_LOG") {
            inner.env("RUST_LOG", filter);
        }
        Command {
            inner,
            program: program.to_owned(),
            stdin: None,
            within: LONG,
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.inner.arg(argument);
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.inner.args(arguments);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    /// Removes a variable.
    #[must_use]
    pub fn without_env(mut self, name: &str) -> Self {
        self.inner.env_remove(name);
        self
    }

    /// Where it runs.
    #[must_use]
    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.inner.current_dir(directory);
        self
    }

    /// What it reads; nothing if not given.
    #[must_use]
    pub fn stdin(mut self, text: &str) -> Self {
        self.stdin = Some(text.as_bytes().to_vec());
        self
    }

    /// How long it may take (a minute if not given).
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Program, arguments and environment for a terminal.
    pub(crate) fn into_parts(self) -> std::process::Command {
        self.inner
    }

    /// Runs it to its end. A program that leaves its output open in a child it forgot fails the test as well.
    #[track_caller]
    pub fn run(mut self) -> Ran {
        let shown = format!("{:?}", self.inner);
        self.inner.stdin(if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        let mut child = self
            .inner
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let child = child
            .as_mut()
            .unwrap_or_else(|e| panic!("failed to start {shown}: {e}"));
        if let (Some(text), Some(mut stdin)) = (self.stdin.take(), child.stdin.take()) {
            // A program that ends before it has read everything breaks the pipe; its exit code says more.
            std::thread::spawn(move || drop(stdin.write_all(&text)));
        }
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        let began = Instant::now();
        let (status, in_time) = wait_or_kill(child, &shown, self.within);
        let output = |from: &Receiver<String>, which: &str| {
            from.recv_timeout(SHORT)
                .unwrap_or_else(|_| panic!("{shown} ended, but its {which} stayed open in a child"))
        };
        let (stdout, stderr) = (
            output(&stdout, "standard output"),
            output(&stderr, "standard error"),
        );
        let ran = Ran {
            shown,
            code: code_of(status),
            stdout,
            stderr,
            took: began.elapsed(),
        };
        assert!(in_time, "did not end within {:?}: {ran}", self.within);
        ran
    }

    /// Starts it and keeps it running, to be talked to.
    #[track_caller]
    pub fn start(mut self) -> Talk {
        let shown = format!("{:?}", self.inner);
        self.inner
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .inner
            .spawn()
            .unwrap_or_else(|e| panic!("failed to start {shown}: {e}"));
        let (said, lines) = sync_channel(UNHEARD_MAX);
        let stdout = child.stdout.take().expect("its output is piped");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        let errors = Arc::new(Mutex::new(String::new()));
        let into = Arc::clone(&errors);
        let stderr = child.stderr.take().expect("its errors are piped");
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut errors = into.lock().expect("nobody panics while writing");
                errors.push_str(&line);
                errors.push('\n');
            }
        });
        let stdin = child.stdin.take();
        Talk {
            child,
            stdin,
            lines,
            errors,
            shown,
            heard: Vec::new(),
        }
    }

    /// The program's path.
    pub fn program(&self) -> &Path {
        &self.program
    }
}

fn collect<R: Read + Send + 'static>(stream: Option<R>) -> Receiver<String> {
    let (done, result) = sync_channel(1);
    let mut stream = stream.expect("it is piped");
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let _ = done.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    result
}

/// Waits for the end; kills what has not ended in time, which the second value says.
#[track_caller]
fn wait_or_kill(child: &mut Child, shown: &str, within: Duration) -> (ExitStatus, bool) {
    let began = Instant::now();
    let mut killed = false;
    let status = wait_for(&format!("the end of {shown}"), within + SHORT, || {
        let ended = child.try_wait().expect("it is our child");
        if ended.is_none() && !killed && began.elapsed() > within {
            killed = child.kill().is_ok();
        }
        ended
    });
    (status, !killed)
}

/// Exit code; a signal counts as 128 + its number, as shells show it.
pub(crate) fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}

/// What a program did.
#[derive(Debug, Clone)]
pub struct Ran {
    shown: String,
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ran {
            shown,
            code,
            stdout,
            stderr,
            took,
        } = self;
        write!(
            f,
            "{shown}\nexit {code} after {took:?}\n-- stdout\n{stdout}\n-- stderr\n{stderr}"
        )
    }
}

impl Ran {
    /// Asserts the exit code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Ran {
        assert!(self.code == code, "expected exit {code} of {self}");
        self
    }

    /// Asserts that a text is on standard output.
    #[track_caller]
    pub fn expect_out(self, text: &str) -> Ran {
        assert!(
            self.stdout.contains(text),
            "expected {text:?} on standard output of {self}"
        );
        self
    }

    /// Asserts that a text is on standard error.
    #[track_caller]
    pub fn expect_err(self, text: &str) -> Ran {
        assert!(
            self.stderr.contains(text),
            "expected {text:?} on standard error of {self}"
        );
        self
    }

    /// The lines of standard output.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("standard output is not JSON ({e}) of {self}"))
    }
}

/// A program that runs and is talked to line by line. Killed when dropped.
#[derive(Debug)]
pub struct Talk {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Arc<Mutex<String>>,
    shown: String,
    heard: Vec<String>,
}

impl Talk {
    /// Writes one line to its standard input.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("its input was not ended yet");
        let written = stdin
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| stdin.flush());
        written.unwrap_or_else(|e| {
            panic!("failed to write to {}: {e}\n{}", self.shown, self.errors())
        });
    }

    /// Reads lines until one fits, and returns it; the others are skipped (and shown when none comes).
    #[track_caller]
    pub fn hear(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + LONG;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                let (heard, errors) = (self.heard.join("\n"), self.errors());
                panic!(
                    "waited {LONG:?} in vain for {what} from {}\n-- heard\n{heard}\n-- errors\n{errors}",
                    self.shown
                );
            };
            self.heard.push(line.clone());
            if fits(&line) {
                return line;
            }
        }
    }

    /// What it wrote to standard error so far.
    pub fn errors(&self) -> String {
        self.errors
            .lock()
            .expect("nobody panics while writing")
            .clone()
    }

    /// Everything heard so far.
    pub fn heard(&self) -> &[String] {
        &self.heard
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self::signal(i32::try_from(self.child.id()).expect("pids fit"), signal);
    }

    /// Ends its input, waits for its end and hears the rest.
    #[track_caller]
    pub fn end(mut self) -> Ran {
        let began = Instant::now();
        drop(self.stdin.take());
        let shown = self.shown.clone();
        let (status, in_time) = wait_or_kill(&mut self.child, &shown, LONG);
        while let Ok(line) = self.lines.recv_timeout(SHORT) {
            self.heard.push(line);
        }
        let stdout = self.heard.iter().map(|line| format!("{line}\n")).collect();
        let ran = Ran {
            shown,
            code: code_of(status),
            stdout,
            stderr: self.errors(),
            took: began.elapsed(),
        };
        assert!(in_time, "did not end within {LONG:?}: {ran}");
        ran
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process by its id, e.g. one whose pid file was read.
///
/// A process with several threads goes on for a moment after SIGSTOP: those that run on other processors stop at their next
/// interrupt. This returns once all have stopped, so that nothing is answered afterwards.
#[track_caller]
pub fn signal(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
    if signal == Signal::SIGSTOP {
        let stopped = || have_all_threads_stopped(pid).then_some(());
        wait_for(&format!("all threads of {pid} to stop"), SHORT, stopped);
    }
}

/// Also when the process is gone.
fn have_all_threads_stopped(pid: i32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    let mut states = threads.flatten().map(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name before it may have any character.
        stat.rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next())
    });
    states.all(|state| !matches!(state, Some('R' | 'S' | 'D')))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Command;

    fn shell(script: &str) -> Command {
        Command::new(Path::new("/bin/sh")).args(&["-c", script])
    }

    #[test]
    fn output_errors_and_code_of_a_program_are_told_apart() {
        let ran = shell("cat; echo problem >&2; exit 7")
            .stdin("in\n")
            .run()
            .expect_code(7);
        assert_eq!(
            (ran.stdout.as_str(), ran.stderr.as_str()),
            ("in\n", "problem\n")
        );
        assert_eq!(shell("kill -9 $$").run().code, 137);
    }

    #[test]
    fn a_talk_answers_line_by_line() {
        let mut talk = shell("while read line; do echo \"<$line>\"; done; exit 4").start();
        talk.say("one");
        assert_eq!(talk.hear("an answer", |line| line.contains("one")), "<one>");
        talk.say("two");
        let ran = talk.end().expect_code(4);
        assert_eq!(ran.lines(), ["<one>", "<two>"]);
    }

    #[test]
    #[should_panic(expected = "did not end within")]
    fn a_program_that_hangs_is_killed_and_fails_the_test() {
        shell("exec sleep 600")
            .within(std::time::Duration::from_millis(200))
            .run();
    }
}
