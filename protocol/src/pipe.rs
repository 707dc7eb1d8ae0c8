//! The pipe dialect, which the first clients of the class project spoke: for netcat and the `mbclient` prompt. The last field
//! of a command is the rest of its line, so a message may contain `|`.

use crate::code::Failure;
use crate::json::Message;
use crate::time::iso8601;

/// What `h` answers, before its `END`.
pub const HELP: &[&str] = &[
    "1|USER|PASSWORD  register (does not log in)",
    "2|USER|PASSWORD  log in; queued messages follow",
    "3|USER           delete the account that is logged in (USER must be it)",
    "4                the user list, one 'NAME online' or 'NAME offline' a line",
    "5|PATTERN        search users: a glob; without * or ? a prefix",
    "d|TO|MESSAGE     send a message",
    "h                this help",
];

/// One command line.
#[derive(Clone, PartialEq, Eq)]
pub enum Command {
    /// `1|USER|PASSWORD`
    Register {
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// `2|USER|PASSWORD`
    Login {
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// `3|USER`
    Delete {
        /// Must be the account that is logged in.
        user: String,
    },
    /// `4`
    List,
    /// `5|PATTERN`
    Search {
        /// As typed; see [`search_glob`].
        pattern: String,
    },
    /// `d|TO|MESSAGE`
    Send {
        /// Recipient.
        to: String,
        /// The rest of the line.
        body: String,
    },
    /// `h`
    Help,
}

impl std::fmt::Debug for Command {
    /// Only the kind: fields hold passwords and bodies.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Command::Register { .. } => "1",
            Command::Login { .. } => "2",
            Command::Delete { .. } => "3",
            Command::List => "4",
            Command::Search { .. } => "5",
            Command::Send { .. } => "d",
            Command::Help => "h",
        })
    }
}

/// Whether a first line (or the beginning of one) belongs to this dialect: `1|`…`5|`, `d|`, `4`, `h`.
pub fn is_pipe_shaped(line: &str) -> bool {
    let line = line.trim_end();
    matches!(line, "4" | "h") || matches!(line.as_bytes(), [b'1'..=b'5' | b'd', b'|', ..])
}

/// Parses one line, without its newline. `None`: not a command of this dialect, or a field is missing.
pub fn parse(line: &str) -> Option<Command> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    match line.trim_end() {
        "4" | "4|" => return Some(Command::List),
        "h" => return Some(Command::Help),
        _ => {}
    }
    let (verb, rest) = line.split_once('|')?;
    let pair = || {
        rest.split_once('|')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
    };
    match verb {
        "1" => pair().map(|(user, password)| Command::Register { user, password }),
        "2" => pair().map(|(user, password)| Command::Login { user, password }),
        "3" => Some(Command::Delete {
            user: rest.to_owned(),
        }),
        "5" => Some(Command::Search {
            pattern: rest.to_owned(),
        }),
        "d" => pair().map(|(to, body)| Command::Send { to, body }),
        _ => None,
    }
}

/// The glob for a search: a pattern without `*` or `?` is a prefix.
pub fn search_glob(pattern: &str) -> String {
    if pattern.contains(['*', '?']) {
        pattern.to_owned()
    } else {
        format!("{pattern}*")
    }
}

/// `ERR code message`, including its `\n`.
pub fn encode_failure(failure: &Failure) -> String {
    format!("ERR {} {}\n", failure.code, one_line(&failure.message))
}

/// `MSG FROM TIME BODY`, including its `\n`.
pub fn encode_message(message: &Message) -> String {
    format!(
        "MSG {} {} {}\n",
        message.from,
        iso8601(message.sent_at),
        escape(&message.body)
    )
}

/// `NAME online` or `NAME offline`, including its `\n`.
pub fn encode_user(name: &str, online: bool) -> String {
    format!("{name} {}\n", if online { "online" } else { "offline" })
}

/// Escapes a body so that it stays on one line: `\` as `\\`, LF as `\n`, CR as `\r`.
pub fn escape(body: &str) -> String {
    let mut out = String::with_capacity(body.len());
    for c in body.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            other => out.push(other),
        }
    }
    out
}

/// The reverse of [`escape`]. An escape that `escape` does not write is kept as it is.
pub fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('\\') => out.push('\\'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
