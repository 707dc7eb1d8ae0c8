//! The client that is shipped, in a storm: a program on the library `messagebase-client`. Its lines are recorded below it
//! ([`crate::storm::recorded_stream`]), what the library shows the program is recorded here. So a storm finds mistakes of
//! the library's failover: a message lost, shown twice or out of order, a send that never ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use messagebase_checker::{Event, Message, RecordingConnection};
use messagebase_client::client::{Events, Pending};
use messagebase_client::dial::{Directory, Endpoint, Transport};
use messagebase_client::failover::Finder;
use messagebase_client::{Client, ClientError, ClientEvent, Options};
use messagebase_config::Address;
use messagebase_protocol::code::Code;
use messagebase_protocol::json::Sent;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::client::PASSWORD;
use crate::storm::context::StormContext;
use crate::storm::plan::ClientPlan;
use crate::storm::recorded_stream::RecordedNetwork;

/// How long a call of the library goes on. Shorter than the storm's own patience, so that the library's verdict is seen.
const CALL_PATIENCE: Duration = Duration::from_secs(45);
/// Sends that are put into the outbox before the first answer is awaited.
const SENDS: std::ops::RangeInclusive<usize> = 1..=8;
/// How long the program listens between two operations, ms.
const THINKS_MS: std::ops::Range<u64> = 0..40;
/// How long one wait lasts before the session is looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the library has to show, in the end, what a linear read showed.
const SHOWN_WITHIN: Duration = Duration::from_secs(15);
const PAGE: u32 = 100;

/// The client and what runs its tasks.
pub(super) struct ShippedClient {
    runtime: Runtime,
    program: Program,
}

impl ShippedClient {
    /// Starts the library's client; `number` is unlike that of every other client of the storm.
    pub fn new(context: &Arc<StormContext>, number: usize, planned: &ClientPlan) -> ShippedClient {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let network = RecordedNetwork {
            context: Arc::clone(context),
            client: context.recorder.client(),
        };
        let numbers = context.cluster.numbers();
        let endpoints = numbers.into_iter().map(|node| Endpoint {
            node,
            address: Address {
                host: "127.0.0.1".into(),
                port: context.cluster.ports(node).client,
            },
        });
        let finder = Finder {
            transport: Transport::Custom(Arc::new(network)),
            directory: Directory::from_endpoints(endpoints.collect()),
        };
        let options = Options {
            node: Some(planned.node),
            receive: true,
            patience: CALL_PATIENCE,
            no_node_patience: CALL_PATIENCE,
            ..Options::default()
        };
        let (client, events) = {
            let _entered = runtime.enter();
            Client::start_with(finder, options)
        };
        let program = Program {
            context: Arc::clone(context),
            client,
            events,
            shown: context.recorder.client().connect(planned.node),
            user: planned.user.clone(),
            token: String::new(),
            rng: Rng::with_seed(planned.seed),
            stem: format!("s{number}"),
            keys: 0,
            newest: 0,
        };
        ShippedClient { runtime, program }
    }

    /// Works until the storm is over.
    pub fn visit(&mut self) {
        self.runtime.block_on(self.program.visit());
    }

    /// Fetches what was missed and claims to have missed nothing. Nobody may write any more.
    ///
    /// # Errors
    /// For people, when the library does not get that far.
    pub fn finish(mut self) -> Result<(), String> {
        let failed = self.program.failed("in the end");
        self.runtime
            .block_on(self.program.finish())
            .map_err(|e| format!("{failed}: {e}"))
    }
}

/// A program that uses the library.
struct Program {
    context: Arc<StormContext>,
    client: Client,
    events: Events,
    /// What the library shows; in the history a client of its own.
    shown: RecordingConnection,
    user: String,
    token: String,
    rng: Rng,
    stem: String,
    keys: u64,
    /// The greatest id that was shown since the session was begun or resumed.
    newest: u64,
}

impl Program {
    fn failed(&self, when: &str) -> String {
        format!("the shipped client of {} failed {when}", self.user)
    }

    async fn visit(&mut self) {
        let entered = self.enter().await;
        self.context.has_come();
        if let Err(error) = entered {
            let failed = self.failed("before the storm");
            return self.context.wrong(format!("{failed}: {error}"));
        }
        while !self.context.is_over() {
            if let Err(error) = self.act().await {
                let failed = self.failed("to go on");
                return self.context.wrong(format!("{failed}: {error}"));
            }
            let thinks = Duration::from_millis(self.rng.u64(THINKS_MS));
            self.listen(thinks).await;
        }
    }

    async fn enter(&mut self) -> Result<(), ClientError> {
        self.context.may_have(&self.user, PASSWORD);
        match self.client.register(&self.user, PASSWORD).await {
            Ok(_) => {}
            Err(ClientError::Refused(failure)) if failure.code == Code::NameTaken => {}
            Err(error) => return Err(error),
        }
        self.log_in().await
    }

    async fn log_in(&mut self) -> Result<(), ClientError> {
        // What is still to be read belongs to the session before: the next one begins with the inbox.
        self.listen(Duration::ZERO).await;
        self.newest = 0;
        self.token = self.client.login(&self.user, PASSWORD).await?.token;
        Ok(())
    }

    async fn act(&mut self) -> Result<(), ClientError> {
        if self.client.user().is_none() {
            return self.log_in().await;
        }
        let done = match self.rng.u8(0..100) {
            0..=64 => self.send().await,
            65..=79 => self.client.acknowledge(self.newest).await,
            80..=91 => self.read().await,
            92..=95 => match self.client.logout().await {
                Ok(()) => self.log_in().await,
                Err(error) => Err(error),
            },
            _ => self.detach_and_resume().await,
        };
        match done {
            // The next operation logs in again.
            Err(ClientError::NotLoggedIn) => Ok(()),
            // A final answer, unless it says that the cluster does not serve.
            Err(ClientError::Refused(failure))
                if !matches!(failure.code, Code::NoQuorum | Code::Closing | Code::Busy) =>
            {
                Ok(())
            }
            done => done,
        }
    }

    /// Fills the outbox and awaits the answers, which must be in order.
    async fn send(&mut self) -> Result<(), ClientError> {
        let mut sends = Vec::new();
        for _ in 0..self.rng.usize(SENDS) {
            let names = &self.context.names;
            let to = names[self.rng.usize(..names.len())].clone();
            self.keys += 1;
            let key = format!("{}-{}", self.stem, self.keys);
            sends.push(self.client.enqueue_keyed(&to, &key, &key).await?);
        }
        let mut greatest = 0;
        for pending in &mut sends {
            match self.answer(pending).await {
                Ok(sent) if sent.id > greatest => greatest = sent.id,
                Ok(sent) => {
                    let overtook = format!("message {} came before {greatest}", sent.id);
                    let failed = self.failed("to send in order");
                    self.context.wrong(format!("{failed}: {overtook}"));
                }
                Err(ClientError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Awaits an answer. Logs in again if the session ends, because the outbox waits for that.
    async fn answer(&mut self, pending: &mut Pending) -> Result<Sent, ClientError> {
        let began = Instant::now();
        loop {
            if let Ok(answer) = timeout(LOOK_EVERY, pending.answer()).await {
                return answer;
            }
            if began.elapsed() > CALL_PATIENCE || self.context.out_of_patience() {
                let why = self.client.link().state.err();
                return Err(ClientError::Unreachable {
                    why: why.unwrap_or(messagebase_client::error::Unavailable::Connecting),
                    unknown: true,
                });
            }
            if self.client.user().is_none() {
                self.log_in().await?;
            }
        }
    }

    async fn read(&mut self) -> Result<(), ClientError> {
        let limit = self.rng.u32(1..=PAGE);
        match self.rng.u8(0..4) {
            0 => self.client.inbox(0, limit).await.map(drop),
            1 => self.client.sync(self.newest, limit).await.map(drop),
            2 => {
                let names = &self.context.names;
                let with = names[self.rng.usize(..names.len())].clone();
                self.client.history(&with, None, limit).await.map(drop)
            }
            _ => self
                .client
                .users_page(Some("user-*"), None, limit)
                .await
                .map(drop),
        }
    }

    /// As a program that is started again with the token that it kept.
    async fn detach_and_resume(&mut self) -> Result<(), ClientError> {
        self.client.detach().await?;
        self.listen(Duration::ZERO).await;
        self.newest = 0;
        self.client.resume(&self.user, &self.token, None).await
    }

    /// Takes in what the library shows, for this long; what is there already in any case.
    async fn listen(&mut self, wait: Duration) {
        let until = tokio::time::Instant::now() + wait;
        loop {
            let event = match self.events.try_recv() {
                Ok(event) => event,
                Err(_) => match tokio::time::timeout_at(until, self.events.recv()).await {
                    Ok(Some(event)) => event,
                    Ok(None) | Err(_) => return,
                },
            };
            let ClientEvent::Message(message) = event else {
                continue;
            };
            if message.id <= self.newest {
                let what = format!("message {} after {}", message.id, self.newest);
                let failed = self.failed("to show messages in order, once");
                self.context.wrong(format!("{failed}: {what}"));
            }
            self.newest = self.newest.max(message.id);
            self.shown.shown(Event::Message(Message {
                id: message.id,
                from: message.from,
                to: message.to,
                body: message.body,
                sent_at: message.sent_at,
                delivered_at: None,
            }));
        }
    }

    async fn finish(&mut self) -> Result<(), ClientError> {
        if self.client.user().is_none() {
            self.log_in().await?;
        }
        let mut last = 0;
        loop {
            let page = self.client.inbox(last, PAGE).await?;
            last = page.messages.last().map_or(last, |message| message.id);
            if !page.more {
                break;
            }
        }
        let until = Instant::now() + SHOWN_WITHIN;
        while self.newest < last && Instant::now() < until {
            self.listen(LOOK_EVERY).await;
        }
        self.shown.kept_up(&self.user, 0);
        Ok(())
    }
}
