//! openraft's own storage suite on real SQLite files. A failure names the property that our store breaks.

use std::sync::Arc;

use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{AsyncRuntime, StorageError};
use openraft_rt_tokio::TokioRuntime;

use super::log_store::LogStore;
use super::state_machine::StateMachine;
use super::types::Types;
use crate::state::effect::Effect;
use crate::store::{EffectSink, MERGE_AT, Store, StoreOptions, spawn_writer};

type C = Types<TokioRuntime>;

struct Nobody;

impl EffectSink for Nobody {
    fn publish(&self, _: Vec<Effect>) {}
    fn resync(&self) {}
}

struct Files;

impl StoreBuilder<C, LogStore<TokioRuntime>, StateMachine<TokioRuntime>, tempfile::TempDir>
    for Files
{
    async fn build(
        &self,
    ) -> Result<
        (
            tempfile::TempDir,
            LogStore<TokioRuntime>,
            StateMachine<TokioRuntime>,
        ),
        StorageError<C>,
    > {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = StoreOptions {
            dir: dir.path().join("node-1"),
            node: 1,
            readers: 2,
            merge_at: MERGE_AT,
            // Several segments in its tests.
            change_log_bytes: 1_024,
            effects: Arc::new(Nobody),
        };
        let (store, writer) = Store::open(options).expect("a blank store opens");
        spawn_writer(writer, |error| panic!("the writer failed: {error}"));
        let machine = StateMachine::new(store.clone());
        Ok((dir, LogStore::new(store), machine))
    }
}

#[test]
fn openrafts_suite_passes_on_real_files() {
    let result = TokioRuntime::run(Suite::test_all(Files));
    result.expect("the suite passes");
}
