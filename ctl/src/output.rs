//! The one place that prints. Data goes to standard output; what is said along the way and errors for people go to
//! standard error, so that a pipe gets data alone.

use std::io::{ErrorKind, IsTerminal, Write};

use serde::Serialize;
use serde_json::json;

use crate::error::CtlError;
use crate::exit::Exit;

/// How to print.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// `json`: data and errors as JSON on standard output.
    pub fn new(json: bool) -> Self {
        Output { json }
    }

    /// Whether data is wanted as JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person reads standard output.
    pub fn is_terminal(&self) -> bool {
        std::io::stdout().is_terminal()
    }

    /// Text to standard output, a newline added.
    pub fn line(&self, text: impl AsRef<str>) {
        self.raw(text.as_ref().as_bytes());
        self.raw(b"\n");
    }

    /// Bytes to standard output as they are.
    pub fn raw(&self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        if let Err(e) = out.write_all(bytes).and_then(|()| out.flush())
            && e.kind() == ErrorKind::BrokenPipe
        {
            // `mbctl changes | head`: the reader has all it wanted, which is not an error.
            std::process::exit(i32::from(Exit::Done.code()));
        }
    }

    /// The data of a command: as JSON on one line, or as the text that `human` makes of it.
    pub fn data<T: Serialize>(&self, value: &T, human: impl FnOnce(&T) -> String) {
        if self.json {
            match serde_json::to_string(value) {
                Ok(text) => self.line(text),
                Err(e) => self.note(format!("failed to write JSON: {e}")),
            }
            return;
        }
        let text = human(value);
        if !text.is_empty() {
            self.line(text);
        }
    }

    /// Something to say along the way; to standard error.
    pub fn note(&self, text: impl AsRef<str>) {
        // Nothing is left to do when standard error is gone.
        let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
    }

    /// Tells why the command failed; returns what to exit with.
    pub fn fail(&self, error: &CtlError) -> Exit {
        if self.json {
            self.line(error_json(error).to_string());
        } else {
            self.note(format!("error: {error}"));
            if let Some(hint) = error.hint_text() {
                self.note(format!("Hint: {hint}"));
            }
        }
        error.exit()
    }
}

fn error_json(error: &CtlError) -> serde_json::Value {
    json!({ "error": { "code": error.code(), "message": error.to_string(), "hint": error.hint_text() } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_json_has_code_message_and_hint() {
        let with = error_json(&CtlError::usage("which node?").hint("name one"));
        assert_eq!(
            with.to_string(),
            r#"{"error":{"code":"usage","hint":"name one","message":"which node?"}}"#
        );
        assert!(error_json(&CtlError::no_node("nobody"))["error"]["hint"].is_null());
    }
}
