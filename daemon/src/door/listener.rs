//! Accepts connections, with or without TLS, until the shutdown; then waits for its connections to end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Door, Slot, session};

/// A TLS handshake takes at most this long.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// After a failed accept (out of file descriptors, mostly): so long until the next attempt.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

impl Door {
    /// Serves clients on a bound listener until `shutdown`; returns when its last connection has ended. Each
    /// connection gets `closing shutdown` and the answers to what it had asked.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, tls: Option<TlsAcceptor>, shutdown: CancellationToken) {
        let tracker = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, address)) => match self.take_slot() {
                    Some(slot) => {
                        tracker.spawn(connection(slot, stream, address, tls.clone(), shutdown.clone()));
                    }
                    None => {
                        super::session::refused_connection();
                        tracing::warn!(%address, "refused a client: [limits] connections is reached");
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
        tracker.wait().await;
    }
}

/// Errors of a connection that broke before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
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
    let Some(tls) = tls else {
        session::run(&door.service, stream, Some(address.ip()), door.patience, shutdown).await;
        return;
    };
    let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream));
    let handshake = tokio::select! {
        handshake = handshake => handshake,
        () = shutdown.cancelled() => return,
    };
    match handshake {
        Ok(Ok(stream)) => session::run(&door.service, stream, Some(address.ip()), door.patience, shutdown).await,
        Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
    }
}
