//! openraft's state machine on the store: applies through the writer, describes and installs snapshots.

use std::io;
use std::marker::PhantomData;

use futures_util::stream::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{AsyncRuntime, OptionalSend, RaftSnapshotBuilder};

use super::blocking::blocking;
use super::log_store::{acknowledged, durable};
use super::types::{
    LeaderId, Node, RaftLogId, StoredMembership, Types, entry_to_row, from_log_id, store_failed,
    stored_membership,
};
use crate::store::{ApplyItem, Job, SnapshotFile, Store};

/// Entries in one apply job; the writer's transactions are capped at the same number.
const APPLY_ENTRIES: usize = 2_000;

pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, Node>;
pub(crate) type Snapshot = openraft::Snapshot<LeaderId, u64, Node, SnapshotData>;

/// What a snapshot holds.
pub(crate) enum SnapshotData {
    /// A file that was built or received.
    File(SnapshotFile),
    /// What this store has applied by the time that somebody needs a file: all through the index that was described,
    /// and perhaps more. Nearly every snapshot is only described, so that the log may be shortened, and never sent:
    /// building a file each time would cost the more the more is stored.
    Live(Store, u64),
}

impl SnapshotData {
    /// The file; built now if there is none.
    pub(crate) async fn into_file<R: AsyncRuntime>(self) -> io::Result<SnapshotFile> {
        match self {
            SnapshotData::File(file) => Ok(file),
            SnapshotData::Live(store, through) => {
                tracing::info!(through, "a snapshot is needed");
                blocking::<R, _, _>(move || store.snapshot_of_all_through(through))
                    .await?
                    .map_err(store_failed)
            }
        }
    }
}

/// The state machine.
pub(crate) struct StateMachine<R> {
    store: Store,
    runtime: PhantomData<fn() -> R>,
}

/// Hands over the description of what was applied when openraft asked for it.
pub(crate) struct Builder {
    store: Store,
    described: io::Result<SnapshotMeta>,
}

impl<R: AsyncRuntime> StateMachine<R> {
    pub(crate) fn new(store: Store) -> Self {
        StateMachine {
            store,
            runtime: PhantomData,
        }
    }

    async fn describe(&mut self) -> io::Result<SnapshotMeta> {
        let (last_log_id, last_membership) = self.applied_state().await?;
        Ok(SnapshotMeta {
            last_log_id,
            last_membership,
        })
    }

    async fn apply_chunk(&self, items: Vec<ApplyItem>) -> io::Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        let (done, rx) = acknowledged();
        self.store
            .submit(Job::Apply { items, done })
            .await
            .map_err(store_failed)?;
        durable(rx).await
    }
}

/// What openraft wants to know of a snapshot file.
pub(crate) fn snapshot_of(file: SnapshotFile) -> io::Result<Snapshot> {
    let meta = SnapshotMeta {
        last_log_id: Some(from_log_id(file.last)),
        last_membership: stored_membership(file.membership.clone())?,
    };
    Ok(Snapshot {
        meta,
        snapshot: SnapshotData::File(file),
    })
}

impl<R: AsyncRuntime> RaftStateMachine<Types<R>> for StateMachine<R> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembership), io::Error> {
        let store = self.store.clone();
        let state = blocking::<R, _, _>(move || store.raft_state())
            .await?
            .map_err(store_failed)?;
        Ok((
            state.applied.map(from_log_id),
            stored_membership(state.membership)?,
        ))
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
                respond: responder.map(|r| -> Box<dyn FnOnce(_) + Send> {
                    Box::new(move |outcome| r.send(outcome))
                }),
            });
            if items.len() >= APPLY_ENTRIES {
                self.apply_chunk(std::mem::take(&mut items)).await?;
            }
        }
        self.apply_chunk(items).await
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        // openraft asks between two applies. Later the store may have applied what openraft does not know of yet.
        Builder {
            described: self.describe().await,
            store: self.store.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        data: SnapshotData,
    ) -> Result<(), io::Error> {
        let file = data.into_file::<R>().await?;
        let (done, rx) = acknowledged();
        self.store
            .submit(Job::InstallSnapshot { file, done })
            .await
            .map_err(store_failed)?;
        durable(rx).await
    }

    /// A file that followers can go on from is sent once more; else one is built when it is sent.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let begin = self.store.log_begin();
        if let Some(file) = self
            .store
            .current_snapshot()
            .filter(|file| file.last.index + 1 >= begin)
        {
            return snapshot_of(file).map(Some);
        }
        let meta = self.describe().await?;
        Ok(meta.last_log_id.is_some().then(|| live(meta, &self.store)))
    }
}

impl<R: AsyncRuntime> RaftSnapshotBuilder<Types<R>> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let meta = std::mem::replace(
            &mut self.described,
            Err(io::Error::other("a snapshot is described once")),
        )?;
        Ok(live(meta, &self.store))
    }
}

fn live(meta: SnapshotMeta, store: &Store) -> Snapshot {
    let through = meta.last_log_id.as_ref().map_or(0, |last| last.index);
    Snapshot {
        meta,
        snapshot: SnapshotData::Live(store.clone(), through),
    }
}
