//! Start and stop of one node, in order.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use messagebase_config::pki::NodeTls;
use messagebase_config::{Address, Config, NodeConfig};
use messagebase_protocol::peer::Incarnation;
use metrics_exporter_prometheus::PrometheusHandle;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OnceCell, mpsc};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::handler::Handler;
use super::replication::Replicated;
use super::{Shared, formation, gossip, incarnations, leadership_log};
use crate::admin::Backups;
use crate::door::{Door, Patience};
use crate::fanout::Fanout;
use crate::http::{self, HttpParts};
use crate::peer::incarnations::Incarnations;
use crate::peer::server;
use crate::peer::wire::TlsWire;
use crate::presence::Presence;
use crate::service::{Service, ServiceParts};
use crate::store::{MERGE_AT, Store, StoreOptions, Writer, spawn_writer};

/// Read-only connections: reads are short, and two cores can't run more at a time anyway.
const READERS: u32 = 4;
/// The graceful stop as a whole; beyond it the process ends all the same (nothing acknowledged is at stake).
const STOP_WITHIN: Duration = Duration::from_millis(4_500);
/// What clients get to read their last answers.
const DOORS_CLOSE_WITHIN: Duration = Duration::from_millis(1_500);
/// How long a foreign reader or lock may keep the WAL from being moved into the file at the end.
const FOLD_WITHIN: Duration = Duration::from_millis(300);
/// The file with the process id, beside the database.
const PID_FILE: &str = "mbd.pid";

struct Listeners {
    peer: TcpListener,
    clients: ClientListeners,
}

struct ClientListeners {
    tls: TcpListener,
    plain: Option<TcpListener>,
    http: Option<TcpListener>,
}

/// Runs node `number` until SIGTERM, SIGINT, `mbctl stop` (`Ok`) or a failure (`Err` with the reason). All that serves
/// clients and gathers writes runs on the threads of `clients`, all else on the caller's.
pub async fn run(
    config: Arc<Config>,
    number: u16,
    tls: NodeTls,
    clients: Handle,
) -> Result<(), String> {
    // Proof for the default: the command line checked that the node is configured.
    let node = config
        .node(number)
        .cloned()
        .ok_or_else(|| format!("there is no node {number}"))?;
    // First of all, so that a stop during the start is heard too.
    let signals = Signals::listen()?;
    raise_file_limit(config.limits.connections);
    let metrics = http::install_metrics().map_err(|e| format!("failed to prepare metrics: {e}"))?;
    let presence = Arc::new(Presence::new());
    let fanout = Fanout::new(presence.clone());
    let options = StoreOptions {
        dir: config.node_dir(number),
        node: number,
        readers: READERS,
        merge_at: MERGE_AT,
        change_log_bytes: config.limits.change_log_bytes,
        effects: fanout.clone(),
    };
    let opened = tokio::task::spawn_blocking(move || Store::open(options))
        .await
        .map_err(|e| e.to_string())?;
    let (store, writer) = opened.map_err(|e| e.to_string())?;
    let listeners = bind(&node).await?;
    let pid_file = write_pid(&config.node_dir(number))?;
    let (incarnations, meetings) = Incarnations::new(incarnations::remembered(&store).await?);
    let incarnation = incarnations::this_one(&store)?;
    let incarnations = Arc::new(incarnations);
    let connector = TlsConnector::from(tls.peer_dial.clone());
    let wire = TlsWire::new(
        connector,
        config.clone(),
        number,
        store.clone(),
        incarnation,
        incarnations.clone(),
    );
    let shared = Arc::new(Shared {
        config,
        node: number,
        store,
        wire,
        fanout,
        presence,
        quit: CancellationToken::new(),
        stop: CancellationToken::new(),
        backups: Backups::default(),
        incarnation,
        incarnations,
        replica: OnceCell::new(),
        clients,
        stale: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        waiting: Mutex::new(Some("it has just been started".into())),
        failure: Mutex::new(None),
        started: Instant::now(),
    });
    if let Some(why) = incarnations::known_stale(&shared).await? {
        shared.mark_stale(why);
    }
    let ended = serve(
        &shared,
        writer,
        listeners,
        &tls,
        Start {
            metrics,
            meetings,
            signals,
        },
    )
    .await;
    if let Err(e) = std::fs::remove_file(&pid_file) {
        warn!("failed to remove {}: {e}", pid_file.display());
    }
    ended
}

async fn serve(
    shared: &Arc<Shared>,
    writer: Writer,
    listeners: Listeners,
    tls: &NodeTls,
    start: Start,
) -> Result<(), String> {
    let Start {
        metrics,
        meetings,
        signals,
    } = start;
    let on_fatal = {
        let shared = shared.clone();
        move |e: crate::store::StoreError| {
            shared.fail(format!("the log can't be made durable: {e}"))
        }
    };
    let writer = spawn_writer(writer, on_fatal);
    let tasks = TaskTracker::new();
    let service = serve_clients(shared).await?;
    // Peers are served longer than clients: without the leader's entries a write that was accepted can't be answered.
    let peers = CancellationToken::new();
    let acceptor = TlsAcceptor::from(tls.peer_listen.clone());
    let handler = Arc::new(Handler {
        shared: shared.clone(),
        service: service.clone(),
    });
    tasks.spawn(server::serve(
        listeners.peer,
        acceptor,
        handler,
        peers.clone(),
    ));
    let acceptor = TlsAcceptor::from(tls.door.clone());
    let doors = open_doors(shared, service, listeners.clients, acceptor, metrics);
    tasks.spawn(incarnations::remember(shared.clone(), meetings));
    tasks.spawn(incarnations::heed(shared.clone()));
    tasks.spawn(gossip::run(shared.clone()));
    tasks.spawn(become_member(shared.clone()));
    info!(
        "node {} of {} serves; version {}",
        shared.node,
        shared.config.cluster,
        env!("CARGO_PKG_VERSION")
    );
    wait_for_the_end(shared, signals).await;
    if timeout(STOP_WITHIN, stop(shared, doors, &peers))
        .await
        .is_err()
    {
        warn!("the graceful stop took longer than {STOP_WITHIN:?}; ending all the same");
    }
    // The writer's thread ends with the process: handles on the store are everywhere. Nothing waits in it any more.
    drop(writer);
    match shared.failure() {
        Some(why) => Err(why),
        None => Ok(()),
    }
}

async fn serve_clients(shared: &Arc<Shared>) -> Result<Arc<Service>, String> {
    let parts = ServiceParts {
        node: shared.node,
        cluster: shared.config.cluster.clone(),
        readers: shared.store.readers().clone(),
        replication: Arc::new(Replicated(shared.clone())),
        fanout: shared.fanout.clone(),
        presence: shared.presence.clone(),
        password: shared.config.password,
        limits: shared.config.limits,
    };
    // It hashes a password to begin with.
    let built = tokio::task::spawn_blocking(move || Service::new(parts))
        .await
        .map_err(|e| e.to_string())?;
    built.map_err(|e| format!("failed to prepare password hashing: {e}"))
}

/// Starts the tasks of the listeners for clients. The returned tracker is empty once every client connection has ended.
fn open_doors(
    shared: &Arc<Shared>,
    service: Arc<Service>,
    listeners: ClientListeners,
    acceptor: TlsAcceptor,
    metrics: PrometheusHandle,
) -> TaskTracker {
    let clients = &shared.clients;
    let door = Door::new(
        service.clone(),
        shared.config.limits.connections,
        Patience::default(),
    );
    let doors = TaskTracker::new();
    doors.spawn_on(
        door.clone()
            .serve(listeners.tls, Some(acceptor), shared.stop.clone()),
        clients,
    );
    if let Some(plain) = listeners.plain {
        doors.spawn_on(
            door.clone().serve(plain, None, shared.stop.clone()),
            clients,
        );
    }
    if let Some(listener) = listeners.http {
        let parts = HttpParts {
            service,
            door,
            store: shared.store.clone(),
            metrics,
        };
        let stop = shared.stop.clone();
        clients.spawn(async move {
            if let Err(e) = http::serve(listener, parts, stop.cancelled_owned()).await {
                warn!("the http listener ended: {e}");
            }
        });
    }
    doors.close();
    doors
}

/// Replication under the stored identity, or formation until there is one; then watches for its failure.
async fn become_member(shared: Arc<Shared>) {
    if !shared.is_stale() {
        formation::drive(shared.clone()).await;
    }
    if let Some(replica) = shared.replica() {
        let why = tokio::select! {
            why = replica.failed() => why,
            () = leadership_log::write(shared.clone()) => return,
            () = shared.stop.cancelled() => return,
        };
        shared.fail(format!("replication failed: {why}"));
    }
}

/// What `run` hands to `serve`.
struct Start {
    metrics: PrometheusHandle,
    meetings: mpsc::Receiver<(u64, Incarnation)>,
    signals: Signals,
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Signals, String> {
        let listen = |kind| signal(kind).map_err(|e| format!("failed to listen for signals: {e}"));
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }
}

/// Every client is a file descriptor, and the usual soft limit of 1,024 is far below the configured connections.
fn raise_file_limit(connections: u32) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft < hard
        && let Err(e) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        warn!("failed to raise the limit on open files from {soft} to {hard}: {e}");
    }
    if hard < u64::from(connections) {
        warn!(
            "{hard} open files are allowed, [limits] connections is {connections}: raise the limit (ulimit -Hn)"
        );
    }
}

async fn wait_for_the_end(shared: &Arc<Shared>, mut signals: Signals) {
    tokio::select! {
        _ = signals.terminate.recv() => info!("stopping on SIGTERM"),
        _ = signals.interrupt.recv() => info!("stopping on SIGINT"),
        () = shared.quit.cancelled() => info!("stopping for an operator"),
        () = shared.stop.cancelled() => {}
    }
}

async fn stop(shared: &Arc<Shared>, doors: TaskTracker, peers: &CancellationToken) {
    shared.closing.store(true, Ordering::Relaxed);
    if shared.failure().is_some() {
        // It leads no more, whatever it says: the others see that at once when its connections break.
        peers.cancel();
    }
    if shared.failure().is_none()
        && let Some(replica) = shared.replica()
    {
        replica.step_down_for_stop().await;
    }
    shared.fanout.shutdown();
    shared.stop.cancel();
    if timeout(DOORS_CLOSE_WITHIN, doors.wait()).await.is_err() {
        warn!("some clients did not read their last answers in {DOORS_CLOSE_WITHIN:?}");
    }
    peers.cancel();
    if let Some(replica) = shared.replica() {
        replica.shutdown().await;
    }
    // After a failure the WAL is what the next start goes by: what was copied from it may not be on the disk.
    if shared.failure().is_none() {
        let file = shared.store.file().to_owned();
        let folded = tokio::task::spawn_blocking(move || fold_wal(&file)).await;
        if let Ok(Err(e)) = folded {
            warn!("the write-ahead log stays beside the file, for the next start: {e}");
        }
    }
    info!("stopped");
}

/// Moves what is in the WAL into the file, so that a copy of the file alone is whole. A foreign reader may prevent it;
/// nothing is lost then.
fn fold_wal(file: &Path) -> rusqlite::Result<()> {
    let connection = rusqlite::Connection::open(file)?;
    connection.busy_timeout(FOLD_WITHIN)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

async fn bind(node: &NodeConfig) -> Result<Listeners, String> {
    let http = node.http_bind.as_ref().or(node.http.as_ref());
    let tls = listen("client", node.client_bind.as_ref().unwrap_or(&node.client)).await?;
    let peer = listen("peer", node.peer_bind.as_ref().unwrap_or(&node.peer)).await?;
    let plain = match &node.plain {
        Some(address) => Some(listen("plain", address).await?),
        None => None,
    };
    let http = match http {
        Some(address) => Some(listen("http", address).await?),
        None => None,
    };
    Ok(Listeners {
        peer,
        clients: ClientListeners { tls, plain, http },
    })
}

async fn listen(what: &str, address: &Address) -> Result<TcpListener, String> {
    TcpListener::bind((address.host.as_str(), address.port))
        .await
        .map_err(|e| format!("failed to listen on {what} address {address}: {e}"))
}

/// Published by rename, so that nobody reads half a number.
fn write_pid(dir: &Path) -> Result<PathBuf, String> {
    let path = dir.join(PID_FILE);
    let temporary = dir.join("mbd.pid.new");
    let write = || {
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        writeln!(file, "{}", std::process::id())?;
        std::fs::rename(&temporary, &path)
    };
    write().map_err(|e: std::io::Error| format!("failed to write {}: {e}", path.display()))?;
    Ok(path)
}
