//! Hooks: where the program that composes a node may step in. `mbd` hands in none. The test program `tests/planted` plants
//! its defects here, so that no defect is compiled into `mbd`.

use std::sync::Arc;

use messagebase_protocol::json::Op;

use crate::service::{Connection, Replication};
use crate::store::Job;

/// Replaces the replication that the service proposes to, usually by wrapping it.
pub type WrapReplication = fn(Arc<dyn Replication>) -> Arc<dyn Replication>;
/// Replaces a request of the JSON dialect before it is carried out.
pub type RewriteRequest = fn(&Connection, Op) -> Op;
/// Replaces a job before the store's writer carries it out. Runs on the writer's thread.
pub type RewriteJob = fn(Job) -> Job;

/// What a node is composed with. The default changes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hooks {
    /// Around replication.
    pub replication: Option<WrapReplication>,
    /// Before each request.
    pub request: Option<RewriteRequest>,
    /// Before each job of the writer.
    pub job: Option<RewriteJob>,
}
