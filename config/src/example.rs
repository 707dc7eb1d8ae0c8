//! The commented file that `mbctl init` writes. A test parses it, so that it can't drift from the parser.

use crate::Address;

/// A node for [`example_toml`].
#[derive(Debug, Clone)]
pub struct ExampleNode {
    /// Its number.
    pub id: u16,
    /// Clients dial this.
    pub client: Address,
    /// Nodes and admins dial this.
    pub peer: Address,
    /// HTTP.
    pub http: Address,
    /// Line protocol without TLS.
    pub plain: Address,
}

/// The file's text with every key commented: unit, default, meaning. Keys that are optional and not part of a usual
/// cluster are there, commented out, with their default.
pub fn example_toml(cluster: &str, nodes: &[ExampleNode]) -> String {
    // A valid cluster name holds no control character, so these are all the escapes a TOML string needs.
    let escaped = cluster.replace('\\', "\\\\").replace('"', "\\\"");
    let mut text = HEAD.replace("@CLUSTER@", &format!("\"{escaped}\""));
    for (at, node) in nodes.iter().enumerate() {
        text.push_str(&node_table(node, at == 0));
    }
    text.push_str(TAIL);
    text
}

const HEAD: &str = r#"# MessageBase: one file for nodes, clients and operators.
#
# Found by `--config FILE`, else $MESSAGEBASE_CONFIG, else ./messagebase.toml. Paths are relative to this file.
# A line that begins with `#` and a key shows that key's default.

# The cluster's name, for people: 1 to 64 characters that can name a directory. Default "messagebase".
cluster = @CLUSTER@
# Node N keeps everything it knows in node-N/ in here. Default "data".
data_dir = "data"
# Certificates and keys, made by `mbctl init`. Default "pki".
pki_dir = "pki"

# Who may make an account: "open" (anybody who can connect) or "closed" (`mbctl user add` alone). Default "open".
# registration = "open"
# Days that a session lives, 1 to 3650. Default 30.
# session_days = 30

# The nodes. This list says where to dial and, when the cluster first forms, who founds it. Afterwards the membership
# that the nodes keep themselves says who votes: change it with `mbctl member`.
"#;

fn node_table(node: &ExampleNode, with_comments: bool) -> String {
    let ExampleNode {
        id,
        client,
        peer,
        http,
        plain,
    } = node;
    if !with_comments {
        return format!(
            "\n[[node]]\nid = {id}\nclient = \"{client}\"\npeer = \"{peer}\"\nhttp = \"{http}\"\nplain = \"{plain}\"\n"
        );
    }
    format!(
        r#"
[[node]]
# Its number, 1 to 65535; for ever.
id = {id}
# HOST:PORT that clients dial: the line protocol over TLS.
client = "{client}"
# HOST:PORT that nodes and `mbctl` dial: mutual TLS.
peer = "{peer}"
# HOST:PORT of /healthz, /readyz and /metrics. Optional; default: no HTTP.
http = "{http}"
# HOST:PORT of the line protocol without TLS; loopback addresses only. Optional; default: none.
plain = "{plain}"
# Where to listen when it differs from where others dial (containers, NAT). Default: the addresses above.
# client_bind = "{client}"
# peer_bind = "{peer}"
# http_bind = "{http}"
"#
    )
}

const TAIL: &str = r#"
[limits]
# Client connections that a node accepts, 1 to 1000000. Default 20000.
# connections = 20000
# Sessions a user may have; the oldest ends when one more begins. 1 to 10000. Default 16.
# sessions_per_user = 16
# Failed logins a minute for one name; successful ones never count. Default 10.
# failed_logins_per_name = 10
# Failed logins a minute from one address. Default 60.
# failed_logins_per_address = 60
# Undelivered messages that may wait for one user. Default 10000.
# queued_messages_per_user = 10000
# Bytes of undelivered message bodies that may wait for one user, at least 16384. Default 67108864 (64 MiB).
# queued_bytes_per_user = 67108864
# Bytes of change log that a node keeps for peers that were away; who was away for longer gets a snapshot. Up to eight
# times as much while one that answers is catching up. At least 4096. Default 67108864 (64 MiB).
# change_log_bytes = 67108864

[retention]
# Days that delivered messages are kept; 0 keeps them for ever. Default 0.
# delivered_days = 0

[password]
# What one argon2id hash costs; never below OWASP's minimum, which is the default. The same on every node.
# Memory in KiB. Default 19456.
# memory_kib = 19456
# Passes over that memory. Default 2.
# passes = 2
# Lanes. Default 1.
# lanes = 1
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use std::path::Path;

    fn nodes() -> Vec<ExampleNode> {
        let address = |port| Address {
            host: "127.0.0.1".into(),
            port,
        };
        (1..=3)
            .map(|id| ExampleNode {
                id,
                client: address(7100 + id),
                peer: address(7200 + id),
                http: address(7300 + id),
                plain: address(7400 + id),
            })
            .collect()
    }

    fn load(text: &str) -> Config {
        let path = Path::new("/mb/messagebase.toml");
        Config::from_text(path, text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    /// `# key = value` as `key = value`; prose stays a comment.
    fn enable(line: &str) -> &str {
        let is_key = |body: &str| {
            body.split_once(" = ")
                .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        };
        line.strip_prefix("# ")
            .filter(|body| is_key(body))
            .unwrap_or(line)
    }

    #[test]
    fn the_example_is_valid_and_what_is_commented_out_is_the_default() {
        let text = example_toml("our \"chat\"", &nodes());
        let config = load(&text);
        assert_eq!(config.cluster, "our \"chat\"");
        assert_eq!(config.nodes.len(), 3);
        let all: String = text.lines().flat_map(|line| [enable(line), "\n"]).collect();
        let mut enabled = load(&all);
        // The one difference: the binds are the addresses, spelled out.
        let first = &mut enabled.nodes[0];
        assert_eq!(first.client_bind.take().as_ref(), Some(&first.client));
        assert_eq!(first.peer_bind.take().as_ref(), Some(&first.peer));
        assert_eq!(first.http_bind.take(), first.http);
        assert_eq!(enabled, config);
    }

    #[test]
    fn every_key_of_the_parser_is_in_the_example() {
        let text = example_toml("x", &nodes());
        let keys = "cluster data_dir pki_dir registration session_days id client peer http plain client_bind peer_bind \
                    http_bind connections sessions_per_user failed_logins_per_name failed_logins_per_address \
                    queued_messages_per_user queued_bytes_per_user change_log_bytes delivered_days memory_kib passes \
                    lanes";
        for key in keys.split_whitespace() {
            let there = text
                .lines()
                .any(|line| enable(line).starts_with(&format!("{key} = ")));
            assert!(there, "`{key}` is missing");
        }
    }
}
