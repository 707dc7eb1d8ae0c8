//! Why a command failed, for people and for scripts: a kind that becomes the exit code, a code, the chain of causes and
//! what to do next.

use std::error::Error;
use std::fmt;

use messagebase_config::ConfigError;
use messagebase_protocol::peer::{AdminError, AdminErrorKind};

use crate::exit::Exit;

/// A failed command.
#[derive(Debug)]
pub struct CtlError {
    exit: Exit,
    code: String,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl CtlError {
    fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        CtlError {
            exit,
            code: code.into(),
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// Arguments that make no sense together (exit 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    /// Refused or failed (exit 1).
    pub fn failed(code: &str, message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, code, message)
    }

    /// No node answered (exit 3).
    pub fn no_node(message: impl Into<String>) -> Self {
        Self::new(Exit::NoQuorum, "no_node", message)
    }

    /// No majority, or no leader (exit 3).
    pub fn no_quorum(message: impl Into<String>) -> Self {
        Self::new(Exit::NoQuorum, "no_quorum", message)
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the process exits with.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// For scripts.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The next command, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for CtlError {
    /// The message and its causes on one line, without the hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause: Option<&(dyn Error + 'static)> = self.source.as_deref().map(|e| e as _);
        while let Some(e) = cause {
            write!(f, ": {e}")?;
            cause = e.source();
        }
        Ok(())
    }
}

impl Error for CtlError {}

impl From<ConfigError> for CtlError {
    fn from(mut e: ConfigError) -> Self {
        let hint = e.hint.take();
        CtlError {
            hint,
            ..Self::new(Exit::Usage, "config", e.to_string())
        }
    }
}

impl From<AdminError> for CtlError {
    fn from(e: AdminError) -> Self {
        let exit = match e.kind {
            AdminErrorKind::NotLeader | AdminErrorKind::NoQuorum => Exit::NoQuorum,
            AdminErrorKind::Refused | AdminErrorKind::Internal => Exit::Failed,
        };
        CtlError {
            hint: e.hint,
            ..Self::new(exit, e.code.as_str(), e.message)
        }
    }
}

#[cfg(test)]
mod tests {
    use messagebase_protocol::peer::AdminCode;

    use super::*;

    #[test]
    fn the_chain_of_causes_is_one_line_and_the_hint_is_apart() {
        let cause = std::io::Error::other("no space left on device");
        let e = CtlError::failed("io", "failed to write node-1.key")
            .because(cause)
            .hint("free some space");
        assert_eq!(
            e.to_string(),
            "failed to write node-1.key: no space left on device"
        );
        assert_eq!(e.hint_text(), Some("free some space"));
    }

    #[test]
    fn a_node_without_a_quorum_exits_3_and_a_refusal_1() {
        let admin = |kind| AdminError {
            kind,
            code: AdminCode::Refused,
            message: "y".into(),
            hint: None,
            leader: None,
        };
        assert_eq!(
            CtlError::from(admin(AdminErrorKind::NoQuorum)).exit(),
            Exit::NoQuorum
        );
        assert_eq!(
            CtlError::from(admin(AdminErrorKind::NotLeader)).exit(),
            Exit::NoQuorum
        );
        assert_eq!(
            CtlError::from(admin(AdminErrorKind::Refused)).exit(),
            Exit::Failed
        );
    }
}
