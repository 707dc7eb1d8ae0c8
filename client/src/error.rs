//! Errors, sorted by what the caller does next: change the request, log in, wait for the cluster, or fix a file.

use std::path::PathBuf;

use messagebase_config::ConfigError;
use messagebase_protocol::code::{Code, Failure};

/// Why the cluster can't be used at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unavailable {
    /// The client is still looking for a node.
    Connecting,
    /// No node answered.
    NoNode {
        /// How many addresses were tried.
        tried: usize,
    },
    /// No node answered, and at least one is there whose certificate is not the cluster's.
    Untrusted {
        /// Which one, and what is wrong with its certificate.
        why: String,
    },
    /// Fewer voters answered than a majority needs.
    NoQuorum {
        /// Voters that answered.
        alive: usize,
        /// A majority.
        needed: usize,
    },
    /// Nodes answer but belong to no cluster yet.
    NotFormed {
        /// Nodes that answered.
        answered: usize,
    },
    /// A majority is there and is choosing a leader.
    Electing,
}

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unavailable::Connecting => write!(f, "no node has answered yet"),
            Unavailable::NoNode { tried } => write!(f, "no node answered ({tried} tried)"),
            Unavailable::Untrusted { why } => write!(f, "no node can be trusted: {why}"),
            Unavailable::NoQuorum { alive, needed } => {
                write!(
                    f,
                    "no quorum: {alive} of the cluster's voters answered, a majority is {needed}"
                )
            }
            Unavailable::NotFormed { answered } => {
                write!(
                    f,
                    "the cluster has not formed yet ({answered} nodes answered, all are blank)"
                )
            }
            Unavailable::Electing => write!(f, "the cluster has no leader at the moment"),
        }
    }
}

/// Why a call of the library failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// A node answered no. Change the request; the failure says whether it may have taken effect.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The call needs a session.
    #[error("not logged in")]
    NotLoggedIn,
    /// Patience ended. A write that was under way may have taken effect (`unknown`).
    #[error("{why}")]
    Unreachable {
        /// What was found at the last try.
        why: Unavailable,
        /// Whether the request may have taken effect all the same.
        unknown: bool,
    },
    /// The outbox holds its limit of unanswered messages; wait for the cluster.
    #[error("the outbox is full: {limit} messages wait for the cluster")]
    OutboxFull {
        /// Messages.
        limit: usize,
    },
    /// The message was taken out of the outbox before it was answered.
    #[error("the message was dropped before a node had answered")]
    Withdrawn,
    /// The configuration or a key file is wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// Neither the command line nor the environment names a configuration, and none is in the usual places.
    #[error(
        "no configuration: there is no messagebase.toml here, and no demo was started by this user"
    )]
    NoConfig,
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// A file of the client's own (token, history, password file) can't be used.
    #[error("failed to use {}: {message}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's words.
        message: String,
    },
    /// The client was closed meanwhile.
    #[error("the client was closed")]
    Closed,
}

impl ClientError {
    /// As the line protocol would have said it, for output in its dialects.
    pub fn as_failure(&self) -> Failure {
        match self {
            ClientError::Refused(failure) => failure.clone(),
            ClientError::NotLoggedIn => Failure::not_done(Code::NotLoggedIn, "not logged in"),
            ClientError::Unreachable { unknown: true, .. } => {
                Failure::unknown(Code::NoQuorum, self.to_string())
            }
            ClientError::Unreachable { .. } => Failure::not_done(Code::NoQuorum, self.to_string()),
            ClientError::OutboxFull { .. } => Failure::not_done(Code::Busy, self.to_string()),
            ClientError::Withdrawn => Failure::unknown(Code::Closing, self.to_string()),
            ClientError::Usage(_) | ClientError::Config(_) | ClientError::NoConfig => {
                Failure::not_done(Code::BadRequest, self.to_string())
            }
            ClientError::Io { .. } => Failure::not_done(Code::Internal, self.to_string()),
            ClientError::Closed => Failure::unknown(Code::Closing, self.to_string()),
        }
    }

    /// What to do next, where the error itself does not say.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            ClientError::Refused(failure) => refusal_hint(failure.code)?,
            ClientError::NotLoggedIn => {
                "log in: `mbclient --user NAME login`, or give `--user NAME` with MESSAGEBASE_PASSWORD or --password-file"
            }
            ClientError::NoConfig => {
                "ask the operator for `messagebase.toml` and `pki/ca.pem`, and name the first with --config FILE or \
                 $MESSAGEBASE_CONFIG; to try a cluster of your own: `cargo demo` or `mbctl demo`"
            }
            ClientError::Unreachable {
                why: Unavailable::NotFormed { .. },
                ..
            } => "a cluster forms once every configured node runs: `mbctl up`, then `mbctl status`",
            ClientError::Unreachable {
                why: Unavailable::Untrusted { .. },
                ..
            } => {
                "ca.pem in pki/ is not this cluster's (copy it from where `mbctl init` ran), or `nodes` in the \
                 configuration names another cluster's addresses"
            }
            ClientError::Unreachable { .. } => {
                "see which nodes run: `mbctl status`; start this machine's: `mbctl up`"
            }
            ClientError::OutboxFull { .. } => {
                "wait until the cluster is back; what is in the outbox will be delivered"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

fn refusal_hint(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::NotLoggedIn => "log in: `mbclient --user NAME login`",
        Code::BadCredentials => "check name and password; a new account is made with `register`",
        Code::NameTaken => "choose another name; names of deleted accounts stay reserved",
        Code::NoSuchUser => "list the users with `users`",
        Code::RateLimited => "wait a minute",
        Code::Locked => "ask the operator: `mbctl user unlock NAME`",
        Code::NoQuorum => "see which nodes run: `mbctl status`",
        _ => return None,
    })
}

/// Where a file of the client's own failed.
pub(crate) fn io_error(file: impl Into<PathBuf>, error: &std::io::Error) -> ClientError {
    ClientError::Io {
        file: file.into(),
        message: error.to_string(),
    }
}
