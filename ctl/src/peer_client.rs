//! One connection to the peer port of a node, as an admin: mutual TLS, hello, then calls and answers one at a time.
//! Knows deadlines, not what the requests mean.

use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::peer::frame::{self, FrameError};
use messagebase_protocol::peer::{
    AdminReply, AdminRequest, Answer, Call, Dialer, FRAME_MAX_BYTES, HELLO_FRAME_MAX_BYTES,
    HelloReply, PEER_PROTOCOL, PeerHello, PeerReply, PeerRequest, Purpose, node_san,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, CertificateError, ClientConfig};

/// Longest wait for a connection and the hello.
pub const OPEN_DEADLINE: Duration = Duration::from_secs(1);

/// Why a node could not be asked. What the caller does next decides the kind.
#[derive(Debug, Error)]
pub enum PeerClientError {
    /// Nobody listens there, or the network between is cut.
    #[error("failed to reach node {node} at {address}")]
    Unreachable {
        /// Its number.
        node: u16,
        /// Where it was looked for.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// What listens there is not that node of this cluster, or it does not accept the admin certificate.
    #[error("failed to authenticate node {node} at {address}")]
    Untrusted {
        /// Its number.
        node: u16,
        /// Where it was looked for.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// What listens there has a certificate of another CA.
    #[error("another cluster answers at {address}, the address of node {node}")]
    OtherCluster {
        /// Its number.
        node: u16,
        /// Where it was looked for.
        address: String,
    },
    /// Connected, or connecting, and no answer: hung, stopped, or very slow.
    #[error("node {node} did not answer within {waited:?}")]
    Silent {
        /// Its number.
        node: u16,
        /// The deadline that passed.
        waited: Duration,
    },
    /// The connection ended before the answer. The request may have taken effect.
    #[error("node {node} closed the connection before it answered")]
    Lost {
        /// Its number.
        node: u16,
        /// Why.
        source: std::io::Error,
    },
    /// The node did not accept the hello, or could not handle the call.
    #[error("node {node} refused: {reason}")]
    Refused {
        /// Its number.
        node: u16,
        /// Its reason.
        reason: String,
    },
    /// Bytes that do not parse: another version, most likely.
    #[error("node {node} answered something that this version does not understand: {reason}")]
    Garbled {
        /// Its number.
        node: u16,
        /// What is wrong.
        reason: String,
    },
}

/// An open connection to node `node`.
pub struct PeerClient {
    node: u16,
    stream: TlsStream<TcpStream>,
    next_id: u64,
}

impl PeerClient {
    /// Connects and says hello, within [`OPEN_DEADLINE`].
    ///
    /// # Errors
    /// Everything of [`PeerClientError`] but a lost call.
    pub async fn open(
        tls: Arc<ClientConfig>,
        node: u16,
        address: &str,
    ) -> Result<PeerClient, PeerClientError> {
        let silent = PeerClientError::Silent {
            node,
            waited: OPEN_DEADLINE,
        };
        timeout(OPEN_DEADLINE, Self::connect(tls, node, address))
            .await
            .unwrap_or(Err(silent))
    }

    async fn connect(
        tls: Arc<ClientConfig>,
        node: u16,
        address: &str,
    ) -> Result<PeerClient, PeerClientError> {
        let unreachable = |source| PeerClientError::Unreachable {
            node,
            address: address.to_owned(),
            source,
        };
        let untrusted = |source| PeerClientError::Untrusted {
            node,
            address: address.to_owned(),
            source,
        };
        let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let name = ServerName::try_from(node_san(node))
            .map_err(|e| untrusted(std::io::Error::other(e)))?;
        let stream = TlsConnector::from(tls)
            .connect(name, tcp)
            .await
            .map_err(|e| match e.kind() {
                // A process that dies while it accepts is dead, not untrusted.
                std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof => {
                    unreachable(e)
                }
                _ if is_of_another_ca(&e) => PeerClientError::OtherCluster {
                    node,
                    address: address.to_owned(),
                },
                _ => untrusted(e),
            })?;
        let mut client = PeerClient {
            node,
            stream,
            next_id: 1,
        };
        let hello = PeerHello {
            protocol: PEER_PROTOCOL,
            cluster_id: None,
            dialer: Dialer::Admin,
            to_raft_id: 0,
            purpose: Purpose::Admin,
            incarnation: None,
        };
        client.write(&hello).await?;
        // With TLS 1.3 a refused client certificate shows only here: the handshake was over for this side already.
        match client.read::<HelloReply>(HELLO_FRAME_MAX_BYTES).await {
            Ok(HelloReply::Welcome { node: there, .. }) if there == node => Ok(client),
            Ok(HelloReply::Welcome { node: there, .. }) => Err(PeerClientError::Refused {
                node,
                reason: format!("{address} is the address of node {there}"),
            }),
            Ok(HelloReply::Refused { reason } | HelloReply::Stale { reason }) => {
                Err(PeerClientError::Refused { node, reason })
            }
            Err(PeerClientError::Lost { source, .. })
                if source.kind() == std::io::ErrorKind::InvalidData =>
            {
                Err(untrusted(source))
            }
            Err(e) => Err(e),
        }
    }

    /// Asks one thing and waits for the answer.
    ///
    /// # Errors
    /// [`PeerClientError::Silent`] after `deadline`, [`PeerClientError::Lost`] when the connection ends, and what can be garbled.
    pub async fn call(
        &mut self,
        request: AdminRequest,
        deadline: Duration,
    ) -> Result<AdminReply, PeerClientError> {
        let silent = PeerClientError::Silent {
            node: self.node,
            waited: deadline,
        };
        timeout(deadline, self.exchange(request))
            .await
            .unwrap_or(Err(silent))
    }

    async fn exchange(&mut self, request: AdminRequest) -> Result<AdminReply, PeerClientError> {
        let id = self.next_id;
        self.next_id += 1;
        self.write(&Call {
            id,
            body: PeerRequest::Admin(request),
        })
        .await?;
        loop {
            let answer: Answer = self.read(FRAME_MAX_BYTES).await?;
            if answer.id != id {
                // An answer to a call that was given up on.
                continue;
            }
            return match answer.body {
                PeerReply::Admin(reply) => Ok(reply),
                PeerReply::Failed(reason) => Err(PeerClientError::Refused {
                    node: self.node,
                    reason,
                }),
                other => {
                    let reason = format!("an unexpected kind of answer ({})", kind(&other));
                    Err(PeerClientError::Garbled {
                        node: self.node,
                        reason,
                    })
                }
            };
        }
    }

    /// Waits until the node closes the connection, as it does when it stops.
    pub async fn closed(&mut self) {
        let mut ignored = [0; 64];
        while matches!(self.stream.read(&mut ignored).await, Ok(read) if read > 0) {}
    }

    async fn write<T: Serialize>(&mut self, value: &T) -> Result<(), PeerClientError> {
        let node = self.node;
        let frame = frame::encode(value).map_err(|e| self.garbled(&e))?;
        let written = async {
            self.stream.write_all(&frame).await?;
            self.stream.flush().await
        };
        written
            .await
            .map_err(|source| PeerClientError::Lost { node, source })
    }

    async fn read<T: DeserializeOwned>(&mut self, limit: usize) -> Result<T, PeerClientError> {
        let node = self.node;
        let lost = |source| PeerClientError::Lost { node, source };
        let mut prefix = [0; frame::LENGTH_BYTES];
        self.stream.read_exact(&mut prefix).await.map_err(lost)?;
        let length = frame::length(prefix, limit).map_err(|e| self.garbled(&e))?;
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).await.map_err(lost)?;
        frame::decode(&bytes).map_err(|e| self.garbled(&e))
    }

    fn garbled(&self, e: &FrameError) -> PeerClientError {
        PeerClientError::Garbled {
            node: self.node,
            reason: e.to_string(),
        }
    }
}

/// Whether a handshake failed because our CA did not sign the server's certificate. The CAs of all clusters have the same
/// name, so that a wrong one shows as a bad signature.
fn is_of_another_ca(e: &std::io::Error) -> bool {
    let cause = e.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(
        cause,
        Some(rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature
        ))
    )
}

fn kind(reply: &PeerReply) -> &'static str {
    match reply {
        PeerReply::Raft(_) => "raft",
        PeerReply::Done => "done",
        PeerReply::Probe(_) => "probe",
        PeerReply::Admin(_) => "admin",
        PeerReply::Failed(_) => "failed",
    }
}
