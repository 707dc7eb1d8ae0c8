//! Who is at the other end: the role stands in the SAN of the certificate, which the cluster's CA signed.

use messagebase_protocol::peer::{ADMIN_SAN, Dialer, node_san};
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::server::ParsedCertificate;

/// Whether the certificate carries the role that the hello claims. The chain was checked in the TLS handshake.
pub fn may_claim(
    certificates: Option<&[CertificateDer<'_>]>,
    dialer: Dialer,
) -> Result<(), String> {
    let certificate = certificates
        .and_then(|chain| chain.first())
        .ok_or("no certificate was shown")?;
    let role = match dialer {
        Dialer::Node { node, .. } => node_san(node),
        Dialer::Admin => ADMIN_SAN.to_owned(),
    };
    let parsed = ParsedCertificate::try_from(certificate)
        .map_err(|e| format!("unreadable certificate: {e}"))?;
    let name =
        ServerName::try_from(role.clone()).map_err(|e| format!("no valid role name: {e}"))?;
    verify_server_name(&parsed, &name).map_err(|_| format!("the certificate is not one of {role}"))
}
