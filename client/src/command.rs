//! The commands that a person types, from one definition: parser, help and completion all read [`COMMANDS`]. Pipe lines
//! and slash commands mean the same [`Command`]s. Pure.

use messagebase_protocol::pipe;

/// What was asked for.
#[derive(Clone, PartialEq, Eq)]
pub enum Command {
    /// Make an account.
    Register {
        /// Name, if given.
        user: Option<String>,
        /// Password, in the pipe line only.
        password: Option<String>,
    },
    /// Begin a session.
    Login {
        /// Name, if given.
        user: Option<String>,
        /// Password, in the pipe line only.
        password: Option<String>,
    },
    /// End the session on every node.
    Logout,
    /// Delete the account.
    Delete {
        /// Must be the account that is logged in, where given.
        user: Option<String>,
        /// Its password, which no line carries.
        password: Option<String>,
    },
    /// Change the password. No line carries one.
    Password {
        /// The old one.
        old: Option<String>,
        /// The new one.
        new: Option<String>,
    },
    /// List users.
    Users {
        /// A glob.
        pattern: Option<String>,
    },
    /// Send a message; without text, open the conversation (interactive).
    Msg {
        /// Recipient.
        to: String,
        /// Text.
        text: Option<String>,
    },
    /// Answer the latest sender (interactive).
    Reply {
        /// Text; without it, open the conversation.
        text: Option<String>,
    },
    /// Leave the conversation (interactive).
    Close,
    /// Undelivered messages.
    Inbox,
    /// Messages as they come (scripted).
    Listen,
    /// A conversation.
    History {
        /// The other one.
        with: String,
    },
    /// The nodes.
    Status,
    /// What to do with messages that were written for another cluster (interactive).
    Outbox {
        /// True sends them, false forgets them.
        send: bool,
    },
    /// All commands.
    Help,
    /// The pipe dialect's own help.
    PipeHelp,
    /// Leave.
    Quit,
}

impl std::fmt::Debug for Command {
    /// Without passwords and texts: a debug line may reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Command::Register { .. } => "register",
            Command::Login { .. } => "login",
            Command::Logout => "logout",
            Command::Delete { .. } => "delete",
            Command::Password { .. } => "password",
            Command::Users { .. } => "users",
            Command::Msg { .. } => "msg",
            Command::Reply { .. } => "reply",
            Command::Close => "close",
            Command::Inbox => "inbox",
            Command::Listen => "listen",
            Command::History { .. } => "history",
            Command::Status => "status",
            Command::Outbox { .. } => "outbox",
            Command::Help => "help",
            Command::PipeHelp => "h",
            Command::Quit => "quit",
        })
    }
}

/// Where a command makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// At the prompt and in scripts.
    Both,
    /// At the prompt.
    Prompt,
    /// In scripts.
    Script,
}

/// One command's entry.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Its word.
    pub name: &'static str,
    /// What follows the word.
    pub arguments: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Where it makes sense.
    pub mode: Mode,
}

const fn spec(name: &'static str, arguments: &'static str, help: &'static str, mode: Mode) -> Spec {
    Spec {
        name,
        arguments,
        help,
        mode,
    }
}

/// All of them, in the order of the help.
pub const COMMANDS: &[Spec] = &[
    spec(
        "register",
        "[NAME]",
        "make an account; at the prompt also log in",
        Mode::Both,
    ),
    spec(
        "login",
        "[NAME]",
        "begin a session; at the prompt in place of another one, which is not ended",
        Mode::Both,
    ),
    spec("logout", "", "end the session on every node", Mode::Both),
    spec(
        "msg",
        "NAME [TEXT]",
        "send a message; without TEXT open the conversation with NAME",
        Mode::Both,
    ),
    spec(
        "reply",
        "[TEXT]",
        "answer the latest sender; without TEXT open the conversation",
        Mode::Prompt,
    ),
    spec("close", "", "leave the conversation", Mode::Prompt),
    spec("inbox", "", "show what is undelivered", Mode::Both),
    spec("listen", "", "show messages as they come", Mode::Script),
    spec(
        "history",
        "NAME",
        "show the conversation with NAME",
        Mode::Both,
    ),
    spec("users", "[GLOB]", "list users", Mode::Both),
    spec("password", "", "change the password", Mode::Both),
    spec(
        "delete",
        "",
        "delete the account that is logged in",
        Mode::Both,
    ),
    spec("status", "", "show the nodes", Mode::Both),
    spec(
        "outbox",
        "send|drop",
        "send or forget what was held back for another cluster",
        Mode::Prompt,
    ),
    spec("help", "", "this help", Mode::Both),
    spec("quit", "", "leave", Mode::Both),
];

/// A line that is no command: what is wrong, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong(pub String);

/// Reads a pipe line, if it has that shape.
pub fn parse_pipe(line: &str) -> Option<Result<Command, Wrong>> {
    if !pipe::is_pipe_shaped(line) {
        return None;
    }
    let Some(command) = pipe::parse(line) else {
        return Some(Err(Wrong(
            "a field is missing; `h` shows the commands".into(),
        )));
    };
    Some(Ok(match command {
        pipe::Command::Register { user, password } => Command::Register {
            user: Some(user),
            password: Some(password),
        },
        pipe::Command::Login { user, password } => Command::Login {
            user: Some(user),
            password: Some(password),
        },
        pipe::Command::Delete { user } => Command::Delete {
            user: Some(user),
            password: None,
        },
        pipe::Command::List => Command::Users { pattern: None },
        pipe::Command::Search { pattern } => Command::Users {
            pattern: Some(pipe::search_glob(&pattern)),
        },
        pipe::Command::Send { to, body } => Command::Msg {
            to,
            text: Some(body),
        },
        pipe::Command::Help => Command::PipeHelp,
    }))
}

/// Reads a slash command without its slash. A text is the rest of the line, as it is.
pub fn parse_slash(line: &str) -> Result<Command, Wrong> {
    let (word, rest) = split_word(line);
    let argument = || {
        Some(rest.trim())
            .filter(|rest| !rest.is_empty())
            .map(str::to_owned)
    };
    let none = |command: Command| match argument() {
        None => Ok(command),
        Some(_) => Err(Wrong(format!("`{word}` takes no argument"))),
    };
    let one = |what: &str| match argument() {
        Some(argument) if argument.contains(char::is_whitespace) => Err(Wrong(format!(
            "`{word}` takes one {what}; a password is asked for, never typed into the line"
        ))),
        argument => Ok(argument),
    };
    match word {
        "register" => Ok(Command::Register {
            user: one("name")?,
            password: None,
        }),
        "login" => Ok(Command::Login {
            user: one("name")?,
            password: None,
        }),
        "logout" => none(Command::Logout),
        "delete" => Ok(Command::Delete {
            user: one("name")?,
            password: None,
        }),
        "password" => none(Command::Password {
            old: None,
            new: None,
        }),
        "users" => Ok(Command::Users {
            pattern: one("glob")?,
        }),
        "msg" => parse_msg(rest),
        "reply" => Ok(Command::Reply {
            text: Some(rest.to_owned()).filter(|text| !text.trim().is_empty()),
        }),
        "close" => none(Command::Close),
        "inbox" => none(Command::Inbox),
        "listen" => none(Command::Listen),
        "history" => match one("name")? {
            Some(with) => Ok(Command::History { with }),
            None => Err(Wrong("`history` needs a name: history NAME".into())),
        },
        "status" => none(Command::Status),
        "outbox" => match argument().as_deref() {
            Some("send") => Ok(Command::Outbox { send: true }),
            Some("drop") => Ok(Command::Outbox { send: false }),
            _ => Err(Wrong(
                "`outbox` needs to know what to do: outbox send, or outbox drop".into(),
            )),
        },
        "help" | "h" => none(Command::Help),
        "quit" | "exit" => none(Command::Quit),
        "" => Err(Wrong("a command is missing; `help` shows them".into())),
        other => Err(Wrong(format!("no command `{other}`; `help` shows them"))),
    }
}

fn parse_msg(rest: &str) -> Result<Command, Wrong> {
    let (to, text) = split_word(rest);
    if to.is_empty() {
        return Err(Wrong("`msg` needs a name: msg NAME [TEXT]".into()));
    }
    Ok(Command::Msg {
        to: to.to_owned(),
        text: Some(text.to_owned()).filter(|text| !text.is_empty()),
    })
}

/// Reads a line of a script: a pipe line, or a slash command with or without its slash.
pub fn parse_script_line(line: &str) -> Result<Command, Wrong> {
    parse_pipe(line).unwrap_or_else(|| parse_slash(line.strip_prefix('/').unwrap_or(line)))
}

/// Reads the words of a command line: one pipe line, or a command and its arguments, a text in one word or several.
pub fn parse_words(words: &[String]) -> Result<Command, Wrong> {
    match words {
        [line] => parse_script_line(line),
        [word, to, text @ ..] if word.trim_start_matches('/') == "msg" && !text.is_empty() => {
            Ok(Command::Msg {
                to: to.clone(),
                text: Some(text.join(" ")),
            })
        }
        words => parse_script_line(&words.join(" ")),
    }
}

/// The help of one mode, a line for each command.
pub fn help(mode: Mode, slash: &str) -> Vec<String> {
    COMMANDS
        .iter()
        .filter(|spec| spec.mode == Mode::Both || spec.mode == mode)
        .map(|spec| {
            let usage = format!("{slash}{} {}", spec.name, spec.arguments);
            format!("{:<18} {}", usage.trim_end(), spec.help)
        })
        .collect()
}

/// Whether a line may carry a password and must not be kept. Rather too often: people leave the slash away, or type a
/// password behind a command that refuses it.
pub fn is_secret(line: &str) -> bool {
    let line = line.trim_start();
    let pipe = line
        .strip_prefix(['1', '2'])
        .is_some_and(|rest| rest.trim_start().starts_with('|'));
    let word = split_word(line.trim_start_matches('/'))
        .0
        .to_ascii_lowercase();
    pipe || matches!(word.as_str(), "register" | "login" | "password" | "delete")
}

/// The first word and what follows the one blank behind it.
fn split_word(line: &str) -> (&str, &str) {
    let line = line.trim_start();
    line.split_once(char::is_whitespace).unwrap_or((line, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn msg(to: &str, text: &str) -> Command {
        Command::Msg {
            to: to.into(),
            text: Some(text.into()),
        }
    }

    #[test]
    fn every_command_of_the_table_parses_and_none_is_missing_from_it() {
        for spec in COMMANDS {
            let line = format!(
                "{} {}",
                spec.name,
                if spec.name == "outbox" { "send" } else { "" }
            );
            let parsed = match parse_slash(&line) {
                Err(wrong) => {
                    assert!(
                        spec.arguments.starts_with("NAME"),
                        "{}: {wrong:?}",
                        spec.name
                    );
                    continue;
                }
                Ok(parsed) => parsed,
            };
            assert_eq!(format!("{parsed:?}"), spec.name);
        }
    }

    #[test]
    fn a_text_is_the_rest_of_the_line() {
        assert_eq!(
            parse_slash("msg bob  two  blanks \"quoted\" |"),
            Ok(msg("bob", " two  blanks \"quoted\" |"))
        );
        assert_eq!(
            parse_slash("msg bob"),
            Ok(Command::Msg {
                to: "bob".into(),
                text: None
            })
        );
        assert!(parse_slash("msg").is_err());
    }

    #[test]
    fn pipe_lines_mean_the_same_commands() {
        assert_eq!(parse_script_line("d|bob|a|b"), Ok(msg("bob", "a|b")));
        assert_eq!(parse_script_line("4"), Ok(Command::Users { pattern: None }));
        assert_eq!(
            parse_script_line("5|al"),
            Ok(Command::Users {
                pattern: Some("al*".into())
            })
        );
        assert_eq!(parse_script_line("h"), Ok(Command::PipeHelp));
        assert_eq!(
            parse_script_line("3|alice"),
            Ok(Command::Delete {
                user: Some("alice".into()),
                password: None
            })
        );
        assert!(parse_script_line("d|bob").is_err());
    }

    #[test]
    fn the_words_of_a_command_line() {
        let words = |words: &[&str]| {
            parse_words(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(
            words(&["msg", "bob", "hello there"]),
            Ok(msg("bob", "hello there"))
        );
        assert_eq!(
            words(&["msg", "bob", "hello", "there"]),
            Ok(msg("bob", "hello there"))
        );
        assert_eq!(words(&["d|bob|hi"]), Ok(msg("bob", "hi")));
        assert_eq!(words(&["users"]), Ok(Command::Users { pattern: None }));
        assert_eq!(
            words(&["history", "bob"]),
            Ok(Command::History { with: "bob".into() })
        );
        assert!(words(&["frobnicate"]).is_err());
    }

    #[test]
    fn a_password_in_a_slash_command_is_refused() {
        assert!(parse_slash("login alice secret").is_err());
        assert!(parse_slash("password old").is_err());
    }

    #[test]
    fn lines_with_passwords_are_secret() {
        for line in [
            "1|a|b",
            "2|a|b",
            " 2|a|b",
            "/login a b",
            "/register a",
            "/password x",
            "login alice hunter22",
            "\t1 | a|b",
            " Login a b",
            "/ login a b",
        ] {
            assert!(is_secret(line), "{line}");
        }
        for line in ["d|a|b", "4", "/msg bob hi", "12|a", "hello", "logins"] {
            assert!(!is_secret(line), "{line}");
        }
    }
}
