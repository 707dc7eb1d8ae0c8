//! Starts and stops one node, in order.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use messagebase_config::pki::NodeTls;
use messagebase_config::{Address, Config, NodeConfig};
use messagebase_protocol::peer::Incarnation;
use metrics_exporter_prometheus::PrometheusHandle;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::handler::Handler;
use super::identity::NodeIdentity;
use super::replication::NodeReplication;
use super::{formation, gossip, incarnations, leadership_log};
use crate::admin::AdminHandler;
use crate::context::{Lifecycle, NodeContext, Participation};
use crate::door::{Door, Timeouts};
use crate::fanout::Fanout;
use crate::hooks::Hooks;
use crate::http::{self, HttpParts};
use crate::peer::incarnations::Incarnations;
use crate::peer::server;
use crate::peer::wire::TlsWire;
use crate::presence::Presence;
use crate::service::{Replication, Service, ServiceParts};
use crate::store::{MERGE_AT, Store, StoreError, StoreOptions, Writer, spawn_writer};

/// Read-only connections: reads are short, and two cores can't run more at a time.
const READERS: u32 = 4;
/// Limit of the graceful stop; then the process ends anyway. Nothing acknowledged is lost.
const STOP_WITHIN: Duration = Duration::from_millis(4_500);
/// Limit for clients to read their last answers.
const CLIENTS_CLOSE_WITHIN: Duration = Duration::from_millis(1_500);
/// How long a foreign reader or lock may delay the last checkpoint of the WAL.
const CHECKPOINT_WITHIN: Duration = Duration::from_millis(300);
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

/// Runs node `number` until SIGTERM, SIGINT, `mbctl stop` (`Ok`) or a failure (`Err` with the reason). What serves clients and
/// gathers their writes runs on the threads of `clients`, everything else on the caller's.
pub async fn run(
    config: Arc<Config>,
    number: u16,
    tls: NodeTls,
    clients: Handle,
    hooks: Hooks,
) -> anyhow::Result<()> {
    let node = config.node(number).cloned();
    // Proof for the default: the command line checked that the node is configured.
    let node = node.with_context(|| format!("there is no node {number}"))?;
    // Before anything else, so that a stop during the start is not missed.
    let signals = Signals::listen()?;
    raise_file_limit(config.limits.connections);
    let metrics = http::install_metrics().context("failed to prepare metrics")?;
    let presence = Arc::new(Presence::new());
    let fanout = Fanout::new(presence.clone());
    let (store, writer) = open_store(&config, number, fanout.clone()).await?;
    let listeners = bind(&node).await?;
    let pid_file = write_pid(&config.node_dir(number))?;
    let (incarnations, new_incarnations) = Incarnations::new(incarnations::stored(&store).await?);
    let incarnations = Arc::new(incarnations);
    let incarnation = incarnations::new(&store)?;
    let wire = TlsWire::new(
        TlsConnector::from(tls.peer_dial.clone()),
        config.clone(),
        number,
        store.clone(),
        incarnation,
        incarnations.clone(),
    );
    let context = Arc::new(NodeContext {
        config,
        node: number,
        store,
        wire,
        fanout,
        presence,
        participation: Participation::default(),
        lifecycle: Lifecycle::default(),
    });
    if let Some(why) = incarnations::stored_staleness(&context.store).await? {
        context.participation.mark_stale(why);
    }
    let node = Node {
        context,
        incarnation,
        incarnations,
        clients,
        metrics,
        hooks,
    };
    let ended = node
        .serve(writer, listeners, &tls, new_incarnations, signals)
        .await;
    if let Err(e) = std::fs::remove_file(&pid_file) {
        warn!("failed to remove {}: {e}", pid_file.display());
    }
    ended
}

async fn open_store(
    config: &Config,
    number: u16,
    effects: Arc<Fanout>,
) -> anyhow::Result<(Store, Writer)> {
    let options = StoreOptions {
        dir: config.node_dir(number),
        node: number,
        readers: READERS,
        merge_at: MERGE_AT,
        change_log_bytes: config.limits.change_log_bytes,
        effects,
    };
    tokio::task::spawn_blocking(move || Store::open(options))
        .await?
        .map_err(anyhow::Error::msg)
}

/// What its tasks are started from.
struct Node {
    context: Arc<NodeContext>,
    incarnation: Incarnation,
    incarnations: Arc<Incarnations>,
    /// The threads of the clients' connections.
    clients: Handle,
    metrics: PrometheusHandle,
    hooks: Hooks,
}

impl Node {
    async fn serve(
        &self,
        writer: Writer,
        listeners: Listeners,
        tls: &NodeTls,
        new_incarnations: mpsc::Receiver<(u64, Incarnation)>,
        signals: Signals,
    ) -> anyhow::Result<()> {
        let context = &self.context;
        let writer = self.start_writer(writer);
        let service = build_service(context, self.hooks).await?;
        // Peers are served longer than clients: without the leader's entries a write that was accepted can't be answered.
        let peers = CancellationToken::new();
        let identity = Arc::new(NodeIdentity::new(
            context.clone(),
            self.incarnations.clone(),
            self.clients.clone(),
        ));
        let handler = Arc::new(Handler {
            context: context.clone(),
            identity: identity.clone(),
            incarnation: self.incarnation,
            incarnations: self.incarnations.clone(),
            admin: AdminHandler::new(context.clone(), service.clone()),
        });
        let acceptor = TlsAcceptor::from(tls.peer_listen.clone());
        let tasks = TaskTracker::new();
        tasks.spawn(server::serve(
            listeners.peer,
            acceptor,
            handler,
            peers.clone(),
        ));
        let acceptor = TlsAcceptor::from(tls.door.clone());
        let client_tasks = self.serve_clients(service, listeners.clients, acceptor);
        tasks.spawn(incarnations::store_new(context.clone(), new_incarnations));
        tasks.spawn(incarnations::watch_for_copies(
            context.clone(),
            self.incarnations.clone(),
        ));
        tasks.spawn(gossip::run(context.clone()));
        tasks.spawn(become_member(identity));
        info!(
            "node {} of {} listens; version {}",
            context.node,
            context.config.cluster,
            env!("CARGO_PKG_VERSION")
        );
        wait_for_stop(context, signals).await;
        if timeout(STOP_WITHIN, stop(context, client_tasks, &peers))
            .await
            .is_err()
        {
            warn!("the graceful stop took longer than {STOP_WITHIN:?}; ending all the same");
        }
        // The writer's thread ends with the process, because many tasks hold the store. Its queue is empty by now.
        drop(writer);
        context
            .lifecycle
            .failure()
            .map_or(Ok(()), |why| Err(anyhow::Error::msg(why)))
    }

    fn start_writer(&self, mut writer: Writer) -> JoinHandle<()> {
        if let Some(rewrite) = self.hooks.job {
            writer.observe(Box::new(rewrite));
        }
        let context = self.context.clone();
        spawn_writer(writer, move |e: StoreError| {
            let why = format!("the log can't be made durable: {e}");
            context.lifecycle.fail(why);
        })
    }

    /// Starts the tasks of the listeners for clients. The returned tracker is empty once every client connection has ended.
    fn serve_clients(
        &self,
        service: Arc<Service>,
        listeners: ClientListeners,
        acceptor: TlsAcceptor,
    ) -> TaskTracker {
        let context = &self.context;
        let stop = &context.lifecycle.stop;
        let connections = context.config.limits.connections;
        let door = Door::new(
            service.clone(),
            connections,
            Timeouts::default(),
            self.hooks.request,
        );
        let tasks = TaskTracker::new();
        let tls = door
            .clone()
            .serve(listeners.tls, Some(acceptor), stop.clone());
        tasks.spawn_on(tls, &self.clients);
        if let Some(plain) = listeners.plain {
            let plain = door.clone().serve(plain, None, stop.clone());
            tasks.spawn_on(plain, &self.clients);
        }
        if let Some(listener) = listeners.http {
            let parts = HttpParts {
                service,
                door,
                store: context.store.clone(),
                metrics: self.metrics.clone(),
            };
            let stop = stop.clone();
            self.clients.spawn(async move {
                if let Err(e) = http::serve(listener, parts, stop.cancelled_owned()).await {
                    warn!("the http listener ended: {e}");
                }
            });
        }
        tasks.close();
        tasks
    }
}

async fn build_service(context: &Arc<NodeContext>, hooks: Hooks) -> anyhow::Result<Arc<Service>> {
    let mut replication: Arc<dyn Replication> = Arc::new(NodeReplication(context.clone()));
    if let Some(wrap) = hooks.replication {
        replication = wrap(replication);
    }
    let parts = ServiceParts {
        node: context.node,
        cluster: context.config.cluster.clone(),
        readers: context.store.readers().clone(),
        replication,
        fanout: context.fanout.clone(),
        presence: context.presence.clone(),
        password: context.config.password,
        limits: context.config.limits,
    };
    // It hashes a password first, which takes its time.
    tokio::task::spawn_blocking(move || Service::new(parts))
        .await?
        .context("failed to prepare password hashing")
}

/// Replication under the stored identity, or formation until there is one; then watches for its failure.
async fn become_member(identity: Arc<NodeIdentity>) {
    let context = identity.context().clone();
    if !context.participation.is_stale() {
        formation::drive(identity).await;
    }
    if let Some(replica) = context.replica() {
        let why = tokio::select! {
            why = replica.failed() => why,
            () = leadership_log::write(context.clone()) => return,
            () = context.lifecycle.stop.cancelled() => return,
        };
        context.lifecycle.fail(format!("replication failed: {why}"));
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Signals> {
        let listen = |kind| signal(kind).context("failed to listen for signals");
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }
}

/// Every client needs a file descriptor, and the usual soft limit of 1,024 is far below the configured connections.
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

async fn wait_for_stop(context: &NodeContext, mut signals: Signals) {
    tokio::select! {
        _ = signals.terminate.recv() => info!("stopping on SIGTERM"),
        _ = signals.interrupt.recv() => info!("stopping on SIGINT"),
        () = context.lifecycle.stop_requested.cancelled() => info!("stopping for an operator"),
        () = context.lifecycle.stop.cancelled() => {}
    }
}

async fn stop(context: &NodeContext, client_tasks: TaskTracker, peers: &CancellationToken) {
    let lifecycle = &context.lifecycle;
    lifecycle.set_closing();
    if lifecycle.failure().is_some() {
        // A node that failed no longer leads, whatever its replica says. The others notice at once when its connections break.
        peers.cancel();
    }
    if lifecycle.failure().is_none()
        && let Some(replica) = context.replica()
    {
        replica.step_down_for_stop().await;
    }
    context.fanout.shutdown();
    lifecycle.stop.cancel();
    if timeout(CLIENTS_CLOSE_WITHIN, client_tasks.wait())
        .await
        .is_err()
    {
        warn!("some clients did not read their last answers in {CLIENTS_CLOSE_WITHIN:?}");
    }
    peers.cancel();
    if let Some(replica) = context.replica() {
        replica.shutdown().await;
    }
    // After a failure the next start needs the WAL: frames that a checkpoint copied may not be on the disk.
    if lifecycle.failure().is_none() {
        let file = context.store.file().to_owned();
        let checkpointed = tokio::task::spawn_blocking(move || checkpoint_wal(&file)).await;
        if let Ok(Err(e)) = checkpointed {
            warn!("the write-ahead log stays beside the file, for the next start: {e}");
        }
    }
    info!("stopped");
}

/// Checkpoints the WAL into the file, so that the file alone is a complete copy. A foreign reader may prevent that; nothing
/// is lost then.
fn checkpoint_wal(file: &Path) -> rusqlite::Result<()> {
    let connection = rusqlite::Connection::open(file)?;
    connection.busy_timeout(CHECKPOINT_WITHIN)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

async fn bind(node: &NodeConfig) -> anyhow::Result<Listeners> {
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

async fn listen(what: &str, address: &Address) -> anyhow::Result<TcpListener> {
    TcpListener::bind((address.host.as_str(), address.port))
        .await
        .with_context(|| format!("failed to listen on {what} address {address}"))
}

/// Written to a temporary file and renamed, so that nobody reads half a number.
fn write_pid(dir: &Path) -> anyhow::Result<PathBuf> {
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
    let written: std::io::Result<()> = write();
    written.with_context(|| format!("failed to write {}", path.display()))?;
    Ok(path)
}
