//! Nodes that are none, for tests: a cluster in this process that answers the JSON dialect over plain TCP. Its nodes
//! share one state, so what a real cluster replicates is simply there; what matters to a client (who answers, who
//! leads, what is lost, what comes twice) can be arranged.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use messagebase_config::Address;
use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::json::{
    Campaign, ClosingReason, Empty, Event, Inbox, LogPosition, LoggedIn, MemberInfo, Message,
    MessageRecord, Op, Ping, Records, ReplicaView, Request, Resumed, Sent, Status, encode_event,
    encode_failure, encode_ok,
};
use messagebase_protocol::role::NodeRole;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::client::{Client, Events, Options};
use crate::dial::{Directory, Endpoint, Transport};
use crate::failover::Finder;
use crate::notice::ClientEvent;

const SOON: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    cluster_id: String,
    leader: Option<u16>,
    term: u64,
    index: u64,
    voters: u16,
    ports: BTreeMap<u16, u16>,
    alive: BTreeMap<u16, watch::Sender<bool>>,
    /// The nodes' listeners, awaited before their ports are taken again.
    listeners: BTreeMap<u16, tokio::task::JoinHandle<()>>,
    tokens: HashMap<String, String>,
    keys: HashMap<(String, String), Sent>,
    messages: Vec<MessageRecord>,
    /// Applies the next send and dies before answering it.
    die_before_answer: Option<u16>,
    /// The request that is being answered is a send.
    sent: bool,
    /// Takes every line and answers none.
    hung: Option<u16>,
    /// Answers sends only when this is taken back, all else at once.
    slow: bool,
    sessions: Vec<(String, u16, mpsc::Sender<String>)>,
    statuses: u64,
}

/// The cluster; clones are handles.
#[derive(Clone, Default)]
pub struct Cluster(Arc<Mutex<State>>);

impl Cluster {
    pub async fn start(nodes: u16) -> Cluster {
        let cluster = Cluster::default();
        {
            let mut state = cluster.state();
            (state.cluster_id, state.term, state.leader, state.voters) =
                ("c1".into(), 1, Some(1), nodes);
        }
        for node in 1..=nodes {
            cluster.boot(node).await;
        }
        cluster
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Starts a node, on its old port if it had one.
    pub async fn boot(&self, node: u16) {
        let former = self.state().listeners.remove(&node);
        if let Some(former) = former {
            former.await.unwrap();
        }
        let port = self.state().ports.get(&node).copied().unwrap_or(0);
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let (alive, mut dead) = watch::channel(true);
        {
            let mut state = self.state();
            state
                .ports
                .insert(node, listener.local_addr().unwrap().port());
            state.alive.insert(node, alive);
        }
        let cluster = self.clone();
        let listening = tokio::spawn(async move {
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        let (cluster, dead) = (cluster.clone(), dead.clone());
                        tokio::spawn(async move { cluster.serve(node, stream, dead).await });
                    }
                    () = gone(&mut dead) => return,
                }
            }
        });
        self.state().listeners.insert(node, listening);
    }

    /// The node dies at once; a dead leader leaves the others without one until somebody campaigns.
    pub fn kill(&self, node: u16) {
        let mut state = self.state();
        if let Some(alive) = state.alive.remove(&node) {
            alive.send_replace(false);
        }
        state.sessions.retain(|(_, at, _)| *at != node);
    }

    /// Becomes another cluster, as after a restore: no sessions, another identity.
    pub fn restore(&self) {
        let mut state = self.state();
        state.cluster_id = "c2".into();
        state.tokens.clear();
        state.keys.clear();
    }

    /// The node hangs as if stopped: its connections stay, nothing is answered. A hung leader is replaced by the node that is
    /// asked to campaign.
    pub fn hang(&self, node: u16) {
        self.state().hung = Some(node);
    }

    /// Sends are answered no more (true), or again.
    pub fn slow(&self, slow: bool) {
        self.state().slow = slow;
    }

    /// How often a node was asked for its status.
    pub fn statuses(&self) -> u64 {
        self.state().statuses
    }

    /// The next send on this node is applied, and the node dies before it answers.
    pub fn die_before_answer(&self, node: u16) {
        self.state().die_before_answer = Some(node);
    }

    /// Ends a user's sessions with this reason.
    pub fn close_sessions(&self, reason: ClosingReason) {
        let sessions = std::mem::take(&mut self.state().sessions);
        for (_, _, lines) in sessions {
            let _ = lines.try_send(encode_event(&Event::Closing { reason }));
        }
    }

    /// A message from outside the test's clients.
    pub fn deliver(&self, from: &str, to: &str, body: &str) -> u64 {
        let mut state = self.state();
        state.store(from, to, body).id
    }

    pub fn bodies(&self) -> Vec<String> {
        self.state()
            .messages
            .iter()
            .map(|message| message.body.clone())
            .collect()
    }

    pub fn undelivered(&self) -> usize {
        self.state()
            .messages
            .iter()
            .filter(|message| message.delivered_at.is_none())
            .count()
    }

    pub fn client(&self, receive: bool) -> (Client, Events) {
        let health_every = Duration::from_millis(100);
        let no_node_patience = Duration::from_millis(500);
        self.client_with(Options {
            receive,
            health_every,
            no_node_patience,
            ..Options::default()
        })
    }

    pub fn client_with(&self, options: Options) -> (Client, Events) {
        self.client_over(Transport::Plain, options)
    }

    pub fn client_over(&self, transport: Transport, options: Options) -> (Client, Events) {
        let ports = self.state().ports.clone();
        let endpoints = ports
            .iter()
            .map(|(node, port)| Endpoint {
                node: *node,
                address: Address {
                    host: "127.0.0.1".into(),
                    port: *port,
                },
            })
            .collect();
        let finder = Finder {
            transport,
            directory: Directory::from_endpoints(endpoints),
        };
        Client::start_with(finder, options)
    }

    async fn serve(&self, node: u16, stream: TcpStream, mut dead: watch::Receiver<bool>) {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let (events, mut outgoing) = mpsc::channel::<String>(1_000);
        let mut user = None;
        loop {
            tokio::select! {
                line = lines.next_line() => {
                    let Ok(Some(line)) = line else { return };
                    let request = Request::parse(&line).unwrap();
                    if self.swallows(node, &request.op) {
                        continue;
                    }
                    let Some(reply) = self.answer(node, request, &mut user, &events) else { return };
                    if write.write_all(reply.as_bytes()).await.is_err() {
                        return;
                    }
                }
                Some(line) = outgoing.recv() => {
                    if write.write_all(line.as_bytes()).await.is_err() || line.contains("\"closing\"") {
                        return;
                    }
                }
                () = gone(&mut dead) => return,
            }
        }
    }

    fn swallows(&self, node: u16, op: &Op) -> bool {
        let state = self.state();
        state.hung == Some(node) || (state.slow && matches!(op, Op::Send { .. }))
    }

    /// `None`: the node dies instead of answering.
    fn answer(
        &self,
        node: u16,
        request: Request,
        user: &mut Option<String>,
        events: &mpsc::Sender<String>,
    ) -> Option<String> {
        let id = request.id;
        let mut state = self.state();
        let answer = match state.answer_anybody(node, request, user, events) {
            Ok(answer) => answer,
            Err(op) => match user.clone() {
                Some(me) => state.answer_user(id, op, me),
                None => refuse(id, Code::NotLoggedIn),
            },
        };
        if state.sent && state.die_before_answer == Some(node) {
            state.die_before_answer = None;
            drop(state);
            self.kill(node);
            return None;
        }
        Some(answer)
    }
}

fn refuse(id: u64, code: Code) -> String {
    encode_failure(Some(id), &Failure::not_done(code, "fake"))
}

impl State {
    /// What needs no session. `Err`: the operation, which does.
    fn answer_anybody(
        &mut self,
        node: u16,
        request: Request,
        user: &mut Option<String>,
        events: &mpsc::Sender<String>,
    ) -> Result<String, Op> {
        let id = request.id;
        self.sent = false;
        let hung = self.hung;
        let well = |node: u16| self.alive.contains_key(&node) && hung != Some(node);
        let quorum =
            self.alive.keys().filter(|node| well(**node)).count() > usize::from(self.voters) / 2;
        let led = quorum && self.leader.is_some_and(well);
        Ok(match request.op {
            Op::Status {} => {
                self.statuses += 1;
                encode_ok(id, &self.status(node, led))
            }
            Op::Ping {} => encode_ok(
                id,
                &Ping {
                    ready: led,
                    applied: Some(self.index),
                },
            ),
            Op::Campaign {} if !quorum => refuse(id, Code::NoQuorum),
            Op::Campaign {} => {
                if !led {
                    self.term += 1;
                    self.leader = Some(node);
                }
                let leader = self.leader.unwrap();
                encode_ok(id, &Campaign { leader })
            }
            _ if !led => refuse(id, Code::NoQuorum),
            Op::Login { user: name, .. } => {
                let token = format!("token-{}", self.tokens.len());
                self.tokens.insert(token.clone(), name.clone());
                self.sessions.push((name.clone(), node, events.clone()));
                *user = Some(name.clone());
                let queued = 0;
                encode_ok(
                    id,
                    &LoggedIn {
                        user: name,
                        token,
                        queued,
                    },
                )
            }
            Op::Resume { token, .. } => {
                let Some(name) = self.tokens.get(&token).cloned() else {
                    return Ok(refuse(id, Code::BadCredentials));
                };
                self.sessions.push((name.clone(), node, events.clone()));
                *user = Some(name.clone());
                let (queued, linear) = (0, true);
                encode_ok(
                    id,
                    &Resumed {
                        user: name,
                        queued,
                        linear,
                    },
                )
            }
            op => return Err(op),
        })
    }

    fn answer_user(&mut self, id: u64, op: Op, me: String) -> String {
        match op {
            Op::Send { to, body, key } => {
                self.sent = true;
                let duplicate = self.keys.get(&(me.clone(), key.clone())).cloned();
                let sent = match duplicate {
                    Some(sent) => Sent {
                        duplicate: true,
                        ..sent
                    },
                    None => {
                        let sent = self.store(&me, &to, &body);
                        self.keys.insert((me, key), sent.clone());
                        sent
                    }
                };
                encode_ok(id, &sent)
            }
            Op::Inbox { after, .. } => {
                let wanted = |m: &&MessageRecord| {
                    m.to == me && m.delivered_at.is_none() && m.id > after.unwrap_or(0)
                };
                let all: Vec<Message> = self.messages.iter().filter(wanted).map(message).collect();
                // Small pages, so that turning them is tested.
                let more = all.len() > 2;
                let messages = all.into_iter().take(2).collect();
                encode_ok(id, &Inbox { messages, more })
            }
            Op::Sync { after, .. } => {
                let wanted = |m: &&MessageRecord| (m.to == me || m.from == me) && m.id > after;
                let all: Vec<MessageRecord> =
                    self.messages.iter().filter(wanted).cloned().collect();
                let more = all.len() > 2;
                let messages = all.into_iter().take(2).collect();
                encode_ok(id, &Records { messages, more })
            }
            Op::Ack { through } => {
                let acknowledged = |m: &&mut MessageRecord| m.to == me && m.id <= through;
                for message in self.messages.iter_mut().filter(acknowledged) {
                    message.delivered_at = Some(1);
                }
                encode_ok(id, &Empty {})
            }
            Op::Logout {} => {
                self.tokens.retain(|_, name| *name != me);
                encode_ok(id, &Empty {})
            }
            _ => refuse(id, Code::UnknownOp),
        }
    }
}

async fn gone(alive: &mut watch::Receiver<bool>) {
    let _ = alive.wait_for(|alive| !alive).await;
}

impl State {
    fn status(&self, node: u16, led: bool) -> Status {
        let members = (1..=self.voters)
            .filter_map(|node| {
                Some(MemberInfo {
                    node,
                    client: format!("127.0.0.1:{}", self.ports.get(&node)?),
                    voter: true,
                })
            })
            .collect();
        Status {
            node,
            cluster: "test".into(),
            cluster_id: Some(self.cluster_id.clone()),
            version: "0".into(),
            replica: ReplicaView {
                role: if self.leader == Some(node) {
                    NodeRole::Leader
                } else {
                    NodeRole::Follower
                },
                term: self.term,
                leader: self.leader,
                last_log: Some(LogPosition {
                    term: self.term,
                    leader: 1,
                    index: self.index,
                }),
                committed: Some(self.index),
                applied: Some(self.index),
                members,
                ready: led,
            },
            uptime_ms: 1,
        }
    }

    fn store(&mut self, from: &str, to: &str, body: &str) -> Sent {
        self.index += 1;
        let (id, sent_at) = (self.index, self.index);
        let record = MessageRecord {
            id,
            from: from.into(),
            to: to.into(),
            body: body.into(),
            sent_at,
            delivered_at: None,
        };
        let event = encode_event(&Event::Message {
            message: message(&record),
        });
        for (_, _, lines) in self.sessions.iter().filter(|(name, _, _)| name == to) {
            let _ = lines.try_send(event.clone());
        }
        self.messages.push(record);
        Sent {
            id,
            sent_at,
            duplicate: false,
            online: true,
        }
    }
}

fn message(record: &MessageRecord) -> Message {
    let MessageRecord {
        id,
        from,
        to,
        body,
        sent_at,
        ..
    } = record.clone();
    Message {
        id,
        from,
        to,
        body,
        sent_at,
    }
}

/// The next event that `pick` wants; what is no match is skipped.
pub async fn next<T>(
    events: &mut Events,
    what: &str,
    pick: impl Fn(&ClientEvent) -> Option<T>,
) -> T {
    let wanted = async {
        loop {
            let event = events.recv().await.unwrap();
            if let Some(found) = pick(&event) {
                return found;
            }
        }
    };
    tokio::time::timeout(SOON, wanted)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// The bodies of the next messages.
pub async fn next_bodies(events: &mut Events, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    while bodies.len() < count {
        let body = |event: &ClientEvent| match event {
            ClientEvent::Message(message) => Some(message.body.clone()),
            _ => None,
        };
        bodies.push(
            next(
                events,
                &format!("message {} of {count}", bodies.len() + 1),
                body,
            )
            .await,
        );
    }
    bodies
}
