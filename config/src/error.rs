//! Why a configuration can't be used. Every program then exits with 2, before it touches data.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// The hint where there is no better one: every refusal says what to do next.
const LOOK_UP: &str =
    "every key is explained in the file that `mbctl init --dir NEW_DIRECTORY` writes";

/// Names the file, the line and the key where there are any, and the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file at fault: the configuration or a key file.
    pub file: PathBuf,
    /// Line in it, from 1.
    pub line: Option<usize>,
    /// The key at fault, e.g. `node.client`.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
    /// The next thing to do.
    pub hint: Option<String>,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": `{key}`")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nHint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// The file that is being read, for errors that name a place in it.
pub(crate) struct Source<'a> {
    pub(crate) path: &'a Path,
    pub(crate) text: &'a str,
}

impl Source<'_> {
    /// The 1-based line on which `span` begins.
    pub(crate) fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().iter().take(span.start);
        before.filter(|byte| **byte == b'\n').count() + 1
    }

    /// An error with the general hint; a caller that knows a better one replaces it.
    pub(crate) fn error(
        &self,
        span: &Range<usize>,
        key: &str,
        message: impl Into<String>,
    ) -> ConfigError {
        ConfigError {
            file: self.path.to_owned(),
            line: Some(self.line(span)),
            key: Some(key.to_owned()),
            message: message.into(),
            hint: Some(LOOK_UP.into()),
        }
    }
}
