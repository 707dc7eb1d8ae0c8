//! Where nodes are and how they are reached: the addresses of the configuration and of the membership, connections
//! over TLS, and the question "how are you?" put to all of them at once. It decides nothing: see [`crate::election`].

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use messagebase_config::{Address, Config, ConfigError, pki};
use messagebase_protocol::json::{Event, Op, Status};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig};

use crate::connection::{CallError, Connection};
use crate::error::Unavailable;

/// TCP and TLS together; a node in the same region answers within a tenth.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(700);
/// A `status` on a fresh connection.
const STATUS_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Once a majority of the addresses answered, the others get this long: a hung node must not hold up the election.
const STRAGGLER_GRACE: Duration = Duration::from_millis(150);
/// Addresses that are remembered; the membership can't make a client dial without end.
const ENDPOINTS_MAX: usize = 64;

/// How bytes get to a node.
#[derive(Clone)]
pub enum Transport {
    /// The `client` address.
    Tls(Arc<ClientConfig>),
    /// TCP without TLS: the `plain` address of a node on this machine.
    Plain,
    /// Streams of the caller's making, for tests with a network of their own.
    Custom(Arc<dyn Connector>),
}

/// A stream of bytes to a node.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// The future of [`Connector::connect`].
pub type ConnectFuture<'a> =
    Pin<Box<dyn Future<Output = std::io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// Opens streams to nodes: the seam at which a test, a storm or a simulation puts its own network under the client, or
/// records what passes. The client sees no difference: it speaks lines of the JSON dialect, opens one stream at a time
/// to each address, and gives up a connect after 700 ms. All its waiting is on Tokio's clock, which a test can pause.
pub trait Connector: Send + Sync + 'static {
    /// Opens a stream to an address of the directory.
    fn connect<'a>(&'a self, address: &'a Address) -> ConnectFuture<'a>;
}

impl Transport {
    /// TLS that trusts the cluster's CA.
    ///
    /// # Errors
    /// `ca.pem` can't be used.
    pub fn from_config(config: &Config) -> Result<Transport, ConfigError> {
        pki::client_tls(&config.pki_dir).map(Transport::Tls)
    }

    /// Dials one address.
    ///
    /// # Errors
    /// Refused, unreachable, not in time, or a certificate that is not the cluster's.
    pub async fn connect(
        &self,
        address: &Address,
    ) -> std::io::Result<(Connection, mpsc::Receiver<Event>)> {
        let dialed = async {
            if let Transport::Custom(connector) = self {
                return connector.connect(address).await.map(Connection::start);
            }
            let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
            // Requests are single small lines: waiting to fill a packet would only add latency.
            tcp.set_nodelay(true)?;
            match self {
                Transport::Plain | Transport::Custom(_) => Ok(Connection::start(tcp)),
                Transport::Tls(config) => {
                    let name = ServerName::try_from(address.host.clone())
                        .map_err(std::io::Error::other)?;
                    let stream = TlsConnector::from(config.clone())
                        .connect(name, tcp)
                        .await?;
                    Ok(Connection::start(stream))
                }
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, dialed)
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
}

/// One address to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The node's number.
    pub node: u16,
    /// Its `client` address.
    pub address: Address,
}

/// The addresses that are known, in the configuration's order, learned ones behind.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    endpoints: Vec<Endpoint>,
}

impl Directory {
    /// What the file says.
    pub fn from_config(config: &Config) -> Directory {
        let endpoints = config
            .nodes
            .iter()
            .map(|node| Endpoint {
                node: node.id,
                address: node.client.clone(),
            })
            .collect();
        Directory { endpoints }
    }

    /// From a list, for programs without a configuration file.
    pub fn from_endpoints(endpoints: Vec<Endpoint>) -> Directory {
        Directory { endpoints }
    }

    /// Adds what a node says of the membership. The file's addresses stay: they may be the only ones that this machine
    /// can reach.
    pub fn learn(&mut self, status: &Status) {
        for member in &status.replica.members {
            let Ok(address) = member.client.parse::<Address>() else {
                continue;
            };
            let endpoint = Endpoint {
                node: member.node,
                address,
            };
            if self.endpoints.len() < ENDPOINTS_MAX && !self.endpoints.contains(&endpoint) {
                self.endpoints.push(endpoint);
            }
        }
    }

    /// All of them.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }
}

/// A node that answered.
#[derive(Debug)]
pub struct Reached {
    /// What it said.
    pub status: Status,
    /// The connection it said it on; not logged in.
    pub connection: Connection,
    /// Its events.
    pub events: mpsc::Receiver<Event>,
}

/// One address while a probe runs.
#[derive(Debug)]
pub enum Slot {
    /// No answer and no failure yet.
    Pending,
    /// It can't be reached.
    Failed(Unreached),
    /// It answered.
    Reached(Box<Reached>),
}

impl Slot {
    /// The answer, if there is one.
    pub fn reached(&self) -> Option<&Reached> {
        match self {
            Slot::Reached(reached) => Some(reached),
            Slot::Pending | Slot::Failed(_) => None,
        }
    }
}

/// Why an address can't be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreached {
    /// The last error's words.
    pub why: String,
    /// Somebody is there whose certificate is not the cluster's.
    pub untrusted: bool,
}

impl Unreached {
    /// No answer in time.
    pub fn silent() -> Unreached {
        Unreached {
            why: "no answer in time".into(),
            untrusted: false,
        }
    }
}

impl From<std::io::Error> for Unreached {
    fn from(error: std::io::Error) -> Unreached {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let untrusted = matches!(tls, Some(rustls::Error::InvalidCertificate(_)));
        Unreached {
            why: error.to_string(),
            untrusted,
        }
    }
}

/// Why no node answered. A node whose certificate is not trusted is reported as such: waiting does not mend that.
pub fn nobody<'a>(
    unreached: impl IntoIterator<Item = (&'a Endpoint, &'a Unreached)>,
) -> Unavailable {
    let mut tried = 0;
    for (endpoint, Unreached { why, untrusted }) in unreached {
        if *untrusted {
            return Unavailable::Untrusted {
                why: format!("node {} at {}: {why}", endpoint.node, endpoint.address),
            };
        }
        tried += 1;
    }
    Unavailable::NoNode { tried }
}

/// Dials one address and asks for its status.
///
/// # Errors
/// Not reached, or no status from there.
pub async fn probe(transport: &Transport, endpoint: &Endpoint) -> Result<Reached, Unreached> {
    let (connection, events) = match transport.connect(&endpoint.address).await {
        Ok(connected) => connected,
        Err(error) => {
            tracing::debug!(node = endpoint.node, address = %endpoint.address, %error, "could not reach a node");
            return Err(error.into());
        }
    };
    match ask_status(&connection).await {
        Ok(status) => Ok(Reached {
            status,
            connection,
            events,
        }),
        Err(error) => {
            tracing::debug!(
                node = endpoint.node,
                ?error,
                "a node did not answer `status`"
            );
            Err(Unreached {
                why: "it does not answer `status`".into(),
                untrusted: false,
            })
        }
    }
}

/// Asks a connection for its node's status, within the time of a probe.
///
/// # Errors
/// As [`Connection::call`].
pub async fn ask_status(connection: &Connection) -> Result<Status, CallError> {
    connection.call(Op::Status {}, STATUS_TIMEOUT).await
}

/// Asks all addresses at once, until `enough` says so, everyone answered, or waiting for the rest is not worth it.
/// The slots are in the directory's order; unanswered ones stay `Pending`.
pub async fn probe_all(
    transport: &Transport,
    directory: &Directory,
    enough: impl Fn(&[Slot]) -> bool,
) -> Vec<Slot> {
    let mut slots: Vec<Slot> = directory.endpoints.iter().map(|_| Slot::Pending).collect();
    let mut probes = JoinSet::new();
    for (at, endpoint) in directory.endpoints.iter().cloned().enumerate() {
        let transport = transport.clone();
        probes.spawn(async move { (at, probe(&transport, &endpoint).await) });
    }
    let mut answered = 0;
    loop {
        let patience = if answered * 2 > slots.len() {
            STRAGGLER_GRACE
        } else {
            CONNECT_TIMEOUT + STATUS_TIMEOUT
        };
        let Ok(Some(joined)) = tokio::time::timeout(patience, probes.join_next()).await else {
            return slots;
        };
        // A probe that panicked is a defect there; here it is a node that did not answer.
        let Ok((at, reached)) = joined else { continue };
        answered += usize::from(reached.is_ok());
        slots[at] = reached.map_or_else(Slot::Failed, |reached| Slot::Reached(Box::new(reached)));
        if enough(&slots) {
            return slots;
        }
    }
}

#[cfg(test)]
mod tests {
    use messagebase_protocol::json::MemberInfo;

    use super::*;

    #[test]
    fn the_membership_adds_addresses_and_keeps_the_files() {
        let here = Endpoint {
            node: 1,
            address: "127.0.0.1:7101".parse().unwrap(),
        };
        let mut directory = Directory::from_endpoints(vec![here.clone()]);
        let member = |node, client: &str| MemberInfo {
            node,
            client: client.into(),
            voter: true,
        };
        let mut status = crate::election::tests::status(1);
        status.replica.members = vec![
            member(1, "127.0.0.1:7101"),
            member(2, "[::1]:7102"),
            member(3, "nonsense"),
        ];
        directory.learn(&status);
        directory.learn(&status);
        let there = Endpoint {
            node: 2,
            address: "[::1]:7102".parse().unwrap(),
        };
        assert_eq!(directory.endpoints(), [here, there]);
    }

    #[test]
    fn a_foreign_certificate_is_named_and_a_dead_node_counted() {
        let endpoint = |node: u16| Endpoint {
            node,
            address: "127.0.0.1:7101".parse().unwrap(),
        };
        let dead = Unreached::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let foreign = Unreached::from(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            unknown,
        ));
        let nodes = [endpoint(1), endpoint(2)];
        assert_eq!(
            nobody([(&nodes[0], &dead), (&nodes[1], &dead)]),
            Unavailable::NoNode { tried: 2 }
        );
        let told = nobody([(&nodes[0], &dead), (&nodes[1], &foreign)]).to_string();
        assert!(
            told.contains("node 2 at 127.0.0.1:7101: invalid peer certificate"),
            "{told}"
        );
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hold_up_the_others() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = listener.local_addr().unwrap().port();
        drop(listener);
        let address = Address {
            host: "127.0.0.1".into(),
            port: dead,
        };
        let directory = Directory::from_endpoints(vec![Endpoint { node: 1, address }]);
        let slots = probe_all(&Transport::Plain, &directory, |_| false).await;
        assert!(matches!(
            slots[..],
            [Slot::Failed(Unreached {
                untrusted: false,
                ..
            })]
        ));
    }
}
