//! Linear reads by ReadIndex: a round asks the leader to confirm itself, then waits to have applied what was committed.
//! Never by lease: failover drops leases.
//!
//! Callers share rounds. A round counts only for those who came before it began, so the loop takes everybody who waits,
//! then begins one; whoever comes meanwhile is in the next.

use messagebase_protocol::limits::WRITE_DEADLINE;
use openraft::async_runtime::Instant;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::{AsyncRuntime, ReadPolicy};
use tokio::sync::{mpsc, oneshot};

use super::api::{NoQuorum, Wire};
use super::frame::{ReadReply, Reply, Request};
use super::propose::time_left;
use super::replica::Replica;

/// Callers answered by one round.
const ROUND_CALLERS: usize = 1_024;

impl<R: AsyncRuntime, W: Wire> Replica<R, W> {
    /// A read barrier: when it returns, this node has applied all that was acknowledged before the call.
    ///
    /// # Errors
    /// [`NoQuorum`] after [`WRITE_DEADLINE`], or when the replica stops.
    pub async fn linear(&self) -> Result<(), NoQuorum> {
        let (tx, rx) = oneshot::channel();
        let round = async {
            self.inner.barriers.send(tx).await.map_err(|_| NoQuorum)?;
            rx.await.map_err(|_| NoQuorum)
        };
        match R::timeout(WRITE_DEADLINE, round).await {
            Ok(result) => result,
            Err(_) => Err(NoQuorum),
        }
    }

    pub(super) async fn barrier_loop(self, mut queue: mpsc::Receiver<oneshot::Sender<()>>) {
        loop {
            let mut callers = Vec::new();
            match self
                .unless_stopped(queue.recv_many(&mut callers, ROUND_CALLERS))
                .await
            {
                Some(n) if n > 0 => {}
                Some(_) | None => return,
            }
            match self.unless_stopped(self.round()).await {
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
            let leader = self.leader();
            let reply = match leader {
                Some(id) if id == self.raft_id() => self.read_index_here(deadline).await,
                Some(id) => self.read_index_of(id, deadline).await,
                None => ReadReply::NotLeader { hint: None },
            };
            if let ReadReply::Index(index) = reply {
                return self.applied(index, deadline).await;
            }
            if R::Instant::now() >= deadline {
                return false;
            }
            self.another_chance(leader, deadline).await;
        }
    }

    /// The read index of this leader, confirmed by a quorum after the call.
    pub(super) async fn read_index_here(&self, deadline: R::Instant) -> ReadReply {
        let wait = deadline.saturating_duration_since(R::Instant::now());
        let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(wait);
        match R::timeout_at(deadline, self.inner.raft.get_read_linearizer(option)).await {
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
        match self
            .ask_leader(leader, &Request::ReadIndex { wait_ms }, deadline)
            .await
        {
            Ok(Reply::ReadIndex(reply)) => reply,
            Ok(_) | Err(_) => ReadReply::Unconfirmed,
        }
    }
}
