//! The files of `pki/` and the TLS configurations made from them. Each program reads only its own:
//! `mbclient` ca.pem; `mbd --node N` ca.pem and node-N.*; `mbctl` ca.pem and admin.*.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::{ClientConfig, ServerConfig};

use crate::ConfigError;

/// The CA's certificate.
pub fn ca_pem(pki: &Path) -> PathBuf {
    pki.join("ca.pem")
}
/// The CA's key; needed by `mbctl init` alone.
pub fn ca_key(pki: &Path) -> PathBuf {
    pki.join("ca.key")
}
/// Node N's certificate.
pub fn node_pem(pki: &Path, node: u16) -> PathBuf {
    pki.join(format!("node-{node}.pem"))
}
/// Node N's key.
pub fn node_key(pki: &Path, node: u16) -> PathBuf {
    pki.join(format!("node-{node}.key"))
}
/// The admin's certificate.
pub fn admin_pem(pki: &Path) -> PathBuf {
    pki.join("admin.pem")
}
/// The admin's key.
pub fn admin_key(pki: &Path) -> PathBuf {
    pki.join("admin.key")
}

/// For `mbclient`: trusts the cluster's CA, shows no certificate.
pub fn client_tls(_pki: &Path) -> Result<Arc<ClientConfig>, ConfigError> {
    unimplemented!()
}

/// For `mbctl`: trusts the cluster's CA, shows the admin certificate. The server name to check when dialing node N is
/// `messagebase_protocol::peer::node_san(N)`.
pub fn admin_tls(_pki: &Path) -> Result<Arc<ClientConfig>, ConfigError> {
    unimplemented!()
}

/// What `mbd --node N` needs.
#[derive(Debug, Clone)]
pub struct NodeTls {
    /// For the `client` listener: no client certificate asked.
    pub door: Arc<ServerConfig>,
    /// For the `peer` listener: a certificate of the CA required; the role in its SAN is checked by the peer door.
    pub peer_listen: Arc<ServerConfig>,
    /// For dialing peers.
    pub peer_dial: Arc<ClientConfig>,
}

/// Reads ca.pem and node-N.*.
pub fn node_tls(_pki: &Path, _node: u16) -> Result<NodeTls, ConfigError> {
    unimplemented!()
}
