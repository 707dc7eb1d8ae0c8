//! Accepts connections, with or without TLS, until the shutdown; then waits for its connections to end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Door, Slot, connection};
use crate::throttle::RateLimit;

/// A TLS handshake takes at most this long.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, mostly for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Time for connections to end after the shutdown; then they are cut. The whole node has 5 s to stop.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(3_500);
/// At most one refusal of a client is logged in this time: a flood of them must not become a flood of lines.
const REFUSAL_LOGGED_EVERY: Duration = Duration::from_secs(10);

impl Door {
    /// Serves clients on a bound listener until `shutdown`; returns when its last connection has ended. Each
    /// connection gets `closing shutdown` and the answers to what it had asked.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        shutdown: CancellationToken,
    ) {
        let tracker = TaskTracker::new();
        let cut = CancellationToken::new();
        let refusals = RateLimit::new(1, REFUSAL_LOGGED_EVERY);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, address)) => match self.take_slot() {
                    Some(slot) => {
                        tracker.spawn(cut.clone().run_until_cancelled_owned(serve_stream(
                            slot,
                            stream,
                            address,
                            tls.clone(),
                            shutdown.clone(),
                        )));
                    }
                    None => {
                        metrics::counter!("messagebase_refused_connections_total").increment(1);
                        if refusals.admit(Instant::now()).is_ok() {
                            tracing::warn!(%address, "refused a client: [limits] connections is reached");
                        }
                    }
                },
                Err(error) if is_clients_fault(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "failed to accept a client");
                    tokio::select! {
                        () = tokio::time::sleep(ACCEPT_BACKOFF) => {}
                        () = shutdown.cancelled() => break,
                    }
                }
            }
        }
        drop(listener);
        tracker.close();
        if tokio::time::timeout(SHUTDOWN_LIMIT, tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                connections = tracker.len(),
                "cut client connections that did not close in time"
            );
            cut.cancel();
            tracker.wait().await;
        }
    }
}

/// Errors of a connection that broke before it was accepted.
fn is_clients_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

async fn serve_stream(
    slot: Slot,
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    shutdown: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "a client left before it was served");
        return;
    }
    let door = slot.door.clone();
    let address = address.ip();
    // Both futures are boxed: the handshake's memory is freed after it, and no connection has the size of the larger one.
    let Some(tls) = tls else {
        return Box::pin(connection::run(&door, stream, Some(address), shutdown)).await;
    };
    let handshake = Box::pin(tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)));
    let handshake = tokio::select! {
        handshake = handshake => handshake,
        () = shutdown.cancelled() => return,
    };
    match handshake {
        Ok(Ok(stream)) => {
            Box::pin(connection::run(&door, stream, Some(address), shutdown)).await;
        }
        Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
    }
}
