//! Empties an outbox into the socket: one write and one flush for all the lines that wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::fanout::Outbox;

/// How a writer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The outbox was finished and all of it written.
    Done,
    /// The socket broke.
    Broken,
    /// The other side read nothing for too long.
    Stalled,
}

/// Runs until the outbox is finished or the socket refuses. One write may take `limit`.
pub(super) async fn run<W: AsyncWrite + Unpin>(
    mut socket: W,
    outbox: Arc<Outbox>,
    limit: Duration,
) -> Ended {
    while let Some(chunk) = outbox.take().await {
        let write = async {
            socket.write_all(&chunk.bytes).await?;
            socket.flush().await
        };
        match tokio::time::timeout(limit, write).await {
            Ok(Ok(())) => outbox.written(chunk.message),
            Ok(Err(_)) => {
                outbox.finish(None);
                return Ended::Broken;
            }
            Err(_) => {
                outbox.finish(None);
                return Ended::Stalled;
            }
        }
    }
    // An error here means that the other side went first.
    let _ = tokio::time::timeout(limit, socket.shutdown()).await;
    Ended::Done
}
