//! Which life of its process each node is in: counted in the file, told in every hello, remembered of the peers.

use std::collections::HashMap;
use std::sync::Arc;

use messagebase_protocol::peer::Incarnation;
use tokio::sync::mpsc;
use tracing::warn;

use super::Shared;
use crate::store::{Job, Store};

/// The life that began with the opening of this store.
pub fn this_one(store: &Store) -> Result<Incarnation, String> {
    let mut id = [0; 8];
    getrandom::fill(&mut id).map_err(|e| format!("no randomness: {e}"))?;
    Ok(Incarnation {
        starts: store.starts(),
        id: u64::from_ne_bytes(id),
        last_log_at_start: store.last_log_index().unwrap_or(0),
    })
}

/// What the file remembers of the peers.
pub async fn remembered(store: &Store) -> Result<HashMap<u64, Incarnation>, String> {
    let read = store.readers().run(|conn| {
        let mut rows =
            conn.prepare("SELECT raft_id, starts, boot_id, last_log_at_start FROM peer_boots")?;
        let boots = rows.query_map([], |row| {
            let boot = Incarnation {
                starts: row.get::<_, i64>(1)?.cast_unsigned(),
                id: row.get::<_, i64>(2)?.cast_unsigned(),
                last_log_at_start: row.get::<_, i64>(3)?.cast_unsigned(),
            };
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), boot))
        })?;
        boots.collect()
    });
    read.await
        .map_err(|e| format!("failed to read what is known of the peers: {e}"))
}

/// Writes new meetings to the file.
pub async fn remember(shared: Arc<Shared>, mut meetings: mpsc::Receiver<(u64, Incarnation)>) {
    loop {
        let (raft_id, boot) = tokio::select! {
            () = shared.stop.cancelled() => return,
            Some(met) = meetings.recv() => met,
        };
        let write = Box::new(move |conn: &rusqlite::Connection| {
            conn.execute(
                "INSERT OR REPLACE INTO peer_boots (raft_id, starts, boot_id, last_log_at_start) VALUES (?1, ?2, ?3, ?4)",
                [raft_id, boot.starts, boot.id, boot.last_log_at_start].map(u64::cast_signed),
            )
            .map(drop)
        });
        // A failure ends the writer and with it the node; there is nothing to add here.
        let _ = shared
            .store
            .submit(Job::Local {
                write,
                done: Box::new(|_| ()),
            })
            .await;
    }
}

/// When a peer says that this node runs on an older copy of its data: takes no part any more, and says so.
pub async fn heed(shared: Arc<Shared>) {
    let mut told = shared.incarnations.told_stale();
    let reason = tokio::select! {
        () = shared.stop.cancelled() => return,
        Ok(told) = told.wait_for(Option::is_some) => told.clone().unwrap_or_default(),
    };
    let replica = shared.replica().cloned();
    let why = format!(
        "this data directory is an older copy ({reason}) and counts as lost: stop this node, empty \
         {}, start it, then run: mbctl member replace {}",
        shared.config.node_dir(shared.node).display(),
        shared.node
    );
    shared.mark_stale(why.clone());
    // On disk, because the next start would look like a new one to peers that met this one.
    let write = Box::new(move |conn: &rusqlite::Connection| {
        conn.execute("UPDATE node SET stale = ?1", [why]).map(drop)
    });
    let _ = shared
        .store
        .submit(Job::Local {
            write,
            done: Box::new(|_| ()),
        })
        .await;
    if let Some(replica) = replica {
        replica.shutdown().await;
        warn!("replication was stopped");
    }
}

/// Why this directory was recognized as an older copy in an earlier life, if it was.
pub async fn known_stale(shared: &Shared) -> Result<Option<String>, String> {
    let read = shared
        .store
        .readers()
        .run(|conn| conn.query_row("SELECT stale FROM node", [], |row| row.get(0)));
    read.await
        .map_err(|e| format!("failed to read this node's own row: {e}"))
}
