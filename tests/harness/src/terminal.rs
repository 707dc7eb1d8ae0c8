//! A program on a pseudo-terminal, for what only happens when a person sits there: prompts, hidden passwords, editing.

use std::io::{Read, Write};
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{Command as PtyCommand, Pty};

use crate::command::{Command, code_of};
use crate::wait::{LONG, wait_for};

const ROWS: u16 = 40;
/// Wide, so that a prompt and what is typed stay on one line.
const COLUMNS: u16 = 160;

#[derive(Debug, Default)]
struct Screen {
    text: Mutex<String>,
    more: Condvar,
}

/// The terminal. Its program is killed when it is dropped.
pub struct Terminal {
    pty: Arc<Pty>,
    child: Child,
    screen: Arc<Screen>,
    /// How much of the plain text was looked at by earlier waits: up to the end of what they found.
    seen: usize,
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal")
            .field("child", &self.child)
            .finish_non_exhaustive()
    }
}

impl Terminal {
    /// Starts a program on a new terminal.
    #[track_caller]
    pub fn start(command: Command) -> Terminal {
        let (pty, pts) = pty_process::blocking::open().expect("a pseudo-terminal");
        pty.resize(Size::new(ROWS, COLUMNS)).expect("its size");
        let parts = command.into_parts();
        let mut on_terminal = PtyCommand::new(parts.get_program())
            .args(parts.get_args())
            .env_clear();
        for (name, value) in parts
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)))
        {
            on_terminal = on_terminal.env(name, value);
        }
        on_terminal = on_terminal.env("TERM", "xterm");
        if let Some(directory) = parts.get_current_dir() {
            on_terminal = on_terminal.current_dir(directory);
        }
        let child = on_terminal.spawn(pts).expect("the program on the terminal");
        let pty = Arc::new(pty);
        let screen = Arc::new(Screen::default());
        let (reading, into) = (Arc::clone(&pty), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Linux reports the end of the program as an error (EIO).
            while let Ok(n @ 1..) = (&*reading).read(&mut bytes) {
                into.text
                    .lock()
                    .expect("not poisoned")
                    .push_str(&String::from_utf8_lossy(&bytes[..n]));
                into.more.notify_all();
            }
        });
        Terminal {
            pty,
            child,
            screen,
            seen: 0,
        }
    }

    /// Waits until a text has been shown since the last wait, and looks only behind it from then on.
    #[track_caller]
    pub fn wait(&mut self, text: &str) {
        let until = Instant::now() + LONG;
        let mut shown = self.screen.text.lock().expect("not poisoned");
        loop {
            let all = plain(&shown);
            let new = all.get(self.seen..).unwrap_or_default().to_owned();
            // Not further: what follows may have come in the same breath and is the next wait's to find.
            if let Some(at) = new.find(text) {
                self.seen += at + text.len();
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(shown);
                panic!(
                    "waited {LONG:?} in vain for {text:?} on the terminal, since then:\n{new}\n-- all\n{all}"
                );
            }
            shown = self
                .screen
                .more
                .wait_timeout(shown, left)
                .expect("not poisoned")
                .0;
        }
    }

    /// Types keys.
    #[track_caller]
    pub fn keys(&mut self, keys: &str) {
        (&*self.pty)
            .write_all(keys.as_bytes())
            .expect("the terminal is open");
    }

    /// Types a line and Enter.
    #[track_caller]
    pub fn enter(&mut self, line: &str) {
        self.keys(&format!("{line}\r"));
    }

    /// Everything shown so far, escape sequences removed.
    pub fn shown(&self) -> String {
        plain(&self.screen.text.lock().expect("not poisoned"))
    }

    /// Waits for the end of the program and returns its exit code.
    #[track_caller]
    pub fn exit_code(&mut self, within: Duration) -> i32 {
        let child = &mut self.child;
        code_of(wait_for(
            "the program on the terminal to end",
            within,
            || child.try_wait().expect("it is our child"),
        ))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- terminal\n{}", self.shown());
        }
    }
}

/// The text without escape sequences (CSI, OSC and two-character ones).
fn plain(shown: &str) -> String {
    let mut out = String::with_capacity(shown.len());
    let mut chars = shown.chars();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('[') => {
                chars.by_ref().find(|c| ('@'..='~').contains(c));
            }
            Some(']') => {
                chars.by_ref().find(|c| *c == '\u{7}');
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Terminal, plain};
    use crate::command::Command;
    use crate::wait::SHORT;

    #[test]
    fn a_program_has_a_terminal_and_its_keys() {
        let script = "test -t 0 && printf 'name? ' && read name && echo \"hello $name\" && exit 3";
        let mut terminal =
            Terminal::start(Command::new(Path::new("/bin/sh")).args(&["-c", script]));
        terminal.wait("name?");
        terminal.enter("anna");
        terminal.wait("hello anna");
        assert_eq!(terminal.exit_code(SHORT), 3);
    }

    #[test]
    fn escape_sequences_are_removed() {
        assert_eq!(
            plain("\u{1b}[?2004h\u{1b}[1;32manna@n2>\u{1b}[0m hi\u{1b}]0;title\u{7}!"),
            "anna@n2> hi!"
        );
    }
}
