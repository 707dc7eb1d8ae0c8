//! One connection to the peer door of a node, as an admin: mutual TLS, hello, then calls and answers one at a time.
//! Knows frames and deadlines, not what the requests mean.

use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::peer::{
    AdminReply, AdminRequest, Answer, Call, Dialer, FRAME_MAX_BYTES, HELLO_FRAME_MAX_BYTES,
    HelloReply, PEER_PROTOCOL, PeerHello, PeerReply, PeerRequest, Purpose, node_san,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// Longest wait for a connection and the hello.
pub const OPEN_DEADLINE: Duration = Duration::from_secs(1);

/// Why a node could not be asked. What the caller does next decides the kind.
#[derive(Debug, Error)]
pub enum DoorError {
    /// Nobody listens there, or the way there is cut.
    #[error("failed to reach node {node} at {address}")]
    Unreachable {
        /// Its number.
        node: u16,
        /// Where it was looked for.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody listens who is not that node of this cluster, or who does not accept the admin certificate.
    #[error("failed to authenticate node {node} at {address}")]
    Untrusted {
        /// Its number.
        node: u16,
        /// Where it was looked for.
        address: String,
        /// Why.
        source: std::io::Error,
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
        /// What it said.
        reason: String,
    },
    /// Bytes that make no sense: another version, most likely.
    #[error("node {node} answered something that this version does not understand: {reason}")]
    Garbled {
        /// Its number.
        node: u16,
        /// What is wrong.
        reason: String,
    },
}

/// An open connection to node `node`.
pub struct Door {
    node: u16,
    stream: TlsStream<TcpStream>,
    next_id: u64,
}

impl Door {
    /// Connects and says hello, within [`OPEN_DEADLINE`].
    ///
    /// # Errors
    /// Everything of [`DoorError`] but a lost call.
    pub async fn open(tls: Arc<ClientConfig>, node: u16, address: &str) -> Result<Door, DoorError> {
        let silent = DoorError::Silent {
            node,
            waited: OPEN_DEADLINE,
        };
        timeout(OPEN_DEADLINE, Self::connect(tls, node, address))
            .await
            .unwrap_or(Err(silent))
    }

    async fn connect(tls: Arc<ClientConfig>, node: u16, address: &str) -> Result<Door, DoorError> {
        let unreachable = |source| DoorError::Unreachable {
            node,
            address: address.to_owned(),
            source,
        };
        let untrusted = |source| DoorError::Untrusted {
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
                // A process that dies while it accepts: dead, not a stranger.
                std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof => {
                    unreachable(e)
                }
                _ => untrusted(e),
            })?;
        let mut door = Door {
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
            boot: None,
        };
        door.write(&hello).await?;
        // With TLS 1.3 a refused client certificate shows only here: the handshake was over for this side already.
        match door.read::<HelloReply>(HELLO_FRAME_MAX_BYTES).await {
            Ok(HelloReply::Welcome { node: there, .. }) if there == node => Ok(door),
            Ok(HelloReply::Welcome { node: there, .. }) => Err(DoorError::Refused {
                node,
                reason: format!("{address} is the address of node {there}"),
            }),
            Ok(HelloReply::Refused { reason } | HelloReply::Stale { reason }) => {
                Err(DoorError::Refused { node, reason })
            }
            Err(DoorError::Lost { source, .. })
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
    /// [`DoorError::Silent`] after `deadline`, [`DoorError::Lost`] when the connection ends, and what can be garbled.
    pub async fn call(
        &mut self,
        request: AdminRequest,
        deadline: Duration,
    ) -> Result<AdminReply, DoorError> {
        let silent = DoorError::Silent {
            node: self.node,
            waited: deadline,
        };
        timeout(deadline, self.exchange(request))
            .await
            .unwrap_or(Err(silent))
    }

    async fn exchange(&mut self, request: AdminRequest) -> Result<AdminReply, DoorError> {
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
                PeerReply::Failed(reason) => Err(DoorError::Refused {
                    node: self.node,
                    reason,
                }),
                other => {
                    let reason = format!("an unexpected kind of answer ({})", kind(&other));
                    Err(DoorError::Garbled {
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

    async fn write<T: Serialize>(&mut self, value: &T) -> Result<(), DoorError> {
        let node = self.node;
        let frame = encode(value).map_err(|reason| DoorError::Garbled { node, reason })?;
        write_frame(&mut self.stream, &frame)
            .await
            .map_err(|source| DoorError::Lost { node, source })
    }

    async fn read<T: DeserializeOwned>(&mut self, limit: usize) -> Result<T, DoorError> {
        let node = self.node;
        let frame = read_frame(&mut self.stream, limit)
            .await
            .map_err(|source| DoorError::Lost { node, source })?;
        let frame = frame.map_err(|reason| DoorError::Garbled { node, reason })?;
        postcard::from_bytes(&frame).map_err(|e| DoorError::Garbled {
            node,
            reason: e.to_string(),
        })
    }
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

/// A value as a frame: its length and its bytes in one buffer, so that they leave in one write.
fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let body = postcard::to_stdvec(value).map_err(|e| e.to_string())?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= FRAME_MAX_BYTES);
    let length = length.ok_or_else(|| "the request is larger than a frame may be".to_owned())?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> std::io::Result<()> {
    stream.write_all(frame).await?;
    stream.flush().await
}

/// The bytes of the next frame; the inner error says that its length is out of bounds.
async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> std::io::Result<Result<Vec<u8>, String>> {
    let length = stream.read_u32().await?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > limit {
        return Ok(Err(format!(
            "a frame of {length} bytes, more than the {limit} allowed"
        )));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(Ok(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_comes_back_and_an_oversized_one_is_refused_before_it_is_read() {
        let frame = encode(&HelloReply::Refused {
            reason: "no".into(),
        })
        .expect("small");
        let read = read_frame(&mut frame.as_slice(), HELLO_FRAME_MAX_BYTES)
            .await
            .expect("whole")
            .expect("in bounds");
        let back: HelloReply = postcard::from_bytes(&read).expect("postcard");
        assert_eq!(
            back,
            HelloReply::Refused {
                reason: "no".into()
            }
        );
        let mut huge: &[u8] = &[0xff, 0xff, 0xff, 0xff];
        assert!(
            read_frame(&mut huge, HELLO_FRAME_MAX_BYTES)
                .await
                .expect("a length")
                .is_err()
        );
        let mut cut: &[u8] = &frame[..frame.len() - 1];
        assert!(read_frame(&mut cut, HELLO_FRAME_MAX_BYTES).await.is_err());
    }
}
