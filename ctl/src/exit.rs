//! What the exit code says. The numbers are part of the outside contract.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: refused or failed.
    Failed,
    /// 2: usage or configuration.
    Usage,
    /// 3: no node or no quorum answered.
    NoQuorum,
    /// What another program that was run to its end said (`mbctl demo` and its client).
    Other(u8),
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NoQuorum => 3,
            Exit::Other(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
