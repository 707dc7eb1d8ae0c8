//! Raw TOML to a valid [`crate::Config`]: defaults, ranges, and what must be unique. Reads no key file and resolves no
//! host name: a configuration is valid on all machines or on none.

use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;

use crate::error::Source;
use crate::file::{Given, Raw, RawLimits, RawNode, RawPassword};
use crate::{Address, Config, ConfigError, Limits, NodeConfig, PasswordCost};

/// Longest cluster name, in characters. Clients keep their state in a directory of that name.
const CLUSTER_NAME_MAX_CHARS: usize = 64;
/// Longest file name of common file systems.
const CLUSTER_NAME_MAX_BYTES: usize = 255;
/// The size of the line protocol's longest body.
const QUEUED_BYTES_MIN: u64 = messagebase_protocol::limits::BODY_MAX_BYTES as u64;
/// One SQLite page: less could not hold the newest entry.
const CHANGE_LOG_BYTES_MIN: u64 = 4096;
/// 1 TiB: a greater number is a typing error.
const BYTES_MAX: u64 = 1 << 40;
/// OWASP's minimum for argon2id: 19 MiB, 2 passes, 1 lane.
const OWASP_MIN: PasswordCost = PasswordCost {
    memory_kib: 19_456,
    passes: 2,
    lanes: 1,
};
/// 4 GiB, in KiB.
const MEMORY_MAX_KIB: u32 = 4 * 1024 * 1024;

/// Checks everything; the source's path is absolute and paths in the file are relative to its directory.
pub(crate) fn resolve(source: &Source<'_>, raw: Raw) -> Result<Config, ConfigError> {
    let check = Check { source };
    let base = source.path.parent().unwrap_or(Path::new("/"));
    let directory = |key: &str, given: Given<String>, default: &str| match given {
        Some(at) if at.get_ref().is_empty() => {
            Err(check.error(&at.span(), key, "must not be empty"))
        }
        Some(at) => Ok(base.join(at.into_inner())),
        None => Ok(base.join(default)),
    };
    let nodes = raw
        .nodes
        .iter()
        .map(|node| check.node(node))
        .collect::<Result<Vec<_>, _>>()?;
    if nodes.is_empty() {
        let mut error = check.error(&(0..0), "node", "names no node");
        error.line = None;
        error.hint = Some(
            "write at least one `[[node]]` with id, client and peer; `mbctl init` shows how".into(),
        );
        return Err(error);
    }
    check.unique(&nodes, &raw.nodes)?;
    Ok(Config {
        path: source.path.to_owned(),
        cluster: check.cluster(raw.cluster)?,
        data_dir: directory("data_dir", raw.data_dir, "data")?,
        pki_dir: directory("pki_dir", raw.pki_dir, "pki")?,
        nodes,
        registration_open: check.registration(raw.registration)?,
        session_days: check.small("session_days", &raw.session_days, 30, 1, 3650)?,
        limits: check.limits(&raw.limits)?,
        delivered_days: check.small(
            "retention.delivered_days",
            &raw.retention.delivered_days,
            0,
            0,
            36_500,
        )?,
        password: check.password(&raw.password)?,
    })
}

struct Check<'a> {
    source: &'a Source<'a>,
}

impl Check<'_> {
    fn error(&self, span: &Range<usize>, key: &str, message: impl Into<String>) -> ConfigError {
        self.source.error(span, key, message)
    }

    fn cluster(&self, given: Given<String>) -> Result<String, ConfigError> {
        let Some(given) = given else {
            return Ok("messagebase".into());
        };
        let value = given.get_ref();
        let edge = |c: char| c.is_whitespace() || c == '.';
        let usable = (1..=CLUSTER_NAME_MAX_CHARS).contains(&value.chars().count())
            && value.len() <= CLUSTER_NAME_MAX_BYTES
            && !value
                .chars()
                .any(|c| c.is_control() || matches!(c, '/' | '\\'))
            && !value.starts_with(edge)
            && !value.ends_with(char::is_whitespace);
        if usable {
            return Ok(given.into_inner());
        }
        let mut error = self.error(&given.span(), "cluster", "is not a usable cluster name");
        error.hint = Some(
            "1 to 64 characters that can name a directory: no slash, not beginning with a dot"
                .into(),
        );
        Err(error)
    }

    fn registration(&self, given: Given<String>) -> Result<bool, ConfigError> {
        match given {
            None => Ok(true),
            Some(at) => match at.get_ref().as_str() {
                "open" => Ok(true),
                "closed" => Ok(false),
                _ => {
                    let mut error =
                        self.error(&at.span(), "registration", "must be \"open\" or \"closed\"");
                    error.hint = Some(
                        "`closed` lets only operators make accounts: `mbctl user add NAME`".into(),
                    );
                    Err(error)
                }
            },
        }
    }

    fn range(
        &self,
        key: &str,
        given: &Given<i64>,
        default: u64,
        min: u64,
        max: u64,
    ) -> Result<u64, ConfigError> {
        let Some(at) = given else { return Ok(default) };
        let value = *at.get_ref();
        match u64::try_from(value) {
            Ok(value) if (min..=max).contains(&value) => Ok(value),
            _ => {
                let message = format!("must be from {min} to {max} and is {value}");
                let mut error = self.error(&at.span(), key, message);
                error.hint = Some(format!("leave it out for the default, {default}"));
                if key.starts_with("password.") && value < i64::try_from(min).unwrap_or(i64::MAX) {
                    error.hint = Some(
                        "less would be below OWASP's minimum for argon2id (19456 KiB, 2 passes)"
                            .into(),
                    );
                }
                Err(error)
            }
        }
    }

    /// [`Self::range`] for what fits 32 bits.
    fn small(
        &self,
        key: &str,
        given: &Given<i64>,
        default: u32,
        min: u32,
        max: u32,
    ) -> Result<u32, ConfigError> {
        let value = self.range(key, given, default.into(), min.into(), max.into())?;
        // Proof for the fallback never being used: `range` answers at most `max` or the default.
        Ok(u32::try_from(value).unwrap_or(max))
    }

    fn limits(&self, raw: &RawLimits) -> Result<Limits, ConfigError> {
        let count = |key: &str, given, default, max| {
            self.small(&format!("limits.{key}"), given, default, 1, max)
        };
        let bytes = |key: &str, given, min| {
            self.range(&format!("limits.{key}"), given, 64 << 20, min, BYTES_MAX)
        };
        Ok(Limits {
            connections: count("connections", &raw.connections, 20_000, 1_000_000)?,
            sessions_per_user: count("sessions_per_user", &raw.sessions_per_user, 16, 10_000)?,
            failed_logins_per_name: count(
                "failed_logins_per_name",
                &raw.failed_logins_per_name,
                10,
                1_000_000,
            )?,
            failed_logins_per_address: count(
                "failed_logins_per_address",
                &raw.failed_logins_per_address,
                60,
                1_000_000,
            )?,
            queued_messages_per_user: count(
                "queued_messages_per_user",
                &raw.queued_messages_per_user,
                10_000,
                100_000_000,
            )?,
            queued_bytes_per_user: bytes(
                "queued_bytes_per_user",
                &raw.queued_bytes_per_user,
                QUEUED_BYTES_MIN,
            )?,
            change_log_bytes: bytes(
                "change_log_bytes",
                &raw.change_log_bytes,
                CHANGE_LOG_BYTES_MIN,
            )?,
        })
    }

    fn password(&self, raw: &RawPassword) -> Result<PasswordCost, ConfigError> {
        let cost = |key: &str, given, min, max| {
            self.small(&format!("password.{key}"), given, min, min, max)
        };
        let least = OWASP_MIN;
        Ok(PasswordCost {
            memory_kib: cost(
                "memory_kib",
                &raw.memory_kib,
                least.memory_kib,
                MEMORY_MAX_KIB,
            )?,
            passes: cost("passes", &raw.passes, least.passes, 100)?,
            lanes: cost("lanes", &raw.lanes, least.lanes, 64)?,
        })
    }

    fn node(&self, raw: &Spanned<RawNode>) -> Result<NodeConfig, ConfigError> {
        let (span, raw) = (raw.span(), raw.get_ref());
        let missing = |key: &str| {
            let mut error = self.error(&span, key, "is missing from this [[node]]");
            error.hint = Some("each [[node]] has id, client and peer".into());
            error
        };
        let id = raw.id.as_ref().ok_or_else(|| missing("node.id"))?;
        let number = u16::try_from(*id.get_ref()).ok().filter(|id| *id > 0);
        let number = number.ok_or_else(|| {
            self.error(
                &id.span(),
                "node.id",
                format!("must be from 1 to 65535 and is {}", id.get_ref()),
            )
        })?;
        let dialed = |key: &str, given: &Given<String>| self.address(key, given, false);
        let bound = |key: &str, given: &Given<String>| self.address(key, given, true);
        let node = NodeConfig {
            id: number,
            client: dialed("node.client", &raw.client)?.ok_or_else(|| missing("node.client"))?,
            peer: dialed("node.peer", &raw.peer)?.ok_or_else(|| missing("node.peer"))?,
            http: dialed("node.http", &raw.http)?,
            plain: dialed("node.plain", &raw.plain)?,
            client_bind: bound("node.client_bind", &raw.client_bind)?,
            peer_bind: bound("node.peer_bind", &raw.peer_bind)?,
            http_bind: bound("node.http_bind", &raw.http_bind)?,
        };
        if let (Some(address), Some(at)) = (&node.plain, &raw.plain)
            && !address.is_loopback()
        {
            let message = format!(
                "is without TLS, so it must be a loopback address, and {address} is not one"
            );
            let mut error = self.error(&at.span(), "node.plain", message);
            error.hint = Some(
                "use 127.0.0.1 or [::1], or leave it out: clients elsewhere use `client`".into(),
            );
            return Err(error);
        }
        if let (Some(at), None) = (&raw.http_bind, &raw.http) {
            let mut error = self.error(&at.span(), "node.http_bind", "is there without `http`");
            error.hint = Some("set `http` too: it switches the HTTP listener on".into());
            return Err(error);
        }
        Ok(node)
    }

    fn address(
        &self,
        key: &str,
        given: &Given<String>,
        bind: bool,
    ) -> Result<Option<Address>, ConfigError> {
        let Some(at) = given else { return Ok(None) };
        let address = at.get_ref().parse::<Address>().map_err(|message| {
            let mut error = self.error(&at.span(), key, message);
            error.hint = Some(
                "write an IP address or host name, a colon and a port, e.g. \"127.0.0.1:7101\""
                    .into(),
            );
            error
        })?;
        if !bind && address.port == 0 {
            return Err(self.error(
                &at.span(),
                key,
                "port 0 cannot be dialed; write one from 1 to 65535",
            ));
        }
        if !bind && is_wildcard(&address) {
            let mut error = self.error(&at.span(), key, format!("{address} cannot be dialed"));
            error.hint =
                Some("write where others reach this node, and where it listens in `…_bind`".into());
            return Err(error);
        }
        Ok(Some(address))
    }

    /// Refuses ids and addresses that are given twice; names the later line.
    fn unique(&self, nodes: &[NodeConfig], raw: &[Spanned<RawNode>]) -> Result<(), ConfigError> {
        let mut ids: Vec<(u16, Range<usize>)> = Vec::new();
        let mut places: Vec<Place<'_>> = Vec::new();
        for (node, raw) in nodes.iter().zip(raw) {
            let span = raw.get_ref().id.as_ref().map_or(raw.span(), Spanned::span);
            if let Some((_, first)) = ids.iter().find(|(id, _)| *id == node.id) {
                let first = self.source.line(first);
                let message = format!("{} is taken by the node on line {first}", node.id);
                let mut error = self.error(&span, "node.id", message);
                error.hint = Some("give every [[node]] a number of its own".into());
                return Err(error);
            }
            ids.push((node.id, span));
            for place in places_of(node, raw.get_ref()) {
                if let Some(other) = places.iter().find(|other| other.collides(&place)) {
                    let line = self.source.line(&other.span);
                    let message = format!(
                        "{} is already the `{}` of node {} (line {line})",
                        place.address, other.key, other.node.id
                    );
                    let key = format!("node.{}", place.key);
                    let mut error = self.error(&place.span, &key, message);
                    error.hint =
                        Some("every listener of every node needs an address of its own".into());
                    return Err(error);
                }
                places.push(place);
            }
        }
        Ok(())
    }
}

/// An address in the file and its use.
struct Place<'a> {
    node: &'a NodeConfig,
    /// The listener it belongs to: `client`, `peer`, `http`, `plain`.
    listener: &'static str,
    /// The key that it was given by.
    key: &'static str,
    address: &'a Address,
    span: Range<usize>,
    /// Others dial it.
    dialed: bool,
    /// The node listens on it.
    bound: bool,
}

fn places_of<'a>(node: &'a NodeConfig, raw: &RawNode) -> Vec<Place<'a>> {
    // Each listener with its two keys: the address that is dialed, and the one that is bound.
    let listeners = [
        (
            "client",
            Some(&node.client),
            &raw.client,
            "client_bind",
            node.client_bind.as_ref(),
            &raw.client_bind,
        ),
        (
            "peer",
            Some(&node.peer),
            &raw.peer,
            "peer_bind",
            node.peer_bind.as_ref(),
            &raw.peer_bind,
        ),
        (
            "http",
            node.http.as_ref(),
            &raw.http,
            "http_bind",
            node.http_bind.as_ref(),
            &raw.http_bind,
        ),
        (
            "plain",
            node.plain.as_ref(),
            &raw.plain,
            "plain",
            None,
            &None,
        ),
    ];
    let mut places = Vec::new();
    for (listener, dial, dial_given, bind_key, bind, bind_given) in listeners {
        let place = |key, address, given: &Given<String>, dialed, bound| Place {
            node,
            listener,
            key,
            address,
            span: given.as_ref().map_or(0..0, Spanned::span),
            dialed,
            bound,
        };
        places.extend(dial.map(|at| place(listener, at, dial_given, true, bind.is_none())));
        places.extend(bind.map(|at| place(bind_key, at, bind_given, false, true)));
    }
    places
}

impl Place<'_> {
    /// Whether one file can't have both. Addresses that are dialed from elsewhere must differ everywhere. Addresses
    /// that are only bound, and `http` and `plain` on the loopback, may repeat on another machine.
    fn collides(&self, other: &Place<'_>) -> bool {
        if self.address.port != other.address.port || self.address.port == 0 {
            return false;
        }
        let same_node = self.node.id == other.node.id;
        if same_node && self.listener == other.listener {
            return false;
        }
        let same_host = canonical(self.address) == canonical(other.address);
        let public = |place: &Place<'_>| {
            place.dialed
                && (matches!(place.listener, "client" | "peer") || !place.address.is_loopback())
        };
        if same_host && public(self) && public(other) {
            return true;
        }
        let same_machine = same_node || canonical(&self.node.peer) == canonical(&other.node.peer);
        let same_listener = same_host || is_wildcard(self.address) || is_wildcard(other.address);
        same_machine && same_listener && self.bound && other.bound
    }
}

/// Whether it stands for all addresses of the machine.
fn is_wildcard(address: &Address) -> bool {
    address
        .host
        .parse::<IpAddr>()
        .is_ok_and(|ip| ip.is_unspecified())
}

/// The host in the form in which equal hosts are equal.
fn canonical(address: &Address) -> String {
    match address.host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().to_string(),
        Err(_) if address.host.eq_ignore_ascii_case("localhost") => "127.0.0.1".into(),
        Err(_) => address.host.trim_end_matches('.').to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests;
