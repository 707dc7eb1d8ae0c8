//! One daemon of a [`crate::Cluster`]: a child process with a log file, which a test kills, stops, wipes and restarts.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::clock_stall::Watch;
use crate::command::{self, code_of};
use crate::ports::NodePorts;
use crate::wait::{SHORT, wait_for};

/// How long a graceful stop may take : the promised 5 s and a little for a busy machine.
const STOP_WITHIN: Duration = Duration::from_secs(8);
const LOG_LINES_SHOWN: usize = 60;

/// A daemon that may be running or not.
#[derive(Debug)]
pub struct Node {
    number: u16,
    ports: NodePorts,
    mbd: PathBuf,
    config: PathBuf,
    directory: PathBuf,
    data: PathBuf,
    environment: Vec<(String, String)>,
    child: Mutex<Option<Child>>,
}

impl Node {
    pub(crate) fn new(
        number: u16,
        ports: NodePorts,
        mbd: PathBuf,
        config: PathBuf,
        directory: PathBuf,
        data: PathBuf,
        environment: Vec<(String, String)>,
    ) -> Node {
        Node {
            number,
            ports,
            mbd,
            config,
            directory,
            data,
            environment,
            child: Mutex::new(None),
        }
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Its ports.
    pub fn ports(&self) -> NodePorts {
        self.ports
    }

    /// Where its standard error goes.
    fn log_path(&self) -> PathBuf {
        self.directory.join(format!("node-{}.log", self.number))
    }

    /// What it has logged, all its runs together.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Starts it; does not wait for anything.
    #[track_caller]
    pub fn start(&self) {
        let mut child = self.child.lock().expect("not poisoned");
        assert!(child.is_none(), "node {} runs already", self.number);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("its log file");
        let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
        let started = std::process::Command::new(&self.mbd)
            .arg("--node")
            .arg(self.number.to_string())
            .arg("--config")
            .arg(&self.config)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.directory)
            .env("RUST_LOG", filter)
            .env("RUST_BACKTRACE", "1")
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn();
        *child =
            Some(started.unwrap_or_else(|e| panic!("failed to start {}: {e}", self.mbd.display())));
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = self.child.lock().expect("not poisoned").as_ref() {
            command::signal(i32::try_from(child.id()).expect("pids fit"), signal);
        }
    }

    /// SIGKILL; returns once it is dead.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().expect("not poisoned").take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: it hangs, its connections stay.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// SIGTERM; does not wait for anything.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// SIGTERM; returns the exit code, which must come soon on a machine that runs.
    #[track_caller]
    pub fn stop(&self) -> i32 {
        let (watch, began) = (Watch::begin(), Instant::now());
        self.signal(Signal::SIGTERM);
        let code = self.exit_code(SHORT);
        let took = began.elapsed();
        assert!(
            took < STOP_WITHIN || watch.stood_still().is_some(),
            "node {} took {took:?} to stop",
            self.number
        );
        code
    }

    /// Waits until it has ended by itself and returns its exit code.
    #[track_caller]
    pub fn exit_code(&self, within: Duration) -> i32 {
        let mut child = self.child.lock().expect("not poisoned");
        let running = child
            .as_mut()
            .unwrap_or_else(|| panic!("node {} was not started", self.number));
        let what = format!("the end of node {}", self.number);
        let status = wait_for(&what, within, || {
            running.try_wait().expect("it is our child")
        });
        *child = None;
        code_of(status)
    }

    /// The exit code of a process that has ended by itself and was not asked for it yet; `None` while it runs or when
    /// none was started.
    pub fn ended(&self) -> Option<i32> {
        let mut child = self.child.lock().expect("not poisoned");
        let status = child.as_mut()?.try_wait().ok()??;
        *child = None;
        Some(code_of(status))
    }

    /// Whether the process runs.
    pub fn is_running(&self) -> bool {
        let mut child = self.child.lock().expect("not poisoned");
        child
            .as_mut()
            .is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()))
    }

    /// SIGKILL if it runs, then starts it.
    #[track_caller]
    pub fn restart(&self) {
        self.kill();
        self.start();
    }

    /// Removes its data directory, as a lost disk would. It must not run.
    #[track_caller]
    pub fn wipe(&self) {
        assert!(!self.is_running(), "node {} still runs", self.number);
        std::fs::remove_dir_all(&self.data).expect("its data directory");
    }

    /// Waits until its log contains a text that it did not contain at the length `from` (see [`Node::log`]).
    #[track_caller]
    pub fn wait_log(&self, from: usize, text: &str, within: Duration) {
        wait_for(
            &format!("node {} to log {text:?}", self.number),
            within,
            || {
                let log = self.log();
                log.get(from..)
                    .unwrap_or_default()
                    .contains(text)
                    .then_some(())
            },
        );
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            show_log(self.number, &self.log());
        }
    }
}

/// Writes the end of a log, for the reader of a failed test.
pub(crate) fn show_log(node: u16, text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
    eprintln!(
        "---- log of node {node}, from line {} of {}",
        from + 1,
        lines.len()
    );
    for line in &lines[from..] {
        eprintln!("{line}");
    }
}
