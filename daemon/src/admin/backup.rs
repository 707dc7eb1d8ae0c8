//! A backup for an operator: made on a thread of its own, kept while its pieces are asked for, fetched in order. One at a
//! time; one that nobody asks for any more goes by itself.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use messagebase_protocol::peer::{
    AdminCode, AdminError, AdminOk, AdminReply, BackupPiece, CHUNK_BYTES,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::inspect::{REACH_WAIT, reach};
use super::{internal, refused, waiting};
use crate::background;
use crate::node::{Shared, unix_ms};
use crate::store::{Backup, Store, StoreError, check_room};

/// A backup that nobody has asked for in this time is forgotten: its file takes as much room as the database.
const FORGET_AFTER: Duration = Duration::from_secs(30);
/// How long a question for a piece waits while the file is being made, before it is told to ask again.
const PIECE_WAIT: Duration = Duration::from_secs(2);

/// What the thread that makes it came to; `None` while it works.
type Made = Option<Result<Arc<Backup>, StoreError>>;

/// A backup that somebody fetches.
struct InHand {
    id: u64,
    made: watch::Receiver<Made>,
    /// Held to read or set it.
    asked: Mutex<Instant>,
}

impl InHand {
    fn asked(&self) -> MutexGuard<'_, Instant> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_at(&self) -> Instant {
        *self.asked() + FORGET_AFTER
    }
}

/// The backup of this node that is being made or fetched, if there is one.
#[derive(Default)]
pub struct Backups {
    /// Whoever else holds it only weakly stops when it is gone from here. Held for a copy only.
    current: Mutex<Option<Arc<InHand>>>,
    begun: AtomicU64,
}

impl Backups {
    fn current(&self) -> MutexGuard<'_, Option<Arc<InHand>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, id: u64) {
        let forgotten = self.current().take_if(|current| current.id == id);
        // Giving the room of gigabytes back takes the file system its time.
        tokio::task::spawn_blocking(move || drop(forgotten));
    }

    /// Takes the place, unless it is taken.
    fn take_place(&self, made: watch::Receiver<Made>) -> Option<Arc<InHand>> {
        let id = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let mut current = self.current();
        if current.is_some() {
            return None;
        }
        let in_hand = Arc::new(InHand {
            id,
            made,
            asked: Mutex::new(Instant::now()),
        });
        *current = Some(in_hand.clone());
        Some(in_hand)
    }
}

/// Begins a backup of what is applied, once entry `at` is.
pub async fn begin(shared: &Arc<Shared>, at: Option<u64>) -> AdminReply {
    shared.replica().ok_or_else(|| waiting(shared))?;
    if let Some(at) = at
        && timeout(REACH_WAIT, reach(&mut shared.store.applied(), at))
            .await
            .is_err()
    {
        return Err(AdminError {
            hint: Some("name another node: mbctl backup FILE --node N".into()),
            ..refused(
                AdminCode::Behind,
                format!("node {} has not applied entry {at} in time", shared.node),
            )
        });
    }
    let (tell, made) = watch::channel(None);
    let Some(in_hand) = shared.backups.take_place(made) else {
        let seconds = FORGET_AFTER.as_secs();
        return Err(AdminError {
            hint: Some(format!(
                "wait for it, or {seconds} s after it was interrupted, or name another node"
            )),
            ..refused(
                AdminCode::BackupRunning,
                format!("a backup of node {} is being taken already", shared.node),
            )
        });
    };
    let (store, wanted) = (shared.store.clone(), Arc::downgrade(&in_hand));
    let thread = std::thread::Builder::new().name("backup".into());
    if let Err(e) = thread.spawn(move || make(&store, &wanted, &tell)) {
        shared.backups.forget(in_hand.id);
        return Err(internal(e));
    }
    tracing::info!("an operator takes a backup");
    tokio::spawn(forget_when_unwanted(
        shared.clone(),
        Arc::downgrade(&in_hand),
    ));
    Ok(AdminOk::BackupBegun { id: in_hand.id })
}

fn make(store: &Store, wanted: &Weak<InHand>, tell: &watch::Sender<Made>) {
    background::give_way();
    let still = wanted.clone();
    let made = store.build_backup(move || still.strong_count() == 0, unix_ms());
    // An error means that nobody waits any more; the file is gone with the value.
    let _ = tell.send(Some(made.map(Arc::new)));
}

async fn forget_when_unwanted(shared: Arc<Shared>, wanted: Weak<InHand>) {
    while let Some((id, forget_at)) = wanted
        .upgrade()
        .map(|in_hand| (in_hand.id, in_hand.forget_at()))
    {
        if Instant::now() >= forget_at {
            tracing::info!("a backup was not fetched to its end, and is forgotten");
            shared.backups.forget(id);
            return;
        }
        tokio::select! {
            () = sleep_until(forget_at) => {}
            () = shared.stop.cancelled() => return shared.backups.forget(id),
        }
    }
}

/// The piece of backup `id` that begins at `offset`; the last one ends it.
pub async fn piece(shared: &Arc<Shared>, id: u64, offset: u64) -> AdminReply {
    let in_hand = shared
        .backups
        .current()
        .clone()
        .filter(|current| current.id == id)
        .ok_or_else(|| AdminError {
            hint: Some("take it anew: mbctl backup FILE".into()),
            ..refused(
                AdminCode::NoSuchBackup,
                format!("node {} has forgotten this backup", shared.node),
            )
        })?;
    *in_hand.asked() = Instant::now();
    let backup = match finished(in_hand).await {
        None => {
            return Ok(AdminOk::BackupPiece(BackupPiece {
                total: None,
                applied: 0,
                bytes: Vec::new(),
            }));
        }
        Some(made) => made.map_err(|why| failed(shared, id, &why))?,
    };
    let (total, applied) = (backup.bytes, backup.last.index);
    let snapshots = shared.store.snapshot_dir().to_owned();
    // Its place may be on the disk of the node, too.
    let read = move || check_room(&snapshots, 0).and_then(|()| read(&backup, offset));
    let read = tokio::task::spawn_blocking(read).await.map_err(internal)?;
    let bytes = read.map_err(|e| failed(shared, id, &e.to_string()))?;
    if offset + bytes.len() as u64 >= total {
        shared.backups.forget(id);
    }
    Ok(AdminOk::BackupPiece(BackupPiece {
        total: Some(total),
        applied,
        bytes,
    }))
}

/// What the thread came to, if it ends in time. Keeps nothing of `in_hand`: the file is given back by whoever forgets it.
async fn finished(in_hand: Arc<InHand>) -> Option<Result<Arc<Backup>, String>> {
    let mut made = in_hand.made.clone();
    drop(in_hand);
    let made = timeout(PIECE_WAIT, made.wait_for(Option::is_some))
        .await
        .ok()?;
    let gone = || Err("the thread that copied it ended".to_owned());
    Some(match made.as_deref() {
        Ok(Some(made)) => made.clone().map_err(|e| e.to_string()),
        Ok(None) | Err(_) => gone(),
    })
}

fn failed(shared: &Shared, id: u64, why: &str) -> AdminError {
    shared.backups.forget(id);
    tracing::warn!("failed to make a backup: {why}");
    AdminError {
        hint: Some(
            "if it is the node's disk, name another node: mbctl backup FILE --node N".into(),
        ),
        ..refused(
            AdminCode::BackupFailed,
            format!("node {} made no backup: {why}", shared.node),
        )
    }
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
        let (_tell, made) = watch::channel(None);
        let first = backups.take_place(made.clone()).expect("the place is free");
        let wanted = Arc::downgrade(&first);
        let id = first.id;
        drop(first);
        assert!(backups.take_place(made.clone()).is_none(), "it is taken");
        backups.forget(id + 1);
        assert_eq!(
            wanted.strong_count(),
            1,
            "another one's end changes nothing"
        );
        let current = backups.current().clone().expect("there");
        assert!(current.forget_at() <= Instant::now() + FORGET_AFTER);
        drop(current);
        backups.forget(id);
        assert!(backups.current().is_none());
        let second = backups.take_place(made).expect("the place is free again");
        assert_ne!(second.id, id);
    }
}
