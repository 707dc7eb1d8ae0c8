//! `/healthz`, `/readyz`, `/metrics` for probes and Prometheus. Plain HTTP/1.1 without credentials: the answers hold counts
//! and states, never names or messages.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use messagebase_protocol::role::NodeRole;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;

use crate::door::Door;
use crate::service::Service;
use crate::state::read;
use crate::store::Store;

/// A linear read for `/readyz` takes at most this long.
const READY_LIMIT: Duration = Duration::from_secs(1);
/// Every role that a node can have has a series of its own, so that a query can name it.
const ROLES: [NodeRole; 5] = [
    NodeRole::Leader,
    NodeRole::Follower,
    NodeRole::Candidate,
    NodeRole::Learner,
    NodeRole::Waiting,
];

/// What the answers are built from.
#[derive(Clone)]
pub struct HttpParts {
    /// Readiness and the view of the log.
    pub service: Arc<Service>,
    /// Counts of connections.
    pub door: Arc<Door>,
    /// Queued messages, size of the file.
    pub store: Store,
    /// From [`install_metrics`].
    pub metrics: PrometheusHandle,
}

/// Makes the process-wide recorder. To be called once, before anything is counted.
pub fn install_metrics() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new().install_recorder()?;
    describe();
    Ok(handle)
}

fn describe() {
    crate::service::describe_metrics();
    for (name, what) in [
        (
            "messagebase_refused_connections_total",
            "clients refused because [limits] connections was reached",
        ),
        (
            "messagebase_dropped_slow_readers_total",
            "clients dropped because they did not read fast enough",
        ),
        (
            "messagebase_synced_commits_total",
            "log commits synced to disk since this mbd started",
        ),
    ] {
        describe_counter!(name, what);
        metrics::counter!(name).absolute(0);
    }
    for (name, what) in [
        ("messagebase_connections", "open client connections"),
        (
            "messagebase_sessions",
            "sessions with a connection to this node",
        ),
        ("messagebase_users", "accounts, as applied on this node"),
        (
            "messagebase_messages_queued",
            "undelivered messages, as applied on this node",
        ),
        (
            "messagebase_sessions_stored",
            "sessions in the state, connected or not",
        ),
        ("messagebase_db_bytes", "size of the node's database file"),
        ("messagebase_term", "current Raft term"),
        (
            "messagebase_leader",
            "number of the leader this node follows, 0 for none",
        ),
        (
            "messagebase_committed_index",
            "greatest index known to be committed",
        ),
        ("messagebase_applied_index", "greatest applied index"),
        (
            "messagebase_ready",
            "1 while this node can serve a linear read",
        ),
        ("messagebase_role", "1 for the role that this node has"),
    ] {
        describe_gauge!(name, what);
    }
}

/// Serves until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    parts: HttpParts,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(parts))
        .with_graceful_shutdown(shutdown)
        .await
}

fn router(parts: HttpParts) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(parts)
}

fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn readyz(State(parts): State<HttpParts>) -> Response {
    let status = parts.service.status();
    let reason = if status.replica.role == NodeRole::Waiting {
        Some("this node belongs to no cluster yet")
    } else if !status.replica.ready {
        Some("no leader is known or heard of")
    } else {
        match tokio::time::timeout(READY_LIMIT, parts.service.replication().linear()).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) | Err(_) => Some("no majority of the nodes answered a read in time"),
        }
    };
    let node = status.node;
    match reason {
        None => json(
            StatusCode::OK,
            format!("{}\n", serde_json::json!({"ready": true, "node": node})),
        ),
        Some(reason) => {
            let body = serde_json::json!({"ready": false, "node": node, "role": status.replica.role, "reason": reason});
            json(StatusCode::SERVICE_UNAVAILABLE, format!("{body}\n"))
        }
    }
}

async fn metrics_text(State(parts): State<HttpParts>) -> Response {
    gauges(&parts).await;
    let content_type = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (content_type, parts.metrics.render()).into_response()
}

/// Sets the metrics that are not counted as things happen.
async fn gauges(parts: &HttpParts) {
    let status = parts.service.status();
    let set = |name: &'static str, value: u64| {
        #[allow(clippy::cast_precision_loss, reason = "Prometheus has only floats")]
        gauge!(name).set(value as f64);
    };
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    set("messagebase_connections", count(parts.door.connections()));
    set(
        "messagebase_sessions",
        count(parts.service.fanout().sessions()),
    );
    set("messagebase_term", status.replica.term);
    set(
        "messagebase_leader",
        status.replica.leader.unwrap_or(0).into(),
    );
    set(
        "messagebase_committed_index",
        status.replica.committed.unwrap_or(0),
    );
    set(
        "messagebase_applied_index",
        status.replica.applied.unwrap_or(0),
    );
    set("messagebase_ready", status.replica.ready.into());
    set("messagebase_db_bytes", parts.store.db_bytes());
    for role in ROLES {
        gauge!("messagebase_role", "role" => role.as_str()).set(if status.replica.role == role {
            1.0
        } else {
            0.0
        });
    }
    match parts.store.readers().run(read::stats).await {
        Ok(stats) => {
            counter!("messagebase_synced_commits_total").absolute(parts.store.synced_commits());
            set("messagebase_users", stats.users);
            set("messagebase_messages_queued", stats.queued);
            set("messagebase_sessions_stored", stats.sessions);
        }
        // The other metrics are still useful, and Prometheus shows the gap.
        Err(error) => tracing::warn!(%error, "failed to count the state for /metrics"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::door::Timeouts;
    use crate::service::testing::TestNode;

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("listening");
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("open");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("text");
        answer
    }

    #[tokio::test]
    async fn probes_and_metrics_say_how_the_node_is() {
        let recorder = PrometheusBuilder::new().build_recorder();
        // For this test's thread only: the handlers run on it.
        let _recorder = metrics::set_default_local_recorder(&recorder);
        describe();
        let node = TestNode::start();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let parts = HttpParts {
            service: node.service.clone(),
            door: Door::new(node.service.clone(), 10, Timeouts::default(), None),
            store: node.store.clone(),
            metrics: recorder.handle(),
        };
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, parts, shutdown.clone().cancelled_owned()));

        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let ready = get(address, "/readyz").await;
        assert!(
            ready.starts_with("HTTP/1.1 200") && ready.contains(r#""ready":true"#),
            "{ready}"
        );
        node.cluster.quorum.store(false, Ordering::SeqCst);
        let unready = get(address, "/readyz").await;
        assert!(
            unready.starts_with("HTTP/1.1 503") && unready.contains(r#""reason":""#),
            "{unready}"
        );
        let metrics = get(address, "/metrics").await;
        for series in [
            "messagebase_connections 0",
            "messagebase_messages_sent_total 0",
            "messagebase_messages_queued 0",
            "messagebase_role{role=\"leader\"} 1",
            "messagebase_ready 0",
        ] {
            assert!(
                metrics.lines().any(|line| line == series),
                "{series} is not in\n{metrics}"
            );
        }
        assert!(get(address, "/else").await.starts_with("HTTP/1.1 404"));
        shutdown.cancel();
        serving.await.expect("no panic").expect("an orderly end");
    }
}
