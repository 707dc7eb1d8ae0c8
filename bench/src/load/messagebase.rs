//! A MessageBase cluster under load: sends over the real client library and TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use messagebase_client::client::Client;
use messagebase_client::connection::{CallError, Connection};
use messagebase_client::dial::{Directory, Endpoint};
use messagebase_client::failover::Finder;
use messagebase_client::{Options, random};
use messagebase_protocol::code::Code;
use messagebase_protocol::json::{Op, Sent, Status};
use serde::Serialize;

use super::buffered::buffered;
use super::drive::{Link, Receipt, SEND_PATIENCE, Worked};
use super::load_users::{ClusterAccess, LoadUsers, User, ask, words};
use super::{LoadError, Place, Say, Server, Shape, Subject};

/// A node answers sooner, if only that no majority did; later is a failure of the measurement.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections opened at a time.
const CONNECTING_AT_A_TIME: usize = 16;

/// Which layer of the client library sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Through {
    /// One connection, as the whole client uses it: TLS, JSON lines, replies matched by id. Costs least.
    Connection,
    /// The whole client: outbox, health checks, failover.
    Client,
}

/// The cluster and its clients.
pub struct Messagebase {
    name: &'static str,
    users: LoadUsers,
    servers: Vec<Server>,
    through: Through,
    value_bytes: usize,
    repeated: Arc<AtomicU64>,
}

impl Messagebase {
    /// For a users on running nodes. A message is `value_bytes` long, its label at least.
    pub fn new(
        users: LoadUsers,
        servers: Vec<Server>,
        through: Through,
        value_bytes: usize,
    ) -> Messagebase {
        Messagebase {
            name: "messagebase",
            users,
            servers,
            through,
            value_bytes,
            repeated: Arc::default(),
        }
    }

    /// With another name than `messagebase`, where there are several.
    pub fn named(self, name: &'static str) -> Messagebase {
        Messagebase { name, ..self }
    }

    /// The accounts, for the proof.
    pub fn users(&self) -> &LoadUsers {
        &self.users
    }

    /// Nodes were started anew: other processes.
    pub fn restarted(&mut self, servers: Vec<Server>) {
        self.servers = servers;
    }
}

/// The place of the leader among the endpoints, as the first node that answers says.
///
/// # Errors
/// No node knows one.
pub async fn leader_at(access: &ClusterAccess) -> Result<usize, LoadError> {
    for at in 0..access.endpoints.len() {
        let Ok(connection) = access.connect(at).await else {
            continue;
        };
        let status: Status = ask(&connection, Op::Status {}).await?;
        if let Some(leader) = status.replica.leader
            && let Some(place) = access
                .endpoints
                .iter()
                .position(|access| access.node == leader)
        {
            return Ok(place);
        }
    }
    Err(LoadError::Unreachable {
        who: "the leader".into(),
        why: "no node knows one".into(),
    })
}

/// A message that no other send has: its label, and filling up to the wanted length.
pub fn body(user: &str, serial: u64, bytes: usize) -> String {
    let mut body = label(user, serial);
    body.push_str(&".".repeat(bytes.saturating_sub(body.len())));
    body
}

fn label(user: &str, serial: u64) -> String {
    format!("{user}:{serial}:")
}

/// The serial number that a body of this user carries.
pub fn serial_of(body: &str, user: &str) -> Option<u64> {
    body.strip_prefix(user)?
        .strip_prefix(':')?
        .split_once(':')?
        .0
        .parse()
        .ok()
}

/// A sender on its connection.
pub struct Sender {
    via: Via,
    user: Arc<User>,
    recipients: Arc<[String]>,
    first_recipient: usize,
    value_bytes: usize,
    repeated: Arc<AtomicU64>,
}

enum Via {
    Connection(Connection),
    // Boxed: a client is several times as large as a connection.
    Client(Box<Client>),
}

impl Link for Sender {
    async fn call(&self) -> Result<Option<Receipt>, String> {
        let serial = self.user.next_serial();
        // The remainder is a place in the list, so it fits.
        let to = (self.first_recipient as u64).wrapping_add(serial) % self.recipients.len() as u64;
        let to = &self.recipients[usize::try_from(to).unwrap_or(0)];
        let body = body(&self.user.name, serial, self.value_bytes);
        let sent: Sent = match &self.via {
            Via::Connection(connection) => {
                let op = Op::Send {
                    to: to.clone(),
                    body,
                    key: random::send_key(),
                };
                self.ask_again(connection, op)
                    .await
                    .map_err(|e| words(&e))?
            }
            Via::Client(client) => client.send(to, &body).await.map_err(|e| e.to_string())?,
        };
        Ok(Some(Receipt {
            serial,
            id: sent.id,
        }))
    }
}

impl Sender {
    /// As every client does: asks again under the same key when no majority has answered in time.
    async fn ask_again(&self, connection: &Connection, op: Op) -> Result<Sent, CallError> {
        let began = Instant::now();
        loop {
            match connection.call(op.clone(), SEND_TIMEOUT).await {
                Err(CallError::Refused(failure))
                    if failure.code == Code::NoQuorum && began.elapsed() < SEND_PATIENCE =>
                {
                    self.repeated.fetch_add(1, Ordering::Relaxed);
                }
                answered => return answered,
            }
        }
    }
}

impl Subject for Messagebase {
    type Link = Sender;

    fn name(&self) -> &'static str {
        self.name
    }

    fn servers(&self) -> &[Server] {
        &self.servers
    }

    fn sync_counters(&self) -> &'static [&'static str] {
        &["messagebase_synced_commits_total"]
    }

    async fn links(&mut self, shape: &Shape, say: Say<'_>) -> Result<Vec<Arc<Sender>>, LoadError> {
        self.users.at_least(shape.connections, say).await?;
        self.repeated.store(0, Ordering::Relaxed);
        let access = self.users.access().clone();
        let leader = leader_at(&access).await?;
        let people = self.users.people()[..shape.connections].iter().cloned();
        let through = self.through;
        let deed = |at: usize, user: Arc<User>| {
            let node = match shape.place {
                Place::Leader => leader,
                Place::Spread => at % access.endpoints.len(),
            };
            let access = access.clone();
            async move {
                open(access, node, &user, through)
                    .await
                    .map(|via| (user, via))
            }
        };
        let opened = buffered(people, CONNECTING_AT_A_TIME, deed, |_| {}).await?;
        let sender = |(first_recipient, (user, via))| {
            let (recipients, repeated) = (self.users.recipients(), self.repeated.clone());
            Arc::new(Sender {
                via,
                user,
                recipients,
                first_recipient,
                value_bytes: self.value_bytes,
                repeated,
            })
        };
        Ok(opened.into_iter().enumerate().map(sender).collect())
    }

    fn repeated(&self) -> Option<u64> {
        // The whole client repeats by itself and does not tell.
        (self.through == Through::Connection).then(|| self.repeated.load(Ordering::Relaxed))
    }

    fn absorb(&mut self, worked: Vec<Worked>) {
        for one in worked {
            let mut receipts = self.users.people()[one.link].receipts.lock();
            // A panic while the lock was held can't leave a list half changed.
            let receipts = receipts
                .as_mut()
                .map_or_else(|poisoned| &mut **poisoned.get_mut(), |list| &mut **list);
            receipts.extend(one.receipts);
        }
    }
}

async fn open(
    access: ClusterAccess,
    node: usize,
    user: &User,
    through: Through,
) -> Result<Via, LoadError> {
    match through {
        Through::Connection => Ok(Via::Connection(access.resume(node, user).await?)),
        Through::Client => {
            let endpoints: Vec<Endpoint> = access.endpoints.clone();
            let first = endpoints[node].node;
            let finder = Finder {
                transport: access.transport,
                directory: Directory::from_endpoints(endpoints),
            };
            let (client, _events) = Client::start_with(
                finder,
                Options {
                    node: Some(first),
                    ..Options::default()
                },
            );
            let refused = |e: messagebase_client::ClientError| LoadError::Refused(e.to_string());
            client
                .resume(&user.name, &user.token, None)
                .await
                .map_err(refused)?;
            Ok(Via::Client(Box::new(client)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_its_length_and_gives_its_number_back() {
        let body = body("sender-1", 12, 64);
        assert_eq!(body.len(), 64);
        assert_eq!(serial_of(&body, "sender-1"), Some(12));
        assert_eq!(serial_of(&body, "sender-2"), None);
        assert_eq!(serial_of(&body, "sender"), None);
    }
}
