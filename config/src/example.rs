//! The commented file that `mbctl init` writes. A test parses it back, so that it can't drift from the parser.

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

/// The file's text with every key commented: unit, default, meaning.
pub fn example_toml(_cluster: &str, _nodes: &[ExampleNode]) -> String {
    unimplemented!()
}
