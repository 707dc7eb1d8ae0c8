//! Who is at the other end: the role is in the SAN of the certificate, which the cluster's CA signed.

use messagebase_protocol::peer::{ADMIN_SAN, Dialer, node_san};
use tokio_rustls::rustls;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;

/// Why a dialer is not who it claims to be.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// TLS without a client certificate.
    #[error("no certificate was shown")]
    NoCertificate,
    /// Not X.509.
    #[error("unreadable certificate: {0}")]
    Unreadable(rustls::Error),
    /// The claim makes no host name.
    #[error("no valid role name: {0}")]
    NoRole(#[from] InvalidDnsNameError),
    /// The certificate carries another role.
    #[error("the certificate is not one of {0}")]
    OtherRole(String),
}

/// Checks that the certificate carries the role that the hello claims. The chain was checked in the TLS handshake.
pub fn may_claim(
    certificates: Option<&[CertificateDer<'_>]>,
    dialer: Dialer,
) -> Result<(), ClaimError> {
    let certificate = certificates
        .and_then(|chain| chain.first())
        .ok_or(ClaimError::NoCertificate)?;
    let role = match dialer {
        Dialer::Node { node, .. } => node_san(node),
        Dialer::Admin => ADMIN_SAN.to_owned(),
    };
    let parsed = ParsedCertificate::try_from(certificate).map_err(ClaimError::Unreadable)?;
    let name = ServerName::try_from(role.as_str())?;
    verify_server_name(&parsed, &name).map_err(|_| ClaimError::OtherRole(role.clone()))
}
