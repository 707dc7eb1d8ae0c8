//! Makes what is missing in `pki/`: the CA, a certificate for each node and one for admins. Overwrites nothing: a
//! certificate that doesn't cover the hosts of the configuration any more is set aside under another name, its key kept.
//!
//! The CA always has the same subject, so that `ca.key` alone suffices to issue more.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use messagebase_config::{Config, NodeConfig, pki};
use messagebase_protocol::peer::{ADMIN_SAN, node_san};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, CertificateError, RootCertStore};

use crate::atomic_file::{directory, publish};
use crate::error::CtlError;

const CA_NAME: &str = "MessageBase CA";
/// Certificates that were set aside get a number; nobody renews more often without looking.
const SET_ASIDE_MAX: u32 = 1_000;

/// What [`complete`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// New files.
    pub created: Vec<PathBuf>,
    /// Certificates that were made anew for new hosts; the old ones stand beside them.
    pub renewed: Vec<PathBuf>,
}

/// Makes what is missing for the nodes and hosts of the configuration.
///
/// # Errors
/// The disk says no, `ca.key` is needed and not here, or a file belongs to another CA.
pub fn complete(config: &Config) -> Result<Made, CtlError> {
    let dir = &config.pki_dir;
    directory(dir).map_err(|e| io("make", dir, e))?;
    let mut wanted: Vec<Wanted> = config
        .nodes
        .iter()
        .map(|node| Wanted::node(dir, node))
        .collect();
    wanted.push(Wanted::admin(dir));
    let mut made = Made::default();
    let mut authority = Authority { dir, key: None };
    if there(&pki::ca_key(dir))? || !there(&pki::ca_pem(dir))? {
        authority.key = Some(authority.open(&mut made)?);
    }
    for wanted in &wanted {
        wanted.complete(&authority, &mut made)?;
    }
    Ok(made)
}

/// A certificate that has to be there.
struct Wanted {
    pem: PathBuf,
    key: PathBuf,
    /// For people, in the subject.
    name: String,
    /// Hosts and the name that carries the role.
    names: Vec<String>,
}

impl Wanted {
    fn node(dir: &Path, node: &NodeConfig) -> Wanted {
        let (pem, key) = (pki::node_pem(dir, node.id), pki::node_key(dir, node.id));
        Wanted {
            pem,
            key,
            name: format!("MessageBase node {}", node.id),
            names: node_names(node),
        }
    }

    fn admin(dir: &Path) -> Wanted {
        let (pem, key) = (pki::admin_pem(dir), pki::admin_key(dir));
        Wanted {
            pem,
            key,
            name: "MessageBase admin".into(),
            names: vec![ADMIN_SAN.into()],
        }
    }

    fn complete(&self, authority: &Authority<'_>, made: &mut Made) -> Result<(), CtlError> {
        match (there(&self.pem)?, there(&self.key)?) {
            // The key was moved to the node's own machine, as it should be.
            (true, false) => Ok(()),
            (true, true) if authority.covers(&self.pem, &self.names)? => Ok(()),
            (true, true) => {
                let key = read_key(&self.key)?;
                let certificate = authority.issue(self, &key)?;
                set_aside(&self.pem)?;
                write(&self.pem, &certificate)?;
                made.renewed.push(self.pem.clone());
                Ok(())
            }
            (false, true) => {
                let key = read_key(&self.key)?;
                write(&self.pem, &authority.issue(self, &key)?)?;
                made.created.push(self.pem.clone());
                Ok(())
            }
            (false, false) => {
                let key = KeyPair::generate()
                    .map_err(|e| CtlError::failed("key", "failed to make a key").because(e))?;
                let certificate = authority.issue(self, &key)?;
                // The key first: a certificate without one would look like a key that was moved away.
                write(&self.key, &key.serialize_pem())?;
                write(&self.pem, &certificate)?;
                made.created.extend([self.key.clone(), self.pem.clone()]);
                Ok(())
            }
        }
    }
}

/// Every name that somebody may dial this node by.
fn node_names(node: &NodeConfig) -> Vec<String> {
    let mut names = vec![node_san(node.id)];
    let mut add = |name: &str| {
        if !names.iter().any(|there| there == name) {
            names.push(name.to_owned());
        }
    };
    add(&node.client.host);
    add(&node.peer.host);
    if node.client.is_loopback() || node.peer.is_loopback() {
        for name in ["localhost", "127.0.0.1", "::1"] {
            add(name);
        }
    }
    names
}

struct Authority<'a> {
    dir: &'a Path,
    key: Option<Issuer<'static, KeyPair>>,
}

impl Authority<'_> {
    /// Reads the CA's key, or makes the CA; `ca.pem` is made again from the key if it is not there.
    fn open(&self, made: &mut Made) -> Result<Issuer<'static, KeyPair>, CtlError> {
        let (pem, key_path) = (pki::ca_pem(self.dir), pki::ca_key(self.dir));
        let key = if there(&key_path)? {
            read_key(&key_path)?
        } else {
            let key = KeyPair::generate()
                .map_err(|e| CtlError::failed("key", "failed to make a key").because(e))?;
            write(&key_path, &key.serialize_pem())?;
            made.created.push(key_path);
            key
        };
        if !there(&pem)? {
            let certificate = ca_params().self_signed(&key).map_err(|e| {
                CtlError::failed("key", "failed to make the CA's certificate").because(e)
            })?;
            write(&pem, &certificate.pem())?;
            made.created.push(pem);
        }
        Ok(Issuer::new(ca_params(), key))
    }

    fn issue(&self, wanted: &Wanted, key: &KeyPair) -> Result<String, CtlError> {
        let missing = pki::ca_key(self.dir);
        let issuer = self.key.as_ref().ok_or_else(|| {
            CtlError::failed(
                "ca_key",
                format!(
                    "{} has to be made, and {} is not here",
                    wanted.pem.display(),
                    missing.display()
                ),
            )
            .hint("run `mbctl init` where ca.key is kept, then copy what it makes")
        })?;
        let failed = |e: rcgen::Error| {
            CtlError::failed(
                "key",
                format!(
                    "failed to make {} for {:?}",
                    wanted.pem.display(),
                    wanted.names
                ),
            )
            .because(e)
        };
        let mut params = CertificateParams::new(wanted.names.clone()).map_err(failed)?;
        params.distinguished_name = subject(&wanted.name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, issuer).map_err(failed)?;
        let verified = self.verify(certificate.der(), &wanted.names)?;
        if !matches!(verified, Verified::Covers) {
            let message = format!(
                "{} is not the key of {}",
                missing.display(),
                pki::ca_pem(self.dir).display()
            );
            return Err(
                CtlError::failed("ca_key", message).hint("put the two that belong together there")
            );
        }
        Ok(certificate.pem())
    }

    fn covers(&self, pem: &Path, names: &[String]) -> Result<bool, CtlError> {
        let certificate = CertificateDer::from_pem_file(pem).map_err(|e| unusable(pem, e))?;
        match self.verify(&certificate, names)? {
            Verified::Covers => Ok(true),
            Verified::OtherNames => Ok(false),
            Verified::Invalid(e) => {
                Err(unusable(pem, e).hint("move it away and run `mbctl init` again"))
            }
        }
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        names: &[String],
    ) -> Result<Verified, CtlError> {
        let pem = pki::ca_pem(self.dir);
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(&pem).map_err(|e| unusable(&pem, e))?;
        roots.add(ca).map_err(|e| unusable(&pem, e))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::new(ring::default_provider()),
        )
        .build()
        .map_err(|e| unusable(&pem, e))?;
        for name in names {
            let server = ServerName::try_from(name.as_str()).map_err(|e| {
                CtlError::usage(format!(
                    "`{name}` is no host name that a certificate can hold"
                ))
                .because(e)
            })?;
            match verifier.verify_server_cert(certificate, &[], &server, &[], UnixTime::now()) {
                Ok(_) => {}
                Err(rustls::Error::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                )) => return Ok(Verified::OtherNames),
                Err(e) => return Ok(Verified::Invalid(e)),
            }
        }
        Ok(Verified::Covers)
    }
}

enum Verified {
    Covers,
    OtherNames,
    Invalid(rustls::Error),
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn subject(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn read_key(path: &Path) -> Result<KeyPair, CtlError> {
    let pem = std::fs::read_to_string(path).map_err(|e| io("read", path, e))?;
    KeyPair::from_pem(&pem)
        .map_err(|e| unusable(path, e).hint("move it away and run `mbctl init` again"))
}

fn write(path: &Path, text: &str) -> Result<(), CtlError> {
    publish(path, text.as_bytes()).map_err(|e| io("write", path, e))
}

fn set_aside(path: &Path) -> Result<(), CtlError> {
    for number in 1..=SET_ASIDE_MAX {
        let aside = path.with_extension(format!("pem.old-{number}"));
        if !there(&aside)? {
            return std::fs::rename(path, &aside).map_err(|e| io("set aside", path, e));
        }
    }
    Err(CtlError::failed(
        "io",
        format!("too many old copies of {}; move them away", path.display()),
    ))
}

fn there(path: &Path) -> Result<bool, CtlError> {
    path.try_exists().map_err(|e| io("look for", path, e))
}

fn io(what: &str, path: &Path, e: std::io::Error) -> CtlError {
    CtlError::failed("io", format!("failed to {what} {}", path.display())).because(e)
}

fn unusable(path: &Path, e: impl std::error::Error + Send + Sync + 'static) -> CtlError {
    CtlError::usage(format!("{} cannot be used", path.display())).because(e)
}

/// Whether an IP address or name means this machine and nothing else; for advice on what to copy.
pub fn is_loopback_host(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests;
