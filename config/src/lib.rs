//! `messagebase.toml` and `pki/`: found, read, validated whole before anything else is touched, and turned into
//! values that cannot be wrong. Shared by the daemon and both command-line tools; knows no network and no async.

#![deny(missing_docs)]

mod address;
mod demo;
mod error;
mod example;
mod file;
pub mod pki;
mod validate;

pub use address::Address;
pub use demo::{demo_config, demo_record, state_dir};
pub use error::ConfigError;
pub use example::{ExampleNode, example_toml};

use std::path::{Path, PathBuf};

use error::Source;

/// Environment variable that names the file when `--config` does not.
pub const CONFIG_ENV: &str = "MESSAGEBASE_CONFIG";
/// The file that is looked for in the current directory.
pub const CONFIG_FILE: &str = "messagebase.toml";

/// A node's whole state, in its directory.
pub const DATABASE_FILE: &str = "messagebase.db";

/// The whole, validated configuration. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// A name for people.
    pub cluster: String,
    /// Node N keeps `node-N/` in here.
    pub data_dir: PathBuf,
    /// Certificates and keys.
    pub pki_dir: PathBuf,
    /// At least one, ids unique, in the file's order.
    pub nodes: Vec<NodeConfig>,
    /// Replicated settings as this file has them.
    pub registration_open: bool,
    /// Lifetime of a session, in days (1–3650).
    pub session_days: u32,
    /// Bounds on load.
    pub limits: Limits,
    /// Days that delivered messages are kept; 0: for ever.
    pub delivered_days: u32,
    /// argon2 cost.
    pub password: PasswordCost,
}

/// One `[[node]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// 1–65535.
    pub id: u16,
    /// Clients dial this.
    pub client: Address,
    /// Nodes and admins dial this.
    pub peer: Address,
    /// HTTP, if wanted.
    pub http: Option<Address>,
    /// Line protocol without TLS, if wanted; loopback only.
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
    /// Sessions a user may have; the oldest ends when one more begins (default 16).
    pub sessions_per_user: u32,
    /// Failed logins a minute for one name (default 10).
    pub failed_logins_per_name: u32,
    /// Failed logins a minute from one address (default 60).
    pub failed_logins_per_address: u32,
    /// Undelivered messages a user may have waiting (default 10000).
    pub queued_messages_per_user: u32,
    /// Bytes of bodies a user may have waiting (default 64 MiB).
    pub queued_bytes_per_user: u64,
    /// Bytes of change log kept for followers that were away (default 64 MiB).
    pub change_log_bytes: u64,
}

/// `[password]`: argon2id cost; not below OWASP's minimum (19 MiB, 2 passes, 1 lane).
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
    /// Finds the file (`--config`, else `$MESSAGEBASE_CONFIG`, else `./messagebase.toml`), reads and validates it.
    pub fn find(flag: Option<&Path>) -> Result<Config, ConfigError> {
        let path = match (flag, std::env::var_os(CONFIG_ENV)) {
            (Some(path), _) => path.to_owned(),
            (None, Some(path)) if !path.is_empty() => PathBuf::from(path),
            (None, _) => PathBuf::from(CONFIG_FILE),
        };
        Config::load(&path)
    }

    /// Reads and validates one file.
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
