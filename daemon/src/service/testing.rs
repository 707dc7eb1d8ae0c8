//! A node for tests of `service/` and `door/`: the real store and state under a replication of one node.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use messagebase_config::{Limits, PasswordCost};
use messagebase_protocol::json::MemberInfo;
use messagebase_protocol::role::NodeRole;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, oneshot};

use super::replication::{BoxFuture, Replication};
use super::{Service, ServiceParts};
use crate::change::{Change, Envelope, LOG_VERSION, Outcome};
use crate::entry::{LogId, LogPayload, LogRow};
use crate::fanout::Fanout;
use crate::presence::Presence;
use crate::raft::api::{CampaignError, Draft, NoQuorum, Verdict, View};
use crate::store::{ApplyItem, Job, MERGE_AT, Store, StoreOptions, spawn_writer};

/// When the tests' clock begins, Unix ms.
pub(crate) const CLOCK_START: u64 = 1_700_000_000_000;

/// Replication by one node, with switches for what can go wrong.
pub(crate) struct FakeCluster {
    store: Store,
    /// The last index; held while a batch is handed over, so that batches keep their order.
    index: AsyncMutex<u64>,
    /// Whether a majority answers.
    pub(crate) quorum: AtomicBool,
    /// Whether the node belongs to a cluster.
    pub(crate) member: AtomicBool,
    /// Sizes of the proposed batches.
    pub(crate) batches: Mutex<Vec<usize>>,
    /// Take the permit to hold proposals.
    pub(crate) proposing: Arc<Semaphore>,
    /// Said of the next proposal instead of applying it.
    pub(crate) next_verdict: Mutex<Option<Verdict>>,
    /// The answer to `campaign`.
    pub(crate) campaign: Mutex<Result<u16, CampaignError>>,
}

impl FakeCluster {
    /// Applies an operator's change.
    pub(crate) async fn apply(&self, body: Change) -> Verdict {
        self.carry_out(vec![Draft {
            actor: None,
            body,
            secrets: None,
        }])
        .await
        .remove(0)
    }

    async fn carry_out(&self, drafts: Vec<Draft>) -> Vec<Verdict> {
        let mut answers = Vec::new();
        let mut items = Vec::new();
        let mut last = self.index.lock().await;
        for Draft {
            actor,
            body,
            secrets,
        } in drafts
        {
            *last += 1;
            let index = *last;
            let envelope = Envelope {
                v: LOG_VERSION,
                at: CLOCK_START + index,
                actor,
                body,
                secrets,
            };
            let row = LogRow {
                id: LogId {
                    term: 1,
                    leader: 65_537,
                    index,
                },
                payload: LogPayload::Change(envelope.into()),
            };
            let (respond, outcome) = oneshot::channel();
            let respond: Box<dyn FnOnce(Outcome) + Send> =
                Box::new(move |outcome| drop(respond.send(outcome)));
            items.push(ApplyItem {
                row,
                respond: Some(respond),
            });
            answers.push((index, outcome));
        }
        self.store
            .submit(Job::Apply {
                items,
                done: Box::new(|_| {}),
            })
            .await
            .expect("the store runs");
        drop(last);
        let mut verdicts = Vec::new();
        for (index, outcome) in answers {
            verdicts.push(Verdict::Applied {
                index,
                outcome: outcome.await.expect("applied"),
            });
        }
        verdicts
    }
}

impl Replication for FakeCluster {
    fn propose(&self, drafts: Vec<Draft>, within: Duration) -> BoxFuture<'_, Vec<Verdict>> {
        Box::pin(async move {
            self.batches.lock().unwrap().push(drafts.len());
            let Ok(turn) = tokio::time::timeout(within, self.proposing.acquire()).await else {
                return vec![Verdict::NoQuorum; drafts.len()];
            };
            let _turn = turn.expect("never closed");
            let instead = self.next_verdict.lock().unwrap().take();
            if let Some(verdict) = instead {
                return vec![verdict; drafts.len()];
            }
            if !self.quorum.load(Ordering::SeqCst) {
                return vec![Verdict::NoQuorum; drafts.len()];
            }
            self.carry_out(drafts).await
        })
    }

    fn linear(&self) -> BoxFuture<'_, Result<(), NoQuorum>> {
        let answer = if self.quorum.load(Ordering::SeqCst) {
            Ok(())
        } else {
            Err(NoQuorum)
        };
        Box::pin(std::future::ready(answer))
    }

    fn campaign(&self) -> BoxFuture<'_, Result<u16, CampaignError>> {
        Box::pin(std::future::ready(*self.campaign.lock().unwrap()))
    }

    fn view(&self) -> View {
        let member = self.member.load(Ordering::SeqCst);
        let me = MemberInfo {
            node: 1,
            client: "127.0.0.1:7101".into(),
            voter: true,
        };
        View {
            role: if member {
                NodeRole::Leader
            } else {
                NodeRole::Waiting
            },
            term: 1,
            leader: member.then_some(1),
            last_log: None,
            committed: None,
            applied: None,
            members: if member { vec![me] } else { vec![] },
            ready: member && self.quorum.load(Ordering::SeqCst),
        }
    }

    fn cluster_id(&self) -> Option<String> {
        self.member.load(Ordering::SeqCst).then(|| "00".repeat(16))
    }
}

/// A node without network.
pub(crate) struct TestNode {
    pub(crate) service: Arc<Service>,
    pub(crate) cluster: Arc<FakeCluster>,
    pub(crate) fanout: Arc<Fanout>,
    pub(crate) store: Store,
    /// Removed last.
    _dir: tempfile::TempDir,
}

/// Limits of tests: few failed logins, the rest as in an empty `[limits]`.
pub(crate) const LIMITS: Limits = Limits {
    connections: 100,
    sessions_per_user: 16,
    failed_logins_per_name: 3,
    failed_logins_per_address: 1_000,
    queued_messages_per_user: 10_000,
    queued_bytes_per_user: 64 << 20,
    change_log_bytes: 64 << 20,
};

impl TestNode {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let presence = Arc::new(Presence::new());
        let fanout = Fanout::new(presence.clone());
        let options = StoreOptions {
            dir: dir.path().join("node-1"),
            node: 1,
            readers: 4,
            merge_at: MERGE_AT,
            change_log_bytes: LIMITS.change_log_bytes,
            effects: fanout.clone(),
        };
        let (store, writer) = Store::open(options).expect("a new store opens");
        spawn_writer(writer, |error| panic!("the store failed: {error}"));
        let cluster = Arc::new(FakeCluster {
            store: store.clone(),
            index: AsyncMutex::new(0),
            quorum: AtomicBool::new(true),
            member: AtomicBool::new(true),
            batches: Mutex::default(),
            proposing: Arc::new(Semaphore::new(1)),
            next_verdict: Mutex::default(),
            campaign: Mutex::new(Ok(1)),
        });
        let service = Service::new(ServiceParts {
            node: 1,
            cluster: "test".into(),
            readers: store.readers().clone(),
            replication: cluster.clone(),
            fanout: fanout.clone(),
            presence,
            // As cheap as argon2 allows: these tests are not about cost.
            password: PasswordCost {
                memory_kib: 8,
                passes: 1,
                lanes: 1,
            },
            limits: LIMITS,
        })
        .expect("allowed cost");
        TestNode {
            service,
            cluster,
            fanout,
            store,
            _dir: dir,
        }
    }
}
