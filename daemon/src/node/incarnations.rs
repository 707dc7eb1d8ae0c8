//! Incarnations on disk: this node's, counted in its file and sent in every hello, and those of its peers. Also stops a node
//! that turns out to run on an older copy of its data.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;
use messagebase_protocol::peer::Incarnation;
use tokio::sync::mpsc;
use tracing::warn;

use crate::context::NodeContext;
use crate::peer::incarnations::Incarnations;
use crate::store::{Job, Store};

/// The incarnation that began with the opening of this store.
pub fn new(store: &Store) -> anyhow::Result<Incarnation> {
    let mut id = [0; 8];
    getrandom::fill(&mut id).context("no randomness")?;
    Ok(Incarnation {
        starts: store.starts(),
        id: u64::from_ne_bytes(id),
        last_log_at_start: store.last_log_index().unwrap_or(0),
    })
}

/// The peers' incarnations in the file.
pub async fn stored(store: &Store) -> anyhow::Result<HashMap<u64, Incarnation>> {
    let read = store.readers().run(|conn| {
        let mut rows =
            conn.prepare("SELECT raft_id, starts, boot_id, last_log_at_start FROM peer_boots")?;
        let incarnations = rows.query_map([], |row| {
            let incarnation = Incarnation {
                starts: row.get::<_, i64>(1)?.cast_unsigned(),
                id: row.get::<_, i64>(2)?.cast_unsigned(),
                last_log_at_start: row.get::<_, i64>(3)?.cast_unsigned(),
            };
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), incarnation))
        })?;
        incarnations.collect()
    });
    read.await
        .context("failed to read what is known of the peers")
}

/// Stores the peers' new incarnations, until the node stops.
pub async fn store_new(context: Arc<NodeContext>, mut new: mpsc::Receiver<(u64, Incarnation)>) {
    loop {
        let (raft_id, met) = tokio::select! {
            () = context.lifecycle.stop.cancelled() => return,
            Some(new) = new.recv() => new,
        };
        write(&context.store, move |conn| {
            conn.execute(
                "INSERT OR REPLACE INTO peer_boots (raft_id, starts, boot_id, last_log_at_start) VALUES (?1, ?2, ?3, ?4)",
                [raft_id, met.starts, met.id, met.last_log_at_start].map(u64::cast_signed),
            )
        })
        .await;
    }
}

/// Waits until a peer says that this node runs on an older copy of its data; then stops replication.
pub async fn watch_for_copies(context: Arc<NodeContext>, incarnations: Arc<Incarnations>) {
    let mut told = incarnations.told_stale();
    let reason = tokio::select! {
        () = context.lifecycle.stop.cancelled() => return,
        Ok(told) = told.wait_for(Option::is_some) => told.clone().unwrap_or_default(),
    };
    let replica = context.replica().cloned();
    let node = context.node;
    let why = format!(
        "this data directory is an older copy ({reason}) and counts as lost: stop this node, empty \
         {}, start it, then run: mbctl member replace {node}",
        context.config.node_dir(node).display(),
    );
    context.participation.mark_stale(why.clone());
    // Stored, because peers that met this start would take the next one for a newer.
    write(&context.store, move |conn| {
        conn.execute("UPDATE node SET stale = ?1", [why])
    })
    .await;
    if let Some(replica) = replica {
        replica.shutdown().await;
        warn!("replication was stopped");
    }
}

/// Why an earlier incarnation recognized this directory as an older copy, if it did.
pub async fn stored_staleness(store: &Store) -> anyhow::Result<Option<String>> {
    let read = store
        .readers()
        .run(|conn| conn.query_row("SELECT stale FROM node", [], |row| row.get(0)));
    read.await.context("failed to read this node's own row")
}

/// A failure ends the writer and with it the node, so the caller has nothing to do about one.
async fn write(
    store: &Store,
    statement: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<usize> + Send + 'static,
) {
    let job = Job::Local {
        write: Box::new(move |conn| statement(conn).map(drop)),
        done: Box::new(|_| ()),
    };
    let _ = store.submit(job).await;
}
