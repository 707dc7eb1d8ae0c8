//! `host:port`, kept as written and not resolved: what a DNS name stands for may change.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A host (IP address or DNS name) and a port. IPv6 addresses are written in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Without brackets.
    pub host: String,
    /// 1–65535 (0 is refused by validation except for binds in tests).
    pub port: u16,
}

impl Address {
    /// Whether it can be reached from this machine only.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not HOST:PORT");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(wrong)?,
            None if host.contains(':') => return Err(wrong()),
            None => host,
        };
        let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_' | '%');
        if host.is_empty() || !host.chars().all(clean) {
            return Err(wrong());
        }
        Ok(Address {
            host: host.to_owned(),
            port: port.parse().map_err(|_| wrong())?,
        })
    }
}
