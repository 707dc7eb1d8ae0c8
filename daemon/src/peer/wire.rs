//! Dials peers. Every [`TlsLink`] is a task that owns one connection: it dials when it is first used and again
//! after the connection broke. Nothing is shared but a bounded queue, so a hung peer blocks its own link alone.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use messagebase_config::Config;
use messagebase_protocol::peer::{
    Answer, Boot, Call, Dialer, FRAME_MAX_BYTES, HELLO_FRAME_MAX_BYTES, HelloReply, PEER_PROTOCOL,
    PeerHello, PeerReply, PeerRequest, Purpose, node_san,
};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::sync::CancellationToken;

use super::frame;
use super::ledger::{Ledger, Meeting};
use crate::raft::api::{Link, Target, Wire, WireError};
use crate::store::Store;

/// Connect, TLS handshake and hello together. A dead host answers nothing; a dead process is refused at once.
const DIAL_TIMEOUT: Duration = Duration::from_millis(700);
/// A link on which something was asked and nothing came back for this long is dead: the cable was cut, or the peer
/// hangs. Without this TCP would go on retransmitting for minutes after the network healed.
fn stall_limit(purpose: Purpose) -> Duration {
    match purpose {
        Purpose::Raft | Purpose::Presence | Purpose::Probe => Duration::from_secs(1),
        // A leader without a quorum holds a forwarded write for WRITE_DEADLINE before it answers.
        Purpose::Forward | Purpose::Admin => Duration::from_secs(5),
        // The last chunk is answered when the snapshot is installed.
        Purpose::Snapshot => Duration::from_secs(120),
    }
}
/// Calls that wait for their turn on one link.
const LINK_QUEUE_MAX: usize = 1_024;
/// Frames written with one system call, when several wait.
const WRITE_COALESCE_MAX_BYTES: usize = 1024 * 1024;

/// What is needed to dial anybody.
#[derive(Clone)]
pub struct TlsWire {
    parts: Arc<WireParts>,
}

struct WireParts {
    connector: TlsConnector,
    config: Arc<Config>,
    node: u16,
    store: Store,
    boot: Boot,
    ledger: Arc<Ledger>,
    on_lost: OnceLock<OnLost>,
    /// Where the links' tasks run, whoever asks for a link first.
    runtime: Handle,
}

/// Told the Raft id of a peer to which a connection broke: most likely its process died just now.
pub type OnLost = Box<dyn Fn(u64) + Send + Sync>;

impl TlsWire {
    /// For the node whose certificate the connector shows. The tasks of its links run on this runtime.
    pub fn new(
        connector: TlsConnector,
        config: Arc<Config>,
        node: u16,
        store: Store,
        boot: Boot,
        ledger: Arc<Ledger>,
    ) -> Self {
        TlsWire {
            parts: Arc::new(WireParts {
                connector,
                config,
                node,
                store,
                boot,
                ledger,
                on_lost: OnceLock::new(),
                runtime: Handle::current(),
            }),
        }
    }

    /// Once replication has started. A second call changes nothing.
    pub fn tell_lost(&self, on_lost: OnLost) {
        let _ = self.parts.on_lost.set(on_lost);
    }

    /// A link that can carry any request, not Raft's alone.
    pub fn peer_link(&self, to: Target, purpose: Purpose) -> TlsLink {
        let (queue, calls) = mpsc::channel(LINK_QUEUE_MAX);
        self.parts
            .runtime
            .spawn(run_link(self.clone(), to, purpose, calls));
        TlsLink { queue }
    }

    /// Asks a node something once, over a connection of its own.
    pub async fn ask(
        &self,
        to: Target,
        purpose: Purpose,
        body: PeerRequest,
        within: Duration,
    ) -> Result<PeerReply, WireError> {
        self.peer_link(to, purpose).request(body, within).await
    }
}

impl Wire for TlsWire {
    type Link = TlsLink;

    fn link(&self, to: Target, purpose: Purpose) -> TlsLink {
        self.peer_link(to, purpose)
    }
}

/// A connection to one peer for one purpose. Dropping it closes the connection.
pub struct TlsLink {
    queue: mpsc::Sender<Queued>,
}

struct Queued {
    body: PeerRequest,
    reply: oneshot::Sender<Result<PeerReply, WireError>>,
}

impl TlsLink {
    /// Sends a request and waits for its answer, at most `within`.
    pub async fn request(
        &self,
        body: PeerRequest,
        within: Duration,
    ) -> Result<PeerReply, WireError> {
        let (reply, answer) = oneshot::channel();
        let gone = || WireError::Lost("the link was closed".into());
        let exchange = async {
            self.queue
                .send(Queued { body, reply })
                .await
                .map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        timeout(within, exchange)
            .await
            .unwrap_or_else(|_| Err(WireError::Lost(format!("no answer in {within:?}"))))
    }
}

impl Link for TlsLink {
    async fn call(&self, frame: Vec<u8>, within: Duration) -> Result<Vec<u8>, WireError> {
        match self.request(PeerRequest::Raft(frame), within).await? {
            PeerReply::Raft(bytes) => Ok(bytes),
            PeerReply::Failed(why) => Err(WireError::Unreachable(why)),
            other => Err(WireError::Lost(format!(
                "not an answer to a Raft frame: {other:?}"
            ))),
        }
    }
}

async fn run_link(wire: TlsWire, to: Target, purpose: Purpose, mut calls: mpsc::Receiver<Queued>) {
    while let Some(first) = calls.recv().await {
        // A caller that gave up while the link was down must not cause a dial, nor an old frame to be sent.
        if first.reply.is_closed() {
            continue;
        }
        match timeout(DIAL_TIMEOUT, dial(&wire, &to, purpose)).await {
            Ok(Ok(stream)) => {
                let broke = run_connection(stream, purpose, first, &mut calls).await;
                if let (true, Some(on_lost)) = (broke, wire.parts.on_lost.get()) {
                    on_lost(to.raft_id);
                }
            }
            Ok(Err(e)) => refuse_waiting(first, &mut calls, &undialed(&to, &e)),
            Err(_) => {
                let why = format!("node {}: no answer in {DIAL_TIMEOUT:?}", to.node);
                refuse_waiting(first, &mut calls, &WireError::Unreachable(why));
            }
        }
    }
}

/// Only a refused connection tells that the process is gone; all else can happen to one that is well.
fn undialed(to: &Target, error: &io::Error) -> WireError {
    let why = format!("node {}: {error}", to.node);
    match error.kind() {
        io::ErrorKind::ConnectionRefused => WireError::Refused(why),
        _ => WireError::Unreachable(why),
    }
}

fn refuse_waiting(first: Queued, calls: &mut mpsc::Receiver<Queued>, why: &WireError) {
    let mut next = Some(first);
    while let Some(call) = next {
        let _ = call.reply.send(Err(why.clone()));
        next = calls.try_recv().ok();
    }
}

async fn dial(wire: &TlsWire, to: &Target, purpose: Purpose) -> io::Result<TlsStream<TcpStream>> {
    let parts = &wire.parts;
    let address = parts
        .config
        .node(to.node)
        .map_or_else(|| to.peer.clone(), |node| node.peer.to_string());
    let tcp = TcpStream::connect(&address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(node_san(to.node)).map_err(io::Error::other)?;
    let mut stream = parts.connector.connect(name, tcp).await?;
    let identity = parts.store.identity();
    let hello = PeerHello {
        protocol: PEER_PROTOCOL,
        cluster_id: identity
            .as_ref()
            .map(|identity| identity.cluster_id.clone()),
        dialer: Dialer::Node {
            node: parts.node,
            raft_id: identity.map_or(0, |identity| identity.raft_id),
        },
        to_raft_id: to.raft_id,
        purpose,
        boot: Some(parts.boot),
    };
    let mut bytes = Vec::new();
    frame::encode_into(&hello, &mut bytes)?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    match frame::read::<HelloReply>(&mut stream, HELLO_FRAME_MAX_BYTES).await? {
        Some(HelloReply::Welcome {
            node,
            raft_id,
            boot,
            ..
        }) => {
            welcomed(parts, to, node, raft_id, boot)?;
            Ok(stream)
        }
        Some(HelloReply::Stale { reason }) => {
            parts
                .ledger
                .was_told_stale(format!("node {}: {reason}", to.node));
            Err(io::Error::other(format!("refused: {reason}")))
        }
        Some(HelloReply::Refused { reason }) => Err(io::Error::other(format!("refused: {reason}"))),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A node that is not whom we meant, or runs on an older copy of its data, must not acknowledge anything to us.
fn welcomed(parts: &WireParts, to: &Target, node: u16, raft_id: u64, boot: Boot) -> io::Result<()> {
    if node != to.node {
        return Err(io::Error::other(format!("it says that it is node {node}")));
    }
    if to.raft_id == 0 || raft_id == 0 {
        return Ok(());
    }
    match parts.ledger.meet(raft_id, boot) {
        Meeting::Known | Meeting::New => Ok(()),
        Meeting::Stale(reason) => Err(io::Error::other(format!(
            "it runs on an older copy of its data: {reason}"
        ))),
    }
}

/// Calls sent and not yet answered. Held only for an insert or a removal, never across an await.
#[derive(Default)]
struct Pending(Mutex<Questions>);

#[derive(Default)]
struct Questions {
    replies: HashMap<u64, Reply>,
    /// Sent and not answered, those included whose callers gave up: what tells a dead link from an idle one.
    unanswered: u64,
    /// Since when something is owed: the last answer, or the question that followed a time without any.
    owed_since: Option<Instant>,
}

type Reply = oneshot::Sender<Result<PeerReply, WireError>>;

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Questions> {
        // A panic while holding it can only be an allocation failure; the map is whole at every instant.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self, id: u64, reply: Reply) {
        let mut questions = self.lock();
        // Calls whose callers gave up would otherwise pile up while a peer hangs.
        questions.replies.retain(|_, reply| !reply.is_closed());
        questions.replies.insert(id, reply);
        questions.unanswered += 1;
        questions.owed_since.get_or_insert_with(Instant::now);
    }

    fn answered(&self, id: u64) -> Option<Reply> {
        let mut questions = self.lock();
        questions.unanswered = questions.unanswered.saturating_sub(1);
        questions.owed_since = (questions.unanswered > 0).then(Instant::now);
        questions.replies.remove(&id)
    }

    fn waits_longer_than(&self, stall: Duration) -> bool {
        self.lock()
            .owed_since
            .is_some_and(|since| since.elapsed() >= stall)
    }

    fn fail_all(&self, why: &str) {
        let waiting: Vec<_> = self.lock().replies.drain().collect();
        for (_, reply) in waiting {
            let _ = reply.send(Err(WireError::Lost(why.to_owned())));
        }
    }
}

/// Whether the connection broke; otherwise nobody needs it any more.
async fn run_connection(
    stream: TlsStream<TcpStream>,
    purpose: Purpose,
    first: Queued,
    calls: &mut mpsc::Receiver<Queued>,
) -> bool {
    let (reader, writer) = tokio::io::split(stream);
    let pending = Arc::new(Pending::default());
    let broken = CancellationToken::new();
    let reading = tokio::spawn(read_answers(
        reader,
        stall_limit(purpose),
        pending.clone(),
        broken.clone(),
    ));
    let why = match write_calls(writer, first, calls, &pending, &broken).await {
        Ok(()) => "the connection was closed".to_owned(),
        Err(e) => e.to_string(),
    };
    reading.abort();
    pending.fail_all(&why);
    !calls.is_closed()
}

async fn write_calls(
    mut writer: WriteHalf<TlsStream<TcpStream>>,
    first: Queued,
    calls: &mut mpsc::Receiver<Queued>,
    pending: &Pending,
    broken: &CancellationToken,
) -> io::Result<()> {
    let mut id = 0;
    let mut bytes = Vec::new();
    let mut next = Some(first);
    loop {
        while let Some(call) = next {
            if !call.reply.is_closed() {
                id += 1;
                frame::encode_into(
                    &Call {
                        id,
                        body: call.body,
                    },
                    &mut bytes,
                )?;
                pending.asked(id, call.reply);
            }
            next = if bytes.len() < WRITE_COALESCE_MAX_BYTES {
                calls.try_recv().ok()
            } else {
                None
            };
        }
        tokio::select! {
            written = async { writer.write_all(&bytes).await?; writer.flush().await } => written?,
            () = broken.cancelled() => return Ok(()),
        }
        bytes.clear();
        next = tokio::select! {
            call = calls.recv() => call,
            () = broken.cancelled() => return Ok(()),
        };
        if next.is_none() {
            let _ = writer.shutdown().await;
            return Ok(());
        }
    }
}

async fn read_answers(
    mut reader: ReadHalf<TlsStream<TcpStream>>,
    stall: Duration,
    pending: Arc<Pending>,
    broken: CancellationToken,
) {
    let _tell = broken.drop_guard();
    loop {
        let mut next = pin!(frame::read::<Answer>(&mut reader, FRAME_MAX_BYTES));
        let answer = loop {
            match timeout(stall, &mut next).await {
                Ok(Ok(Some(answer))) => break answer,
                Ok(Ok(None) | Err(_)) => return,
                // The clock runs from the question: one asked a moment ago must not pay for the silence before it.
                Err(_) if pending.waits_longer_than(stall) => return,
                Err(_) => {}
            }
        };
        if let Some(reply) = pending.answered(answer.id) {
            let _ = reply.send(Ok(answer.body));
        }
    }
}
