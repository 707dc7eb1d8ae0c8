//! Linear reads by ReadIndex: a round asks the leader to confirm itself, then waits until this node has applied the read
//! index. Never by lease: failover drops leases.
//!
//! Callers share rounds. A round counts only for callers that came before it began. So the loop takes all that wait, then
//! begins one; later callers are in the next.

use std::sync::Arc;

use messagebase_protocol::limits::WRITE_DEADLINE;
use openraft::async_runtime::Instant;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::{AsyncRuntime, ReadPolicy};
use tokio::sync::{mpsc, oneshot};

use super::api::{NoQuorum, Wire};
use super::core::Core;
use super::forward::{ask_leader, time_left};
use super::frame::{ReadReply, Reply, Request};

/// Read barriers that may wait for a round; more wait for a place.
const QUEUE_MAX: usize = 4_096;
/// Callers answered by one round.
const ROUND_CALLERS: usize = 1_024;

/// Waits for a round: told when it has succeeded, dropped when it has failed.
type Caller = oneshot::Sender<()>;

/// The read barriers of one replica.
pub(super) struct Barriers<R: AsyncRuntime, W: Wire> {
    core: Arc<Core<R, W>>,
    queue: mpsc::Sender<Caller>,
}

impl<R: AsyncRuntime, W: Wire> Barriers<R, W> {
    /// What it returns besides feeds [`Barriers::run`].
    pub(super) fn new(core: Arc<Core<R, W>>) -> (Self, mpsc::Receiver<Caller>) {
        let (queue, feed) = mpsc::channel(QUEUE_MAX);
        (Barriers { core, queue }, feed)
    }

    /// When it returns, this node has applied all that was acknowledged before the call.
    ///
    /// # Errors
    /// [`NoQuorum`] after [`WRITE_DEADLINE`], or when the replica stops.
    pub(super) async fn linear(&self) -> Result<(), NoQuorum> {
        let (tx, rx) = oneshot::channel();
        let round = async {
            self.queue.send(tx).await.map_err(|_| NoQuorum)?;
            rx.await.map_err(|_| NoQuorum)
        };
        match R::timeout(WRITE_DEADLINE, round).await {
            Ok(result) => result,
            Err(_) => Err(NoQuorum),
        }
    }

    pub(super) async fn run(self: Arc<Self>, mut feed: mpsc::Receiver<Caller>) {
        loop {
            let mut callers = Vec::new();
            let received = feed.recv_many(&mut callers, ROUND_CALLERS);
            match self.core.unless_stopped(received).await {
                Some(n) if n > 0 => {}
                Some(_) | None => return,
            }
            match self.core.unless_stopped(self.round()).await {
                None => return,
                // Dropping the callers' senders tells them.
                Some(false) => {}
                Some(true) => callers.into_iter().for_each(|caller| {
                    // A caller that gave up is no error.
                    let _ = caller.send(());
                }),
            }
        }
    }

    async fn round(&self) -> bool {
        let deadline = R::Instant::now() + WRITE_DEADLINE;
        loop {
            let leader = self.core.leader();
            let reply = match leader {
                Some(id) if id == self.core.raft_id() => self.read_index_here(deadline).await,
                Some(id) => self.read_index_of(id, deadline).await,
                None => ReadReply::NotLeader { hint: None },
            };
            if let ReadReply::Index(index) = reply {
                return self.core.applied(index, deadline).await;
            }
            if R::Instant::now() >= deadline {
                return false;
            }
            self.core.wait_before_retry(leader, deadline).await;
        }
    }

    /// The read index of this leader, confirmed by a quorum after the call.
    pub(super) async fn read_index_here(&self, deadline: R::Instant) -> ReadReply {
        let wait = deadline.saturating_duration_since(R::Instant::now());
        let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(wait);
        match R::timeout_at(deadline, self.core.raft.get_read_linearizer(option)).await {
            Ok(Ok(linearizer)) => ReadReply::Index(linearizer.read_log_id().index()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
                ReadReply::NotLeader { hint: to.leader_id }
            }
            Ok(Err(_)) | Err(_) => ReadReply::Unconfirmed,
        }
    }

    async fn read_index_of(&self, leader: u64, deadline: R::Instant) -> ReadReply {
        let Some(wait_ms) = time_left::<R>(deadline) else {
            return ReadReply::Unconfirmed;
        };
        let request = Request::ReadIndex { wait_ms };
        match ask_leader(&self.core, leader, &request, deadline).await {
            Ok(Reply::ReadIndex(reply)) => reply,
            Ok(_) | Err(_) => ReadReply::Unconfirmed,
        }
    }
}
