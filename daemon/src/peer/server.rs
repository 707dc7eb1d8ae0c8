//! Listens for peers: TLS handshake, hello, then one handler for the connection's purpose.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use messagebase_protocol::peer::frame::encode_into;
use messagebase_protocol::peer::{
    Answer, Call, Dialer, FRAME_MAX_BYTES, HELLO_FRAME_MAX_BYTES, HelloReply, PEER_PROTOCOL,
    PeerHello, PeerReply, PeerRequest, Purpose,
};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::unconstrained;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{frame, identify};
use crate::throttle::LogThrottle;

/// TLS handshake and hello together.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Concurrent connections: a handful from each node, and a few operators.
const CONNECTIONS_MAX: usize = 512;
/// Concurrent calls of one connection; reading pauses beyond it.
const CALLS_MAX: usize = 1_024;
/// Answers waiting to be written: as many as calls, so that in practice no handler waits for room.
const ANSWERS_MAX: usize = CALLS_MAX;

/// Handles the hellos and calls of peers.
pub trait PeerHandler: Send + Sync + 'static {
    /// Whether this dialer may speak for this purpose. `Refused` and `Stale` close the connection. The claimed role has been
    /// checked against the certificate.
    fn greet(&self, hello: &PeerHello) -> HelloReply;
    /// The connection ended, in order or not.
    fn disconnected(&self, hello: &PeerHello);
    /// Answers one call.
    fn answer(
        &self,
        hello: &PeerHello,
        request: PeerRequest,
    ) -> impl Future<Output = PeerReply> + Send;
}

/// Serves until `stop`, which ends the connections too.
pub async fn serve<H: PeerHandler>(
    listener: TcpListener,
    tls: TlsAcceptor,
    handler: Arc<H>,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let throttle = Arc::new(LogThrottle::default());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(e) => {
                // Usually out of file descriptors: accepting again at once would spin.
                warn!("failed to accept a peer: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            warn!("refused a peer connection: {CONNECTIONS_MAX} are open");
            continue;
        };
        let (tls, handler, stop, throttle) =
            (tls.clone(), handler.clone(), stop.clone(), throttle.clone());
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = stop.cancelled() => {}
                ended = connection(tcp, tls, handler, &throttle) => if let Err(e) = ended {
                    debug!("a peer connection ended: {e}");
                },
            }
        });
    }
}

async fn connection<H: PeerHandler>(
    tcp: TcpStream,
    tls: TlsAcceptor,
    handler: Arc<H>,
    throttle: &LogThrottle,
) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no hello in time");
    let (stream, hello) = timeout(HELLO_TIMEOUT, greet(tcp, tls, &*handler, throttle))
        .await
        .map_err(|_| late())??;
    let Some(hello) = hello else { return Ok(()) };
    let hello = Arc::new(hello);
    let (reader, writer) = tokio::io::split(stream);
    let (answers, queued) = mpsc::channel(ANSWERS_MAX);
    let reading = read_calls(reader, hello.clone(), handler.clone(), answers);
    let writing = write_answers(writer, queued);
    let ended = tokio::try_join!(reading, writing).map(|_| ());
    handler.disconnected(&hello);
    ended
}

/// Reads the hello and answers it; `None` when the answer was a refusal.
async fn greet<H: PeerHandler>(
    tcp: TcpStream,
    tls: TlsAcceptor,
    handler: &H,
    throttle: &LogThrottle,
) -> io::Result<(TlsStream<TcpStream>, Option<PeerHello>)> {
    let mut stream = tls.accept(tcp).await?;
    let hello: PeerHello = frame::read(&mut stream, HELLO_FRAME_MAX_BYTES)
        .await?
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let reply = match identify::may_claim(stream.get_ref().1.peer_certificates(), hello.dialer) {
        Err(e) => HelloReply::Refused {
            reason: e.to_string(),
        },
        Ok(()) if hello.protocol != PEER_PROTOCOL => HelloReply::Refused {
            reason: format!(
                "peer protocol {} spoken, {PEER_PROTOCOL} understood",
                hello.protocol
            ),
        },
        Ok(()) if matches!(hello.dialer, Dialer::Admin) != (hello.purpose == Purpose::Admin) => {
            HelloReply::Refused {
                reason: "this role may not open a connection for this purpose".into(),
            }
        }
        Ok(()) => handler.greet(&hello),
    };
    frame::write(&mut stream, &reply).await?;
    if let HelloReply::Refused { reason } | HelloReply::Stale { reason } = reply {
        let line = format!("refused {}: {reason}", name(hello.dialer));
        if throttle.admit(&line, Instant::now()) {
            warn!("{line}");
        }
        stream.shutdown().await?;
        return Ok((stream, None));
    }
    Ok((stream, Some(hello)))
}

fn name(dialer: Dialer) -> String {
    match dialer {
        Dialer::Node { node, .. } => format!("node {node}"),
        Dialer::Admin => "an operator".into(),
    }
}

async fn read_calls<H: PeerHandler>(
    mut reader: ReadHalf<TlsStream<TcpStream>>,
    hello: Arc<PeerHello>,
    handler: Arc<H>,
    answers: mpsc::Sender<Answer>,
) -> io::Result<()> {
    // A write that is held, or a question about the leader, must not delay the calls behind it.
    let concurrent = match hello.purpose {
        Purpose::Raft | Purpose::Forward | Purpose::Admin => CALLS_MAX,
        Purpose::Snapshot | Purpose::Presence | Purpose::Probe => 1,
    };
    let permits = Arc::new(Semaphore::new(concurrent));
    while let Some(call) = frame::read::<Call>(&mut reader, FRAME_MAX_BYTES).await? {
        let Ok(permit) = permits.clone().acquire_owned().await else {
            break;
        };
        let (hello, handler, answers) = (hello.clone(), handler.clone(), answers.clone());
        let work = async move {
            let body = handler.answer(&hello, call.body).await;
            // An error means that the connection is gone, and with it the caller.
            let _ = answers
                .send(Answer {
                    id: call.id,
                    last: true,
                    body,
                })
                .await;
            drop(permit);
        };
        if concurrent == 1 {
            work.await;
            continue;
        }
        // Polls each call once in the order of the frames: an append that overtakes the one before it must be sent again.
        // A call that is finished then needs no task.
        let mut work = Box::pin(work);
        if unconstrained(poll_fn(|cx| {
            Poll::Ready(work.as_mut().poll(cx).is_pending())
        }))
        .await
        {
            tokio::spawn(work);
        }
    }
    Ok(())
}

async fn write_answers(
    mut writer: WriteHalf<TlsStream<TcpStream>>,
    mut queued: mpsc::Receiver<Answer>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    while let Some(answer) = queued.recv().await {
        encode_into(&answer, &mut bytes)?;
        while bytes.len() < frame::WRITE_COALESCE_MAX_BYTES
            && let Ok(answer) = queued.try_recv()
        {
            encode_into(&answer, &mut bytes)?;
        }
        writer.write_all(&bytes).await?;
        writer.flush().await?;
        bytes.clear();
    }
    writer.shutdown().await
}
