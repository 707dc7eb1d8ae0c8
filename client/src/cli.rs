//! The command line of `mbclient`: its options, and the passwords that are given without a question.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, Parser};

use crate::client::Options;
use crate::error::ClientError;

/// Logs in (and registers) without a question.
pub const PASSWORD_ENV: &str = "MESSAGEBASE_PASSWORD";
/// The new password of the `password` command, without a question.
pub const NEW_PASSWORD_ENV: &str = "MESSAGEBASE_NEW_PASSWORD";
/// The longest patience: a day.
const PATIENCE_MAX_SECONDS: u64 = 24 * 60 * 60;
/// A password file holds one line.
const PASSWORD_FILE_MAX_BYTES: u64 = 4 * 1024;

/// Chat over a MessageBase cluster.
///
/// Without a COMMAND on a terminal: a line editor. With one, or with another standard input: one command a line, replies
/// in the pipe dialect (or JSON) on standard output, everything else on standard error.
#[derive(Debug, Clone, Parser)]
#[command(name = "mbclient", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// The configuration [default: $MESSAGEBASE_CONFIG, else ./messagebase.toml, else the demo's]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The account to use [default: the last one that logged in here]
    #[arg(long, short, value_name = "NAME", global = true)]
    pub user: Option<String>,
    /// Replies and events as JSON, one a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Do not acknowledge what `inbox` and `listen` show
    #[arg(long, global = true)]
    pub peek: bool,
    /// End at the first refusal
    #[arg(long, global = true)]
    pub stop_on_error: bool,
    /// A file whose first line is the password
    #[arg(long, value_name = "FILE", global = true)]
    pub password_file: Option<PathBuf>,
    /// A file whose first line is the new password (for `password`)
    #[arg(long, value_name = "FILE", global = true)]
    pub new_password_file: Option<PathBuf>,
    /// The node to begin with [default: the first of the configuration that is ready]
    #[arg(long, value_name = "N", global = true)]
    pub node: Option<u16>,
    /// How long a command goes on while the cluster can't serve it [default: 10, without any node 4; lines of standard
    /// input: 60 and 20]
    #[arg(long, value_name = "SECONDS", global = true, value_parser = clap::value_parser!(u64).range(1..=PATIENCE_MAX_SECONDS))]
    pub patience: Option<u64>,
    /// A command without its slash, or one quoted pipe line
    #[arg(value_name = "COMMAND")]
    pub command: Vec<String>,
}

const AFTER_HELP: &str = "\
Commands:
  register [NAME]        make an account (password: MESSAGEBASE_PASSWORD or --password-file)
  login, logout          begin a session and keep its token; end it on every node
  msg NAME TEXT          send a message; the text `-` is read from standard input
  inbox                  show the undelivered messages and acknowledge them
  listen                 show messages as they come, until interrupted
  users [GLOB]           list users
  history NAME           show the conversation with NAME
  password               change the password (new one: MESSAGEBASE_NEW_PASSWORD or --new-password-file)
  delete                 delete the account
  status                 show the nodes
  'd|NAME|TEXT' 4 h ...  any line of the pipe dialect, quoted

Exit status, the worst that happened: 0 done, 1 refused, 2 usage or configuration, 3 no node or no quorum,
4 not logged in.";

impl Cli {
    /// Parses arguments. Options are taken before and after the command word; behind `msg NAME` whatever is none of
    /// them is text, also if it begins with a dash.
    ///
    /// # Errors
    /// clap's, which know how to print themselves (`--help` is one of them).
    pub fn parse_arguments<I, T>(arguments: I) -> Result<Cli, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        Cli::try_parse_from(text_behind_dashes(
            arguments.into_iter().map(Into::into).collect(),
        ))
    }

    /// The password that was given without a question: the file before the environment.
    ///
    /// # Errors
    /// `Usage`: the file can't be read, is longer than 4 KiB or begins with an empty line.
    pub fn given_password(&self) -> Result<Option<String>, ClientError> {
        given(self.password_file.as_deref(), PASSWORD_ENV)
    }

    /// The new password that was given without a question.
    ///
    /// # Errors
    /// As [`Cli::given_password`].
    pub fn given_new_password(&self) -> Result<Option<String>, ClientError> {
        given(self.new_password_file.as_deref(), NEW_PASSWORD_ENV)
    }

    /// The library's options that follow, where the command line says nothing those given.
    pub fn options(&self, given: Options) -> Options {
        let mut options = Options {
            node: self.node,
            ..given
        };
        if let Some(seconds) = self.patience {
            options.patience = Duration::from_secs(seconds);
            options.no_node_patience = options.patience;
        }
        options
    }
}

/// Marks the text of `msg NAME TEXT` as text, which clap would take for options where it begins with a dash: options
/// first, then `--`, then the text. Other commands stay as they are.
fn text_behind_dashes(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut definition = Cli::command();
    definition.build();
    // `Some(true)`: an option whose value is the next argument.
    let option = |argument: &OsString| {
        let argument = argument.to_str()?;
        let name = argument.split_once('=').map_or(argument, |(name, _)| name);
        let known = definition.get_arguments().find(|known| {
            known
                .get_long()
                .is_some_and(|long| name.strip_prefix("--") == Some(long))
                || known.get_short().is_some_and(|short| {
                    argument.strip_prefix('-') == Some(short.encode_utf8(&mut [0; 4]))
                })
        })?;
        Some(known.get_action().takes_values() && name == argument)
    };
    let (mut options, mut words, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = arguments.iter().cloned();
    options.extend(rest.next());
    while let Some(argument) = rest.next() {
        let behind_name = words.len() == 2;
        if argument == "--" && behind_name {
            texts.extend(rest.by_ref());
        } else if let Some(has_value) = option(&argument) {
            options.push(argument);
            options.extend(has_value.then(|| rest.next()).flatten());
        } else if behind_name {
            texts.push(argument);
        } else if argument.as_encoded_bytes().starts_with(b"-")
            || (words.is_empty() && !is_msg(&argument))
        {
            // Not a message, or a mistake for clap to name.
            return arguments;
        } else {
            words.push(argument);
        }
    }
    if texts.is_empty() {
        return arguments;
    }
    options
        .into_iter()
        .chain(words)
        .chain([OsString::from("--")])
        .chain(texts)
        .collect()
}

fn is_msg(word: &OsStr) -> bool {
    word == "msg" || word == "/msg"
}

fn given(file: Option<&Path>, variable: &str) -> Result<Option<String>, ClientError> {
    let Some(file) = file else {
        return Ok(std::env::var(variable)
            .ok()
            .filter(|password| !password.is_empty()));
    };
    let wrong = |what: &dyn std::fmt::Display| {
        ClientError::Usage(format!("password file {}: {what}", file.display()))
    };
    let size = std::fs::metadata(file).map_err(|e| wrong(&e))?.len();
    if size > PASSWORD_FILE_MAX_BYTES {
        return Err(wrong(&"a password file holds one short line"));
    }
    let text = std::fs::read_to_string(file).map_err(|e| wrong(&e))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Some(line.to_owned())),
        _ => Err(wrong(&"the first line is empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Cli {
        Cli::parse_arguments([&["mbclient"], arguments].concat()).unwrap()
    }

    #[test]
    fn options_stand_before_or_after_the_command() {
        for arguments in [
            ["--config", "x.toml", "--user", "alice", "msg", "bob", "hi"],
            ["msg", "bob", "hi", "--config", "x.toml", "--user", "alice"],
        ] {
            let cli = parse(&arguments);
            assert_eq!(cli.config.as_deref(), Some(Path::new("x.toml")));
            assert_eq!(cli.user.as_deref(), Some("alice"));
            assert_eq!(cli.command, ["msg", "bob", "hi"]);
        }
    }

    #[test]
    fn a_text_may_begin_with_a_dash() {
        for text in ["- text", "-x", "-", "--frobnicate", "-uncommon", "plain"] {
            for arguments in [
                ["--config", "x.toml", "msg", "bob", text, "more"],
                ["msg", "bob", text, "more", "--config", "x.toml"],
                ["msg", "--config", "x.toml", "bob", text, "more"],
            ] {
                let cli = parse(&arguments);
                assert_eq!(
                    cli.config.as_deref(),
                    Some(Path::new("x.toml")),
                    "{arguments:?}"
                );
                assert_eq!(cli.command, ["msg", "bob", text, "more"], "{arguments:?}");
            }
        }
        let cli = parse(&["msg", "bob", "--peek", "--", "--json", "-u"]);
        assert_eq!(
            (cli.command.join(" "), cli.peek, cli.json),
            ("msg bob --json -u".to_owned(), true, false)
        );
        for arguments in [
            ["mbclient", "--frobnicate", "inbox"],
            ["mbclient", "msg", "--frobnicate"],
        ] {
            assert!(Cli::parse_arguments(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn patience_is_for_a_cluster_and_for_a_node() {
        let given = || Options {
            patience: Duration::from_secs(9),
            receive: true,
            ..Options::default()
        };
        let options = parse(&["inbox", "--patience", "120"]).options(given());
        assert_eq!(
            (
                options.patience.as_secs(),
                options.no_node_patience.as_secs(),
                options.receive
            ),
            (120, 120, true)
        );
        assert_eq!(parse(&["inbox"]).options(given()).patience.as_secs(), 9);
        for wrong in ["0", "-1", "86401", "soon"] {
            assert!(
                Cli::parse_arguments(["mbclient", "--patience", wrong, "inbox"]).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_pipe_line_is_one_argument() {
        assert_eq!(parse(&["d|bob|hi there"]).command, ["d|bob|hi there"]);
    }
}
