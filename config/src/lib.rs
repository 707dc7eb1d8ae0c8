//! Finds, reads and validates `messagebase.toml` and `pki/`, all of it before a program touches anything else. The
//! types here hold valid values only. Shared by the daemon and both command-line tools; knows no network and no async.

#![deny(missing_docs)]

mod address;
mod demo;
mod error;
mod example;
mod file;
pub mod pki;
mod validate;

pub use address::Address;
pub use demo::{demo_config, demo_record, recorded_demo, state_dir};
pub use error::ConfigError;
pub use example::{ExampleNode, example_toml};

use std::path::{Path, PathBuf};

use error::Source;

/// Environment variable that names the file when `--config` is not given.
pub const CONFIG_ENV: &str = "MESSAGEBASE_CONFIG";
/// The file that is looked for in the current directory.
pub const CONFIG_FILE: &str = "messagebase.toml";

/// The database in a node's directory: all of the node's state.
pub const DATABASE_FILE: &str = "messagebase.db";

/// The whole, validated configuration. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file that it was read from.
    pub path: PathBuf,
    /// The cluster's name, for people.
    pub cluster: String,
    /// The directory with each node's `node-N/`.
    pub data_dir: PathBuf,
    /// The directory of certificates and keys.
    pub pki_dir: PathBuf,
    /// The nodes in the file's order: at least one, with unique ids.
    pub nodes: Vec<NodeConfig>,
    /// Whether anybody may register. A replicated setting; this is the file's value.
    pub registration_open: bool,
    /// Lifetime of a session, in days (1–3650).
    pub session_days: u32,
    /// Bounds on the load that a node accepts.
    pub limits: Limits,
    /// Days that delivered messages are kept; 0: for ever.
    pub delivered_days: u32,
    /// Cost of a password hash.
    pub password: PasswordCost,
}

/// One `[[node]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// 1–65535.
    pub id: u16,
    /// Address that clients dial.
    pub client: Address,
    /// Address that nodes and operators dial.
    pub peer: Address,
    /// Address of the HTTP listener, if there is one.
    pub http: Option<Address>,
    /// Address of the line protocol without TLS, if it is on; loopback only.
    pub plain: Option<Address>,
    /// Where to listen for clients when it differs from `client`.
    pub client_bind: Option<Address>,
    /// Where to listen for peers when it differs from `peer`.
    pub peer_bind: Option<Address>,
    /// Where to listen for HTTP when it differs from `http`.
    pub http_bind: Option<Address>,
}

/// `[limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Client connections a node accepts (default 20000).
    pub connections: u32,
    /// Sessions of a user (default 16); when one more begins, the oldest ends.
    pub sessions_per_user: u32,
    /// Failed logins a minute for one name (default 10).
    pub failed_logins_per_name: u32,
    /// Failed logins a minute from one address (default 60).
    pub failed_logins_per_address: u32,
    /// Undelivered messages to a user (default 10000).
    pub queued_messages_per_user: u32,
    /// Bytes of bodies in undelivered messages to a user (default 64 MiB).
    pub queued_bytes_per_user: u64,
    /// Bytes of change log that are kept for followers that were away (default 64 MiB).
    pub change_log_bytes: u64,
}

/// `[password]`: cost of argon2id, at least OWASP's minimum (19 MiB, 2 passes, 1 lane).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordCost {
    /// Memory in KiB (default 19456).
    pub memory_kib: u32,
    /// Passes (default 2).
    pub passes: u32,
    /// Lanes (default 1).
    pub lanes: u32,
}

impl Config {
    /// Reads and validates the file that `--config` (`flag`) names; without it `$MESSAGEBASE_CONFIG`; without both
    /// `./messagebase.toml`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn find(flag: Option<&Path>) -> Result<Config, ConfigError> {
        let path = match (flag, std::env::var_os(CONFIG_ENV)) {
            (Some(path), _) => path.to_owned(),
            (None, Some(path)) if !path.is_empty() => PathBuf::from(path),
            (None, _) => PathBuf::from(CONFIG_FILE),
        };
        Config::load(&path)
    }

    /// Reads and validates one file.
    ///
    /// # Errors
    /// It can't be read or is not valid. Names the file, and line and key where there are any.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let path = std::path::absolute(path).map_err(|e| unreadable(path, &e))?;
        let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, &e))?;
        Config::from_text(&path, &text)
    }

    /// Reads and validates the text of the file at `path`, which is absolute.
    fn from_text(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let source = Source { path, text };
        validate::resolve(&source, file::parse(&source)?)
    }

    /// The node with this number.
    pub fn node(&self, id: u16) -> Option<&NodeConfig> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// `data/node-N`.
    pub fn node_dir(&self, id: u16) -> PathBuf {
        self.data_dir.join(format!("node-{id}"))
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> ConfigError {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => {
            "`mbctl init` writes a configuration here; `--config FILE` or $MESSAGEBASE_CONFIG names another one"
        }
        std::io::ErrorKind::InvalidData => {
            "the file must be UTF-8 text in TOML form; `mbctl init` writes an example"
        }
        _ => "make the file readable for this user, or name another one with `--config FILE`",
    };
    ConfigError {
        file: path.to_owned(),
        line: None,
        key: None,
        message: format!("cannot be read: {error}"),
        hint: Some(hint.into()),
    }
}
