//! The sender and the recipient, through the client library and nothing else.

use std::error::Error;
use std::time::Duration;

use messagebase_client::client::Events;
use messagebase_client::{Client, ClientError, ClientEvent, Notice, Options, random};
use messagebase_config::Config;
use messagebase_protocol::limits::PAGE_MAX;

use super::FailoverError;
use super::delivery_log::{Found, number_of};

/// How often a client is started anew that came to another node than it was to: a ready node that is slow for a moment
/// is passed over.
const SEATINGS_MAX: usize = 5;

/// An account and a session that any client can take up.
struct Account<'a> {
    config: &'a Config,
    user: String,
    token: String,
    cluster_id: Option<String>,
}

/// Both users.
pub(super) struct Users<'a> {
    sender: Account<'a>,
    recipient: Account<'a>,
    /// The sender's client and its news, once it has a seat.
    seat: Option<(Client, Events)>,
    /// The recipient has acknowledged the messages up to this id.
    acknowledged: u64,
}

impl<'a> Users<'a> {
    /// Makes both accounts, under names that nobody has, and begins their sessions.
    pub(super) async fn sign_up<E>(config: &'a Config) -> Result<Users<'a>, FailoverError<E>>
    where
        E: Error + Send + Sync + 'static,
    {
        let sender = Account::new(config)
            .await
            .map_err(failed("make the sender's account"))?;
        let recipient = Account::new(config)
            .await
            .map_err(failed("make the recipient's account"))?;
        Ok(Users {
            sender,
            recipient,
            seat: None,
            acknowledged: 0,
        })
    }

    /// Sees to it that the sender's client is connected to this node.
    pub(super) async fn seat_sender<E>(&mut self, node: u16) -> Result<(), FailoverError<E>>
    where
        E: Error + Send + Sync + 'static,
    {
        for _ in 0..SEATINGS_MAX {
            if self.seat.as_ref().and_then(|(client, _)| node_of(client)) == Some(node) {
                return Ok(());
            }
            self.seat = Some(
                self.sender
                    .client(Some(node))
                    .await
                    .map_err(failed("connect the sender"))?,
            );
        }
        match self.seat.as_ref().and_then(|(client, _)| node_of(client)) {
            Some(got) if got != node => Err(FailoverError::Misplaced { wanted: node, got }),
            _ => Ok(()),
        }
    }

    /// Sends, and tells to which node the client was connected when the answer came.
    pub(super) async fn send(&self, body: &str) -> (Result<u64, ClientError>, Option<u16>) {
        let Some((client, _)) = &self.seat else {
            return (Err(ClientError::NotLoggedIn), None);
        };
        let answer = client.send(&self.recipient.user, body).await;
        (answer.map(|sent| sent.id), node_of(client))
    }

    /// What the sender's client reported since it was asked last: how long each failover took it.
    pub(super) fn failovers(&mut self) -> Vec<Duration> {
        let Some((_, events)) = &mut self.seat else {
            return Vec::new();
        };
        let mut failovers = Vec::new();
        while let Ok(event) = events.try_recv() {
            if let ClientEvent::Notice(Notice::Failover { took, .. }) = event {
                failovers.push(took);
            }
        }
        failovers
    }

    /// Acknowledges what came to the recipient: undelivered messages are bounded.
    pub(super) async fn empty_inbox<E>(&mut self) -> Result<(), FailoverError<E>>
    where
        E: Error + Send + Sync + 'static,
    {
        // Connected only here: while a fault is measured, the recipient's failover must not take the sender's processor.
        let (client, _events) = self
            .recipient
            .client(None)
            .await
            .map_err(failed("connect the recipient"))?;
        loop {
            let page = client
                .inbox(self.acknowledged, PAGE_MAX)
                .await
                .map_err(failed("read the inbox"))?;
            let Some(last) = page.messages.last() else {
                return Ok(());
            };
            client
                .ack(last.id)
                .await
                .map_err(failed("acknowledge what came"))?;
            self.acknowledged = last.id;
        }
    }

    /// All messages that the recipient ever got.
    pub(super) async fn mailbox<E>(&self) -> Result<Vec<Found>, FailoverError<E>>
    where
        E: Error + Send + Sync + 'static,
    {
        let (client, _events) = self
            .recipient
            .client(None)
            .await
            .map_err(failed("connect the recipient"))?;
        let mut found: Vec<Found> = Vec::new();
        loop {
            let after = found.last().map_or(0, |message| message.id);
            let page = client
                .sync(after, PAGE_MAX)
                .await
                .map_err(failed("read the mailbox"))?;
            if page.messages.is_empty() {
                return Ok(found);
            }
            found.extend(page.messages.iter().map(|record| Found {
                id: record.id,
                number: number_of(&record.body),
            }));
        }
    }
}

impl<'a> Account<'a> {
    async fn new(config: &'a Config) -> Result<Account<'a>, ClientError> {
        let (client, _events) = Client::connect(config, Options::default()).await?;
        let user = format!("bench-{}", &random::key()[..NAME_DIGITS]);
        let password = random::key();
        client.register(&user, &password).await?;
        let token = client.login(&user, &password).await?.token;
        let cluster_id = client.connected().await?.cluster_id.clone();
        Ok(Account {
            config,
            user,
            token,
            cluster_id,
        })
    }

    /// A client with this account's session, on this node if that is ready.
    async fn client(&self, node: Option<u16>) -> Result<(Client, Events), ClientError> {
        let (client, events) = Client::connect(
            self.config,
            Options {
                node,
                ..Options::default()
            },
        )
        .await?;
        client
            .resume(&self.user, &self.token, self.cluster_id.as_deref())
            .await?;
        Ok((client, events))
    }
}

/// Random hexadecimal digits of a user's name.
const NAME_DIGITS: usize = 16;

fn node_of(client: &Client) -> Option<u16> {
    client.link().state.ok().map(|up| up.node)
}

fn failed<E: Error + Send + Sync + 'static>(
    what: &'static str,
) -> impl FnOnce(ClientError) -> FailoverError<E> {
    move |source| FailoverError::Client { what, source }
}
