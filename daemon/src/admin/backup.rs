//! A backup for an operator: made on its own thread, then fetched in pieces, in order. One at a time. It is dropped when
//! nobody asks for a piece for 30 s.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use messagebase_protocol::peer::{
    AdminCode, AdminError, AdminOk, AdminReply, BackupPiece, CHUNK_BYTES,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::inspect::{REACH_WAIT, reach};
use super::refusal::{internal, refused, replica};
use crate::background;
use crate::context::{NodeContext, unix_ms};
use crate::store::{Backup, Store, StoreError, check_room};

/// A backup is dropped when no piece is asked for in this time: its file is as large as the database.
const DROP_AFTER: Duration = Duration::from_secs(30);
/// How long a request for a piece waits while the file is being made, before it is told to ask again.
const PIECE_WAIT: Duration = Duration::from_secs(2);

/// The result of the thread that makes it; `None` while it works.
type Made = Option<Result<Arc<Backup>, StoreError>>;

/// The backup that is being made or fetched.
struct CurrentBackup {
    id: u64,
    made: watch::Receiver<Made>,
    last_asked: Mutex<Instant>,
}

impl CurrentBackup {
    fn drop_at(&self) -> Instant {
        *self.last_asked.lock() + DROP_AFTER
    }
}

/// At most one backup of this node.
#[derive(Default)]
pub struct Backups {
    /// The only lasting strong reference: the other tasks hold weak ones and stop when it is dropped.
    current: Mutex<Option<Arc<CurrentBackup>>>,
    begun: AtomicU64,
}

impl Backups {
    fn discard(&self, id: u64) {
        let discarded = self.current.lock().take_if(|current| current.id == id);
        // Deleting gigabytes blocks.
        tokio::task::spawn_blocking(move || drop(discarded));
    }

    /// Makes this the current backup, unless there is one.
    fn reserve(&self, made: watch::Receiver<Made>) -> Option<Arc<CurrentBackup>> {
        let id = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let mut current = self.current.lock();
        if current.is_some() {
            return None;
        }
        let reserved = Arc::new(CurrentBackup {
            id,
            made,
            last_asked: Mutex::new(Instant::now()),
        });
        *current = Some(reserved.clone());
        Some(reserved)
    }

    /// Begins a backup of what is applied, once entry `at` is.
    pub async fn begin(
        self: &Arc<Self>,
        context: &Arc<NodeContext>,
        at: Option<u64>,
    ) -> AdminReply {
        replica(context)?;
        let node = context.node;
        if let Some(at) = at
            && timeout(REACH_WAIT, reach(&mut context.store.applied(), at))
                .await
                .is_err()
        {
            let message = format!("node {node} has not applied entry {at} in time");
            return Err(refused(AdminCode::Behind, message)
                .with_hint("name another node: mbctl backup FILE --node N"));
        }
        let (report, made) = watch::channel(None);
        let Some(current) = self.reserve(made) else {
            let seconds = DROP_AFTER.as_secs();
            let message = format!("a backup of node {node} is being taken already");
            return Err(
                refused(AdminCode::BackupRunning, message).with_hint(format!(
                    "wait for it, or {seconds} s after it was interrupted, or name another node"
                )),
            );
        };
        let (store, wanted) = (context.store.clone(), Arc::downgrade(&current));
        let thread = std::thread::Builder::new().name("backup".into());
        if let Err(e) = thread.spawn(move || make(&store, &wanted, &report)) {
            self.discard(current.id);
            return Err(internal(e));
        }
        tracing::info!("an operator takes a backup");
        tokio::spawn(
            self.clone()
                .discard_when_unwanted(context.clone(), Arc::downgrade(&current)),
        );
        Ok(AdminOk::BackupBegun { id: current.id })
    }

    async fn discard_when_unwanted(
        self: Arc<Self>,
        context: Arc<NodeContext>,
        wanted: Weak<CurrentBackup>,
    ) {
        while let Some((id, drop_at)) = wanted
            .upgrade()
            .map(|current| (current.id, current.drop_at()))
        {
            if Instant::now() >= drop_at {
                tracing::info!("a backup was not fetched to its end, and is forgotten");
                self.discard(id);
                return;
            }
            tokio::select! {
                () = sleep_until(drop_at) => {}
                () = context.lifecycle.stop.cancelled() => return self.discard(id),
            }
        }
    }

    /// The piece of backup `id` that begins at `offset`; the last one ends it.
    pub async fn piece(&self, context: &NodeContext, id: u64, offset: u64) -> AdminReply {
        let current = self.current.lock().clone();
        let Some(current) = current.filter(|current| current.id == id) else {
            let message = format!("node {} has forgotten this backup", context.node);
            return Err(refused(AdminCode::NoSuchBackup, message)
                .with_hint("take it anew: mbctl backup FILE"));
        };
        *current.last_asked.lock() = Instant::now();
        let backup = match finished(current).await {
            None => {
                return Ok(AdminOk::BackupPiece(BackupPiece {
                    total: None,
                    applied: 0,
                    bytes: Vec::new(),
                }));
            }
            Some(made) => made.map_err(|why| self.failed(context, id, &why))?,
        };
        let (total, applied) = (backup.bytes, backup.last.index);
        let snapshots = context.store.snapshot_dir().to_owned();
        // The operator's file may be on the same disk as the node.
        let read = move || check_room(&snapshots, 0).and_then(|()| read(&backup, offset));
        let read = tokio::task::spawn_blocking(read).await.map_err(internal)?;
        let bytes = read.map_err(|e| self.failed(context, id, &e.to_string()))?;
        if offset + bytes.len() as u64 >= total {
            self.discard(id);
        }
        Ok(AdminOk::BackupPiece(BackupPiece {
            total: Some(total),
            applied,
            bytes,
        }))
    }

    fn failed(&self, context: &NodeContext, id: u64, why: &str) -> AdminError {
        self.discard(id);
        tracing::warn!("failed to make a backup: {why}");
        let message = format!("node {} made no backup: {why}", context.node);
        refused(AdminCode::BackupFailed, message)
            .with_hint("if it is the node's disk, name another node: mbctl backup FILE --node N")
    }
}

fn make(store: &Store, wanted: &Weak<CurrentBackup>, report: &watch::Sender<Made>) {
    background::lower_priority();
    let wanted = wanted.clone();
    let made = store.build_backup(move || wanted.strong_count() == 0, unix_ms());
    // An error means that nobody waits for it; dropping the value deletes the file.
    let _ = report.send(Some(made.map(Arc::new)));
}

/// The result of the thread, if it ends in time. Drops `current` before it waits, so that discarding the backup deletes the
/// file.
async fn finished(current: Arc<CurrentBackup>) -> Option<Result<Arc<Backup>, String>> {
    let mut made = current.made.clone();
    drop(current);
    let made = timeout(PIECE_WAIT, made.wait_for(Option::is_some))
        .await
        .ok()?;
    Some(match made.as_deref() {
        Ok(Some(made)) => made.clone().map_err(|e| e.to_string()),
        Ok(None) | Err(_) => Err("the thread that copied it ended".to_owned()),
    })
}

fn read(backup: &Backup, offset: u64) -> std::io::Result<Vec<u8>> {
    // At most CHUNK_BYTES, so the conversion never cuts anything.
    let length = backup.bytes.saturating_sub(offset).min(CHUNK_BYTES as u64) as usize;
    let mut bytes = vec![0; length];
    backup.file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_backup_at_a_time_and_a_forgotten_one_stops() {
        let backups = Backups::default();
        let (_report, made) = watch::channel(None);
        let first = backups.reserve(made.clone()).expect("the place is free");
        let wanted = Arc::downgrade(&first);
        let id = first.id;
        drop(first);
        assert!(backups.reserve(made.clone()).is_none(), "it is taken");
        backups.discard(id + 1);
        assert_eq!(
            wanted.strong_count(),
            1,
            "another one's end changes nothing"
        );
        let current = backups.current.lock().clone().expect("there");
        assert!(current.drop_at() <= Instant::now() + DROP_AFTER);
        drop(current);
        backups.discard(id);
        assert!(backups.current.lock().is_none());
        let second = backups.reserve(made).expect("the place is free again");
        assert_ne!(second.id, id);
    }
}
