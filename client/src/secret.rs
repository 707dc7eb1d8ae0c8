//! Asks for a password on the terminal. The echo goes off before the question is shown: someone (or some program) who
//! types at once must not see the first letters.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

/// Turns the echo off, and on again when dropped.
struct Silence(Termios);

impl Silence {
    fn begin() -> io::Result<Silence> {
        let before = tcgetattr(io::stdin().as_fd())?;
        let mut silent = before.clone();
        silent.local_flags &= !(LocalFlags::ECHO | LocalFlags::ECHONL);
        // At once, and without discarding what was typed ahead.
        tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &silent)?;
        Ok(Silence(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

/// Shows the prompt and reads a line without echo. Blocks: not for an async thread.
///
/// # Errors
/// The terminal can't be used, or the user pressed Ctrl-C (the process must handle SIGINT then).
pub(crate) fn ask(prompt: &str) -> io::Result<String> {
    let _silence = Silence::begin()?;
    let mut stdout = io::stdout();
    stdout.write_all(prompt.as_bytes())?;
    stdout.flush()?;
    rpassword::read_password()
}
