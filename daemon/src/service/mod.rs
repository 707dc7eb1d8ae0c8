//! The use cases, one file for each theme: validate, propose, read, answer. Checks here spare a proposal; `state/` decides,
//! on every node alike. Knows no dialect and no socket: `door/` does.
//!
//! `accounts`: register to delete. `messages`: send to history. `directory`: users. `status`: hello to campaign.
//! `operators`: the requests of `mbctl user`. `verdict` is the one place where outcomes become answers and refusals.

mod accounts;
mod connection;
mod deadline;
mod directory;
mod hasher;
mod login_limits;
mod messages;
mod metrics;
mod operators;
mod reads;
mod replication;
mod status;
#[cfg(test)]
pub(crate) mod testing;
mod token;
mod verdict;

use std::sync::Arc;
use std::time::Instant;

use messagebase_config::{Limits, PasswordCost};
use messagebase_protocol::code::Failure;
use messagebase_protocol::json::{ClosingReason, Consistency};

pub use self::metrics::describe as describe_metrics;
pub use accounts::DeleteRequest;
pub use connection::{Connection, Session};
pub use deadline::Deadline;
pub use hasher::{HASH_QUEUE_MAX, Hasher};
pub use messages::{Post, Posted, send_key};
pub use operators::OperatorError;
pub use replication::{BoxFuture, Replication};
pub use verdict::no_quorum;

use crate::fanout::Fanout;
use crate::presence::Presence;
use crate::store::Readers;
use login_limits::LoginLimits;
use reads::Reads;
use status::Campaigns;

/// The parts of a [`Service`].
pub struct ServiceParts {
    /// This node's number.
    pub node: u16,
    /// The cluster's name for people.
    pub cluster: String,
    /// Read-only connections.
    pub readers: Readers,
    /// Where changes go.
    pub replication: Arc<dyn Replication>,
    /// Where sessions are told.
    pub fanout: Arc<Fanout>,
    /// Who is online.
    pub presence: Arc<Presence>,
    /// argon2 cost.
    pub password: PasswordCost,
    /// Bounds on load.
    pub limits: Limits,
}

/// Every operation of the line protocol, for connections of any dialect.
pub struct Service {
    node: u16,
    cluster: String,
    reads: Reads,
    replication: Arc<dyn Replication>,
    fanout: Arc<Fanout>,
    presence: Arc<Presence>,
    hasher: Hasher,
    login_limits: LoginLimits,
    campaigns: Arc<Campaigns>,
    started: Instant,
}

impl Service {
    /// Blocks for one argon2 hash: the dummy for unknown users.
    pub fn new(parts: ServiceParts) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Service {
            node: parts.node,
            cluster: parts.cluster,
            reads: Reads::new(parts.readers),
            replication: parts.replication,
            fanout: parts.fanout,
            presence: parts.presence,
            hasher: Hasher::new(parts.password)?,
            login_limits: LoginLimits::new(&parts.limits),
            campaigns: Arc::default(),
            started: Instant::now(),
        }))
    }

    /// This node's replication.
    pub fn replication(&self) -> &Arc<dyn Replication> {
        &self.replication
    }

    /// The live sessions.
    pub fn fanout(&self) -> &Arc<Fanout> {
        &self.fanout
    }

    /// Waits until this node has applied all that was acknowledged before the call.
    async fn linear(&self, deadline: &Deadline) -> Result<(), Failure> {
        deadline.barrier(self.replication.linear()).await
    }

    /// The connection's session, ready for a read of that consistency. A session that was resumed from local state is
    /// checked before its first linear read.
    async fn session_for_read(
        &self,
        conn: &Connection,
        consistency: Consistency,
    ) -> Result<Session, Failure> {
        self.session_for_read_within(
            conn,
            consistency,
            &Deadline::from_arrival(tokio::time::Instant::now()),
        )
        .await
    }

    async fn session_for_read_within(
        &self,
        conn: &Connection,
        consistency: Consistency,
        deadline: &Deadline,
    ) -> Result<Session, Failure> {
        let session = conn.session()?;
        if consistency == Consistency::Local {
            return Ok(session);
        }
        self.linear(deadline).await?;
        if !session.is_checked() {
            let id = session.id;
            let row = self
                .read(move |db| crate::state::read::session_by_id(db, id))
                .await?;
            if !row.is_some_and(|row| reads::is_live(&row)) {
                conn.end_session(ClosingReason::Logout);
                return Err(verdict::not_logged_in());
            }
            session.set_checked();
        }
        // A change applied meanwhile may have ended it.
        conn.session()
    }
}
