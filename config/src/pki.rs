//! The files of `pki/` and the TLS configurations made from them. Each program reads only its own:
//! `mbclient` ca.pem; `mbd --node N` ca.pem and node-N.*; `mbctl` ca.pem and admin.*.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use messagebase_protocol::peer::node_san;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{WantsServerCert, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier, WantsVersions,
};

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

/// TLS of `mbclient`: trusts the cluster's CA and presents no certificate.
///
/// # Errors
/// ca.pem can't be read or holds no usable certificate.
pub fn client_tls(pki: &Path) -> Result<Arc<ClientConfig>, ConfigError> {
    let ca = Ca::read(pki)?;
    let trusting = ca.trusted_by(ClientConfig::builder_with_provider(provider()))?;
    Ok(Arc::new(trusting.with_no_client_auth()))
}

/// TLS of `mbctl`: trusts the cluster's CA and presents the admin certificate. The server name to check when dialing
/// node N is `messagebase_protocol::peer::node_san(N)`.
///
/// # Errors
/// ca.pem or admin.* can't be read, hold nothing usable or don't belong together.
pub fn admin_tls(pki: &Path) -> Result<Arc<ClientConfig>, ConfigError> {
    let ca = Ca::read(pki)?;
    Identity::read(admin_pem(pki), admin_key(pki))?.dialing(&ca)
}

/// The TLS configurations of `mbd --node N`.
#[derive(Debug, Clone)]
pub struct NodeTls {
    /// For the `client` listener: asks for no client certificate.
    pub door: Arc<ServerConfig>,
    /// For the `peer` listener: requires a certificate of the CA. The peer port checks the role in its SAN.
    pub peer_listen: Arc<ServerConfig>,
    /// For dialing peers.
    pub peer_dial: Arc<ClientConfig>,
}

/// Reads ca.pem and node-N.*.
///
/// # Errors
/// One of them can't be read, holds nothing usable, or key and certificate don't belong together.
pub fn node_tls(pki: &Path, node: u16) -> Result<NodeTls, ConfigError> {
    let ca = Ca::read(pki)?;
    let identity = Identity::read(node_pem(pki, node), node_key(pki, node))?;
    identity.must_be(node, &ca)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(ca.roots.clone()), provider())
            .build()
            .map_err(|e| fault(&ca.path, format!("cannot be used to check peers: {e}")))?;
    let door = identity.listening(|versions| versions.with_no_client_auth())?;
    let peer_listen =
        identity.listening(|versions| versions.with_client_cert_verifier(verifier))?;
    Ok(NodeTls {
        door,
        peer_listen,
        peer_dial: identity.dialing(&ca)?,
    })
}

/// ring, explicitly: with two providers compiled in, rustls panics when it has to choose one.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// TLS 1.2 and 1.3.
const VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

fn fault(file: &Path, message: String) -> ConfigError {
    let hint = "`mbctl init` makes what is missing in `pki/`; on another machine, copy the files it names from there";
    ConfigError {
        file: file.to_owned(),
        line: None,
        key: None,
        message,
        hint: Some(hint.into()),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = std::fs::read(path).map_err(|e| fault(path, format!("cannot be read: {e}")))?;
    let found = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| fault(path, format!("is not a certificate in PEM form: {e}")))?;
    if found.is_empty() {
        return Err(fault(path, "holds no certificate in PEM form".into()));
    }
    Ok(found)
}

/// The cluster's CA, which dialers and listeners trust.
struct Ca {
    path: PathBuf,
    roots: RootCertStore,
}

impl Ca {
    fn read(pki: &Path) -> Result<Ca, ConfigError> {
        let path = ca_pem(pki);
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&path)? {
            roots
                .add(certificate)
                .map_err(|e| fault(&path, format!("holds a certificate that is not valid: {e}")))?;
        }
        Ok(Ca { path, roots })
    }

    fn trusted_by(
        &self,
        builder: ConfigBuilder<ClientConfig, WantsVersions>,
    ) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, ConfigError> {
        let versions = builder.with_protocol_versions(VERSIONS);
        Ok(versions
            .map_err(|e| fault(&self.path, e.to_string()))?
            .with_root_certificates(self.roots.clone()))
    }
}

/// A certificate and its key.
struct Identity {
    pem: PathBuf,
    key_path: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn read(pem: PathBuf, key_path: PathBuf) -> Result<Identity, ConfigError> {
        let chain = certificates(&pem)?;
        let bytes = std::fs::read(&key_path)
            .map_err(|e| fault(&key_path, format!("cannot be read: {e}")))?;
        let key = PrivateKeyDer::from_pem_slice(&bytes)
            .map_err(|e| fault(&key_path, format!("holds no private key in PEM form: {e}")))?;
        Ok(Identity {
            pem,
            key_path,
            chain,
            key,
        })
    }

    /// Refuses another node's certificate and one of another CA. Here the error can name the file; the peers would only
    /// close the connection.
    fn must_be(&self, node: u16, ca: &Ca) -> Result<(), ConfigError> {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(ca.roots.clone()), provider())
                .build()
                .map_err(|e| {
                    fault(
                        &ca.path,
                        format!("cannot be used to check certificates: {e}"),
                    )
                })?;
        let role =
            ServerName::try_from(node_san(node)).map_err(|e| fault(&self.pem, e.to_string()))?;
        let (leaf, chain) = self
            .chain
            .split_first()
            .ok_or_else(|| fault(&self.pem, "holds no certificate".into()))?;
        verifier
            .verify_server_cert(leaf, chain, &role, &[], UnixTime::now())
            .map(drop)
            .map_err(|e| {
                fault(
                    &self.pem,
                    format!("is not node {node}'s certificate by the CA in ca.pem: {e}"),
                )
            })
    }

    fn unusable(&self, error: &rustls::Error) -> ConfigError {
        match error {
            rustls::Error::InconsistentKeys(_) => fault(
                &self.key_path,
                format!(
                    "is not the key of the certificate in {}",
                    self.pem.display()
                ),
            ),
            rustls::Error::InvalidCertificate(_) => {
                fault(&self.pem, format!("holds no valid certificate: {error}"))
            }
            _ => fault(&self.key_path, format!("cannot be used: {error}")),
        }
    }

    fn dialing(&self, ca: &Ca) -> Result<Arc<ClientConfig>, ConfigError> {
        ca.trusted_by(ClientConfig::builder_with_provider(provider()))?
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map(Arc::new)
            .map_err(|e| self.unusable(&e))
    }

    fn listening(
        &self,
        verify: impl FnOnce(
            ConfigBuilder<ServerConfig, WantsVerifier>,
        ) -> ConfigBuilder<ServerConfig, WantsServerCert>,
    ) -> Result<Arc<ServerConfig>, ConfigError> {
        let versions = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|e| self.unusable(&e))?;
        verify(versions)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map(Arc::new)
            .map_err(|e| self.unusable(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    /// A directory with a CA and node 1.
    fn pki() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"))
            .expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let params =
            CertificateParams::new(vec!["localhost".to_owned(), node_san(1)]).expect("a name");
        let certificate = params.signed_by(&key, &ca).expect("a certificate");
        std::fs::write(ca_pem(dir.path()), ca.pem()).expect("written");
        std::fs::write(node_pem(dir.path(), 1), certificate.pem()).expect("written");
        std::fs::write(node_key(dir.path(), 1), key.serialize_pem()).expect("written");
        dir
    }

    fn at_fault(result: Result<NodeTls, ConfigError>) -> (String, String) {
        let e = result.expect_err("must be refused");
        assert!(
            e.hint
                .as_deref()
                .is_some_and(|hint| hint.contains("mbctl init")),
            "{e}"
        );
        let name = e
            .file
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        (name.unwrap_or_default(), e.message)
    }

    #[test]
    fn whole_files_load() {
        let dir = pki();
        assert!(node_tls(dir.path(), 1).is_ok());
        assert!(client_tls(dir.path()).is_ok());
        assert!(
            admin_tls(dir.path()).is_err(),
            "there is no admin certificate here"
        );
    }

    #[test]
    fn missing_and_unreadable_files_are_named() {
        let dir = pki();
        assert_eq!(at_fault(node_tls(dir.path(), 2)).0, "node-2.pem");
        std::fs::write(node_key(dir.path(), 1), "no key").expect("written");
        assert_eq!(at_fault(node_tls(dir.path(), 1)).0, "node-1.key");
        std::fs::write(node_pem(dir.path(), 1), "").expect("written");
        assert_eq!(at_fault(node_tls(dir.path(), 1)).0, "node-1.pem");
        std::fs::remove_file(ca_pem(dir.path())).expect("removed");
        assert_eq!(at_fault(node_tls(dir.path(), 1)).0, "ca.pem");
    }

    #[test]
    fn another_nodes_certificate_and_another_authority_are_refused() {
        let (dir, other) = (pki(), pki());
        std::fs::copy(node_pem(dir.path(), 1), node_pem(dir.path(), 2)).expect("copied");
        std::fs::copy(node_key(dir.path(), 1), node_key(dir.path(), 2)).expect("copied");
        assert_eq!(at_fault(node_tls(dir.path(), 2)).0, "node-2.pem");
        std::fs::copy(ca_pem(other.path()), ca_pem(dir.path())).expect("copied");
        assert_eq!(at_fault(node_tls(dir.path(), 1)).0, "node-1.pem");
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let dir = pki();
        let other = KeyPair::generate().expect("a key");
        std::fs::write(node_key(dir.path(), 1), other.serialize_pem()).expect("written");
        let (file, message) = at_fault(node_tls(dir.path(), 1));
        assert_eq!(file, "node-1.key");
        assert!(
            message.contains("not the key of the certificate"),
            "{message}"
        );
    }
}
