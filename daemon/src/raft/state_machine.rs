//! openraft's state machine on the store: applies through the writer, builds and installs snapshots.

use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{AsyncRuntime, OptionalSend, RaftSnapshotBuilder};

use super::blocking::blocking;
use super::log_store::{acknowledged, durable};
use super::types::{
    LeaderId, Node, RaftLogId, StoredMembership, Types, entry_to_row, from_log_id, store_failed, stored_membership,
};
use crate::store::{ApplyItem, Job, SnapshotFile, Store};

/// Entries in one apply job; the writer's transactions are capped at the same number.
const APPLY_ENTRIES: usize = 2_000;

pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, Node>;
pub(crate) type Snapshot = openraft::Snapshot<LeaderId, u64, Node, SnapshotFile>;

/// A snapshot that was built before openraft was told to build one, so that a failure to build is no failure of Raft.
pub(crate) type Prebuilt = Arc<Mutex<Option<SnapshotFile>>>;

/// The state machine.
pub(crate) struct StateMachine<R> {
    store: Store,
    prebuilt: Prebuilt,
    runtime: PhantomData<fn() -> R>,
}

/// Builds a snapshot, or hands over the prebuilt one.
pub(crate) struct Builder<R> {
    store: Store,
    prebuilt: Prebuilt,
    runtime: PhantomData<fn() -> R>,
}

impl<R: AsyncRuntime> StateMachine<R> {
    pub(crate) fn new(store: Store, prebuilt: Prebuilt) -> Self {
        StateMachine { store, prebuilt, runtime: PhantomData }
    }

    async fn apply_chunk(&self, items: Vec<ApplyItem>) -> io::Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        let (done, rx) = acknowledged();
        self.store.submit(Job::Apply { items, done }).await.map_err(store_failed)?;
        durable(rx).await
    }
}

/// What openraft wants to know of a snapshot file.
pub(crate) fn snapshot_of(file: SnapshotFile) -> io::Result<Snapshot> {
    let meta = SnapshotMeta {
        last_log_id: Some(from_log_id(file.last)),
        last_membership: stored_membership(file.membership.clone())?,
    };
    Ok(Snapshot { meta, snapshot: file })
}

impl<R: AsyncRuntime> RaftStateMachine<Types<R>> for StateMachine<R> {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder<R>;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembership), io::Error> {
        let store = self.store.clone();
        let state = blocking::<R, _, _>(move || store.raft_state()).await?.map_err(store_failed)?;
        Ok((state.applied.map(from_log_id), stored_membership(state.membership)?))
    }

    /// Returns after the COMMIT of the last entry; every responder has been called by then.
    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types<R>>, io::Error>> + Unpin + OptionalSend,
    {
        let mut items = Vec::new();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            items.push(ApplyItem {
                row: entry_to_row(entry),
                respond: responder.map(|r| -> Box<dyn FnOnce(_) + Send> { Box::new(move |outcome| r.send(outcome)) }),
            });
            if items.len() >= APPLY_ENTRIES {
                self.apply_chunk(std::mem::take(&mut items)).await?;
            }
        }
        self.apply_chunk(items).await
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder { store: self.store.clone(), prebuilt: self.prebuilt.clone(), runtime: PhantomData }
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, file: SnapshotFile) -> Result<(), io::Error> {
        let (done, rx) = acknowledged();
        self.store.submit(Job::InstallSnapshot { file, done }).await.map_err(store_failed)?;
        durable(rx).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.store.current_snapshot().map(snapshot_of).transpose()
    }
}

impl<R: AsyncRuntime> RaftSnapshotBuilder<Types<R>> for Builder<R> {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let prebuilt = self.prebuilt.lock().unwrap_or_else(PoisonError::into_inner).take();
        let file = match prebuilt {
            Some(file) => file,
            None => {
                let store = self.store.clone();
                blocking::<R, _, _>(move || store.build_snapshot()).await?.map_err(store_failed)?
            }
        };
        snapshot_of(file)
    }
}
