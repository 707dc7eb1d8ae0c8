//! Signals that end a command as an error does, so that what it made half goes with it.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::CtlError;

/// Somebody wants this program to end.
pub struct Interruption {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Interruption {
    /// From now on these signals no longer end the program on the spot.
    ///
    /// # Errors
    /// The system says no (exit 1).
    pub fn listen() -> Result<Interruption, CtlError> {
        let listen = |kind| {
            signal(kind)
                .map_err(|e| CtlError::failed("io", "failed to listen for signals").because(e))
        };
        Ok(Interruption {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
        })
    }

    /// Waits for one; which, for people.
    pub async fn came(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "interrupted by SIGTERM",
            _ = self.quit.recv() => "interrupted by SIGQUIT",
            _ = self.hangup.recv() => "interrupted, because the terminal is gone",
        }
    }
}
