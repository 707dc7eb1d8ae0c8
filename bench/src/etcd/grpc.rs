//! Puts over gRPC: one HTTP/2 connection a client, a stream a put. As little as works, so that the clients' processor
//! time, which etcd must share the machine with, is no larger than our own client's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::wire;
use crate::load::LoadError;
use crate::load::drive::{Link, Receipt};

/// The method.
const PUT: &str = "https://etcd/etcdserverpb.KV/Put";
/// An answer that takes longer is a failure of the measurement.
const PUT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a put that gRPC calls successful.
const GRPC_OK: &str = "0";
/// HTTP/2's name in TLS' negotiation; etcd hangs up without it.
const ALPN_H2: &[u8] = b"h2";

/// One node, as clients reach it.
#[derive(Clone)]
pub struct Endpoint {
    /// `HOST:PORT`.
    pub address: String,
    /// `None`: without TLS.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Endpoint {
    /// With the TLS that MessageBase's clients use, asking for HTTP/2.
    pub fn over_tls(address: String, tls: &ClientConfig) -> Endpoint {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![ALPN_H2.to_vec()];
        Endpoint {
            address,
            tls: Some(Arc::new(tls)),
        }
    }
}

/// One client on its connection.
pub struct Putter {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<()>,
    at: usize,
    serial: Arc<AtomicU64>,
    value_bytes: usize,
}

impl Drop for Putter {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Putter {
    /// Connects. `at` and `serial` make its keys its own.
    ///
    /// # Errors
    /// The node can't be reached or does not speak HTTP/2.
    pub async fn open(
        endpoint: &Endpoint,
        at: usize,
        serial: Arc<AtomicU64>,
        value_bytes: usize,
    ) -> Result<Putter, LoadError> {
        let opened = async {
            let tcp = TcpStream::connect(&endpoint.address)
                .await
                .map_err(|e| e.to_string())?;
            tcp.set_nodelay(true).map_err(|e| e.to_string())?;
            match &endpoint.tls {
                None => handshake(tcp).await,
                Some(tls) => {
                    let host = endpoint
                        .address
                        .rsplit_once(':')
                        .map_or(endpoint.address.as_str(), |(host, _)| host);
                    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
                    let connector = TlsConnector::from(tls.clone());
                    handshake(
                        connector
                            .connect(name, tcp)
                            .await
                            .map_err(|e| e.to_string())?,
                    )
                    .await
                }
            }
        };
        let (requests, connection) = opened.await.map_err(|why| LoadError::Unreachable {
            who: format!("etcd at {}", endpoint.address),
            why,
        })?;
        Ok(Putter {
            requests,
            connection,
            at,
            serial,
            value_bytes,
        })
    }

    async fn put(&self, serial: u64) -> Result<u64, String> {
        let fault = |e: h2::Error| e.to_string();
        let key = format!("{:05}/{serial:010}", self.at);
        let message = wire::put(key.as_bytes(), &vec![b'.'; self.value_bytes]);
        let request = Request::post(PUT)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|e| e.to_string())?;
        let mut requests = self.requests.clone().ready().await.map_err(fault)?;
        let (response, mut stream) = requests.send_request(request, false).map_err(fault)?;
        stream.send_data(message.into(), true).map_err(fault)?;
        let mut body = response.await.map_err(fault)?.into_body();
        let mut answer = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(fault)?;
            body.flow_control()
                .release_capacity(chunk.len())
                .map_err(fault)?;
            answer.extend_from_slice(&chunk);
        }
        let trailers = body.trailers().await.map_err(fault)?.unwrap_or_default();
        let text = |name| {
            trailers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        match text("grpc-status") {
            GRPC_OK => {
                wire::revision(&answer).ok_or_else(|| "etcd's answer holds no revision".into())
            }
            status => Err(format!(
                "etcd refused a put with status {status}: {}",
                text("grpc-message")
            )),
        }
    }
}

async fn handshake<S>(stream: S) -> Result<(SendRequest<Bytes>, JoinHandle<()>), String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (requests, connection) = h2::client::handshake(stream)
        .await
        .map_err(|e| e.to_string())?;
    // Its error is every put's error.
    let connection = tokio::spawn(async move { drop(connection.await) });
    Ok((requests, connection))
}

impl Link for Putter {
    async fn call(&self) -> Result<Option<Receipt>, String> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let put = tokio::time::timeout(PUT_TIMEOUT, self.put(serial)).await;
        let id = put.unwrap_or_else(|_| Err("no answer in time".into()))?;
        Ok(Some(Receipt { serial, id }))
    }
}
