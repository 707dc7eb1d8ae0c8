//! Dials peers. Every [`TlsLink`] is a task that owns one connection: it dials when it is first used and again
//! after the connection broke. Links share nothing but bounded queues, so a hung peer blocks its own link alone.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use messagebase_config::Config;
use messagebase_protocol::peer::frame::encode_into;
use messagebase_protocol::peer::{
    Answer, Call, Dialer, FRAME_MAX_BYTES, HELLO_FRAME_MAX_BYTES, HelloReply, Incarnation,
    PEER_PROTOCOL, PeerHello, PeerReply, PeerRequest, Purpose, node_san,
};
use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, rustls};
use tokio_util::sync::CancellationToken;

use super::frame;
use super::incarnations::{BootCheck, Incarnations};
use crate::raft::api::{Link, Target, Wire, WireError};
use crate::store::Store;

/// Connect, TLS handshake and hello together. A dead host does not answer; a dead process is refused at once.
const DIAL_TIMEOUT: Duration = Duration::from_millis(700);
/// A link on which a call was sent and nothing came back for this long is dead: the cable was cut, or the peer hangs.
/// Without this limit TCP would go on retransmitting for minutes after the network healed.
fn stall_limit(purpose: Purpose) -> Duration {
    match purpose {
        Purpose::Raft | Purpose::Presence | Purpose::Probe => Duration::from_secs(1),
        // A leader without a quorum holds a forwarded write for WRITE_DEADLINE before it answers.
        Purpose::Forward | Purpose::Admin => Duration::from_secs(5),
        // The last chunk is answered when the snapshot is installed.
        Purpose::Snapshot => Duration::from_secs(120),
    }
}
/// Calls that wait to be sent on one link.
const LINK_QUEUE_MAX: usize = 1_024;

/// Why a peer did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Nobody listens there: the process is gone. The only failure that proves it.
    #[error("cannot reach the node: {0}")]
    Refused(String),
    /// It is there, but one end does not accept the other's certificate or hello: trying again does not help.
    #[error("cannot reach the node: {0}")]
    Rejected(String),
    /// Nothing was sent.
    #[error("cannot reach the node: {0}")]
    Unreachable(String),
    /// The call may have arrived: connection lost or no answer in time.
    #[error("the answer was lost: {0}")]
    Lost(String),
}

impl From<PeerError> for WireError {
    fn from(e: PeerError) -> Self {
        match e {
            PeerError::Refused(why) => WireError::Refused(why),
            PeerError::Rejected(why) | PeerError::Unreachable(why) => WireError::Unreachable(why),
            PeerError::Lost(why) => WireError::Lost(why),
        }
    }
}

/// Dials any node.
#[derive(Clone)]
pub struct TlsWire {
    parts: Arc<WireParts>,
}

struct WireParts {
    connector: TlsConnector,
    config: Arc<Config>,
    node: u16,
    store: Store,
    incarnation: Incarnation,
    incarnations: Arc<Incarnations>,
    on_disconnect: OnceLock<OnDisconnect>,
    /// Where the links' tasks run, whichever thread makes the link.
    runtime: Handle,
}

/// Called with the Raft id of a peer to which a connection broke: most likely its process died just now.
pub type OnDisconnect = Box<dyn Fn(u64) + Send + Sync>;

impl TlsWire {
    /// For the node whose certificate the connector shows. The tasks of its links run on this runtime.
    pub fn new(
        connector: TlsConnector,
        config: Arc<Config>,
        node: u16,
        store: Store,
        incarnation: Incarnation,
        incarnations: Arc<Incarnations>,
    ) -> Self {
        TlsWire {
            parts: Arc::new(WireParts {
                connector,
                config,
                node,
                store,
                incarnation,
                incarnations,
                on_disconnect: OnceLock::new(),
                runtime: Handle::current(),
            }),
        }
    }

    /// Once replication has started. A second call changes nothing.
    pub fn set_on_disconnect(&self, on_disconnect: OnDisconnect) {
        let _ = self.parts.on_disconnect.set(on_disconnect);
    }

    /// A link that can carry any request, not only Raft's.
    pub fn peer_link(&self, to: Target, purpose: Purpose) -> TlsLink {
        let (queue, calls) = mpsc::channel(LINK_QUEUE_MAX);
        self.parts
            .runtime
            .spawn(run_link(self.clone(), to, purpose, calls));
        TlsLink { queue }
    }

    /// Sends one request over a new connection.
    pub async fn ask(
        &self,
        to: Target,
        purpose: Purpose,
        body: PeerRequest,
        within: Duration,
    ) -> Result<PeerReply, PeerError> {
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
    queue: mpsc::Sender<QueuedCall>,
}

struct QueuedCall {
    body: PeerRequest,
    reply: ReplySender,
}

type ReplySender = oneshot::Sender<Result<PeerReply, PeerError>>;

impl TlsLink {
    /// Sends a request and waits for its answer, at most `within`.
    pub async fn request(
        &self,
        body: PeerRequest,
        within: Duration,
    ) -> Result<PeerReply, PeerError> {
        let (reply, answer) = oneshot::channel();
        let gone = || PeerError::Lost("the link was closed".into());
        let exchange = async {
            self.queue
                .send(QueuedCall { body, reply })
                .await
                .map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        timeout(within, exchange)
            .await
            .unwrap_or_else(|_| Err(PeerError::Lost(format!("no answer in {within:?}"))))
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

async fn run_link(
    wire: TlsWire,
    to: Target,
    purpose: Purpose,
    mut calls: mpsc::Receiver<QueuedCall>,
) {
    while let Some(first) = calls.recv().await {
        // A caller that gave up while the link was down must not cause a dial, and its old frame must not be sent.
        if first.reply.is_closed() {
            continue;
        }
        match timeout(DIAL_TIMEOUT, dial(&wire, &to, purpose)).await {
            Ok(Ok(stream)) => {
                let broke = run_connection(stream, purpose, first, &mut calls).await;
                if let (true, Some(on_disconnect)) = (broke, wire.parts.on_disconnect.get()) {
                    on_disconnect(to.raft_id);
                }
            }
            Ok(Err(e)) => fail_waiting(first, &mut calls, &e),
            Err(_) => {
                let why = format!("node {}: no answer in {DIAL_TIMEOUT:?}", to.node);
                fail_waiting(first, &mut calls, &PeerError::Unreachable(why));
            }
        }
    }
}

fn fail_waiting(first: QueuedCall, calls: &mut mpsc::Receiver<QueuedCall>, why: &PeerError) {
    let mut next = Some(first);
    while let Some(call) = next {
        let _ = call.reply.send(Err(why.clone()));
        next = calls.try_recv().ok();
    }
}

async fn dial(
    wire: &TlsWire,
    to: &Target,
    purpose: Purpose,
) -> Result<TlsStream<TcpStream>, PeerError> {
    let parts = &wire.parts;
    let (stream, reply) = say_hello(parts, to, purpose)
        .await
        .map_err(|e| dial_error(to, &e))?;
    let rejected = |why: String| PeerError::Rejected(format!("node {}: {why}", to.node));
    match reply {
        HelloReply::Welcome {
            node,
            raft_id,
            incarnation,
            ..
        } => {
            check_peer(parts, to, node, raft_id, incarnation).map_err(rejected)?;
            Ok(stream)
        }
        HelloReply::Stale { reason } => {
            parts
                .incarnations
                .set_told_stale(format!("node {}: {reason}", to.node));
            Err(rejected(format!("refused: {reason}")))
        }
        HelloReply::Refused { reason } => Err(rejected(format!("refused: {reason}"))),
    }
}

async fn say_hello(
    parts: &WireParts,
    to: &Target,
    purpose: Purpose,
) -> io::Result<(TlsStream<TcpStream>, HelloReply)> {
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
        incarnation: Some(parts.incarnation),
    };
    frame::write(&mut stream, &hello).await?;
    let reply = frame::read(&mut stream, HELLO_FRAME_MAX_BYTES).await?;
    Ok((stream, reply.ok_or(io::ErrorKind::UnexpectedEof)?))
}

/// Only a refused connection proves that the process is gone; a healthy node can cause every other error.
fn dial_error(to: &Target, error: &io::Error) -> PeerError {
    let why = format!("node {}: {error}", to.node);
    if error.kind() == io::ErrorKind::ConnectionRefused {
        PeerError::Refused(why)
    } else if is_rejection(error) {
        PeerError::Rejected(why)
    } else {
        PeerError::Unreachable(why)
    }
}

/// Whether this end does not accept the other's certificate, or the other end this one's.
fn is_rejection(error: &io::Error) -> bool {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        tls,
        Some(
            rustls::Error::InvalidCertificate(_)
                | rustls::Error::NoCertificatesPresented
                | rustls::Error::AlertReceived(_)
        )
    )
}

/// A node other than the intended one, or one on an older copy of its data, must not acknowledge anything to this node.
fn check_peer(
    parts: &WireParts,
    to: &Target,
    node: u16,
    raft_id: u64,
    incarnation: Incarnation,
) -> Result<(), String> {
    if node != to.node {
        return Err(format!("it says that it is node {node}"));
    }
    if to.raft_id == 0 || raft_id == 0 {
        return Ok(());
    }
    match parts.incarnations.meet(raft_id, incarnation) {
        BootCheck::Known | BootCheck::New => Ok(()),
        BootCheck::Stale(reason) => Err(format!("it runs on an older copy of its data: {reason}")),
    }
}

/// The calls on one connection that are not answered yet.
#[derive(Default)]
struct PendingCalls {
    state: Mutex<PendingState>,
}

#[derive(Default)]
struct PendingState {
    replies: HashMap<u64, ReplySender>,
    /// Sent and not answered, including calls whose callers gave up: this tells a dead link from an idle one.
    unanswered: u64,
    /// Since when an answer is due: the last answer, or the first call after a time without any.
    due_since: Option<Instant>,
}

impl PendingCalls {
    fn sent(&self, id: u64, reply: ReplySender) {
        let mut state = self.state.lock();
        // Calls whose callers gave up would otherwise accumulate while a peer hangs.
        state.replies.retain(|_, reply| !reply.is_closed());
        state.replies.insert(id, reply);
        state.unanswered += 1;
        state.due_since.get_or_insert_with(Instant::now);
    }

    fn answered(&self, id: u64) -> Option<ReplySender> {
        let mut state = self.state.lock();
        state.unanswered = state.unanswered.saturating_sub(1);
        state.due_since = (state.unanswered > 0).then(Instant::now);
        state.replies.remove(&id)
    }

    fn due_longer_than(&self, stall: Duration) -> bool {
        let due_since = self.state.lock().due_since;
        due_since.is_some_and(|since| since.elapsed() >= stall)
    }

    fn fail_all(&self, why: &str) {
        let replies = std::mem::take(&mut self.state.lock().replies);
        for (_, reply) in replies {
            let _ = reply.send(Err(PeerError::Lost(why.to_owned())));
        }
    }
}

/// Serves one connection. Returns whether it broke; it did not if the link was dropped.
async fn run_connection(
    stream: TlsStream<TcpStream>,
    purpose: Purpose,
    first: QueuedCall,
    calls: &mut mpsc::Receiver<QueuedCall>,
) -> bool {
    let (reader, writer) = tokio::io::split(stream);
    let pending = Arc::new(PendingCalls::default());
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
    first: QueuedCall,
    calls: &mut mpsc::Receiver<QueuedCall>,
    pending: &PendingCalls,
    broken: &CancellationToken,
) -> io::Result<()> {
    let mut id = 0;
    let mut bytes = Vec::new();
    let mut next = Some(first);
    loop {
        while let Some(call) = next {
            if !call.reply.is_closed() {
                id += 1;
                encode_into(
                    &Call {
                        id,
                        body: call.body,
                    },
                    &mut bytes,
                )?;
                pending.sent(id, call.reply);
            }
            next = if bytes.len() < frame::WRITE_COALESCE_MAX_BYTES {
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
    pending: Arc<PendingCalls>,
    broken: CancellationToken,
) {
    let _guard = broken.drop_guard();
    loop {
        let mut next = pin!(frame::read::<Answer>(&mut reader, FRAME_MAX_BYTES));
        let answer = loop {
            match timeout(stall, &mut next).await {
                Ok(Ok(Some(answer))) => break answer,
                Ok(Ok(None) | Err(_)) => return,
                // Counted from the call: the silence before a call that has just been sent must not count.
                Err(_) if pending.due_longer_than(stall) => return,
                Err(_) => {}
            }
        };
        if let Some(reply) = pending.answered(answer.id) {
            let _ = reply.send(Ok(answer.body));
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, CertificateError};

    use super::*;

    #[test]
    fn a_dead_process_and_a_refused_certificate_are_told_from_everything_else() {
        let to = Target {
            raft_id: 0,
            node: 2,
            peer: String::new(),
        };
        let tls = |e: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, e);
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(matches!(dial_error(&to, &refused), PeerError::Refused(_)));
        let ours = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let theirs = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
        for e in [ours, theirs] {
            assert!(matches!(dial_error(&to, &tls(e)), PeerError::Rejected(_)));
        }
        let garbage = tls(rustls::Error::DecryptError);
        let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
        for e in [garbage, cut] {
            assert!(matches!(dial_error(&to, &e), PeerError::Unreachable(_)));
        }
    }
}
