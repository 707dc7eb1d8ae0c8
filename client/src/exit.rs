//! The exit codes of `mbclient`, all of them. When several commands ran, the worst that happened counts.

use messagebase_protocol::code::Code;

use crate::error::ClientError;

/// How a run ended. Ordered by the number, which is not the order of badness: see [`Exit::worst`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done.
    #[default]
    Done = 0,
    /// A node refused something.
    Refused = 1,
    /// The command line or the configuration is wrong; nothing was asked of any node.
    Usage = 2,
    /// No node answered, or no majority.
    Unreachable = 3,
    /// A session is needed and there is none.
    NotLoggedIn = 4,
}

impl Exit {
    /// The worse of two: a run that could not even reach a node tells more than one whose third line was refused.
    #[must_use]
    pub fn worst(self, other: Exit) -> Exit {
        if self.badness() >= other.badness() {
            self
        } else {
            other
        }
    }

    /// The process's exit code.
    pub fn code(self) -> std::process::ExitCode {
        std::process::ExitCode::from(self as u8)
    }

    fn badness(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Refused => 1,
            Exit::NotLoggedIn => 2,
            Exit::Usage => 3,
            Exit::Unreachable => 4,
        }
    }
}

impl From<&ClientError> for Exit {
    fn from(error: &ClientError) -> Exit {
        match error {
            ClientError::Refused(failure) => match failure.code {
                Code::NotLoggedIn => Exit::NotLoggedIn,
                Code::NoQuorum | Code::Closing => Exit::Unreachable,
                _ => Exit::Refused,
            },
            ClientError::NotLoggedIn => Exit::NotLoggedIn,
            ClientError::Unreachable { .. } | ClientError::Closed => Exit::Unreachable,
            ClientError::OutboxFull { .. } | ClientError::Withdrawn => Exit::Refused,
            ClientError::Config(_) | ClientError::NoConfig | ClientError::Usage(_) => Exit::Usage,
            ClientError::Io { .. } => Exit::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_whatever_the_order() {
        let all = [
            Exit::Done,
            Exit::Refused,
            Exit::Usage,
            Exit::Unreachable,
            Exit::NotLoggedIn,
        ];
        for a in all {
            assert_eq!(Exit::Done.worst(a), a);
            for b in all {
                assert_eq!(a.worst(b), b.worst(a), "{a:?} {b:?}");
            }
        }
        assert_eq!(Exit::Refused.worst(Exit::NotLoggedIn), Exit::NotLoggedIn);
        assert_eq!(
            Exit::NotLoggedIn.worst(Exit::Unreachable),
            Exit::Unreachable
        );
    }

    #[test]
    fn a_refusal_for_want_of_a_quorum_is_not_the_users_fault() {
        use messagebase_protocol::code::Failure;
        let exit = |code| Exit::from(&ClientError::Refused(Failure::not_done(code, "")));
        assert_eq!(exit(Code::NoQuorum), Exit::Unreachable);
        assert_eq!(exit(Code::NameTaken), Exit::Refused);
        assert_eq!(exit(Code::NotLoggedIn), Exit::NotLoggedIn);
    }
}
