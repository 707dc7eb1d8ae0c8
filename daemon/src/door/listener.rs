//! Accepts connections, with or without TLS, until the shutdown; then waits for its connections to end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Door, Slot, session};
use crate::throttle::RateLimit;

/// A TLS handshake takes at most this long.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// After a failed accept (out of file descriptors, mostly): so long until the next attempt.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// After the shutdown connections are given this long; then they are cut. The whole node is to stop within 5 s.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(3_500);
/// A refusal of a client is logged so often: a flood of them must not become a flood of lines.
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
                        tracker.spawn(cut.clone().run_until_cancelled_owned(connection(
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
                Err(error) if is_the_clients(&error) => {}
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
                "cut clients that did not let themselves be closed in time"
            );
            cut.cancel();
            tracker.wait().await;
        }
    }
}

/// Errors of a connection that broke before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

async fn connection(
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
    // Both are boxed: what the handshake needed is given back after it, and a connection that is being made, or one
    // without TLS, does not have the size of the largest of them.
    let Some(tls) = tls else {
        return Box::pin(session::run(
            &door.service,
            stream,
            Some(address),
            door.patience,
            shutdown,
        ))
        .await;
    };
    let handshake = Box::pin(tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)));
    let handshake = tokio::select! {
        handshake = handshake => handshake,
        () = shutdown.cancelled() => return,
    };
    match handshake {
        Ok(Ok(stream)) => {
            Box::pin(session::run(
                &door.service,
                stream,
                Some(address),
                door.patience,
                shutdown,
            ))
            .await;
        }
        Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
    }
}
