//! Answers `mbctl`: inspects the node, changes accounts and membership. One file for each subject; the requests are in
//! `messagebase_protocol::peer`. The peer port has authenticated them: each is an operator's.
//!
//! Accounts are use cases of `service`, as for clients; `refusal` words their results for operators.

mod backup;
mod inspect;
mod members;
mod refusal;
mod report;

use std::future::Future;
use std::sync::Arc;

use messagebase_protocol::peer::{AdminOk, AdminReply, AdminRequest, UserRow};

use crate::context::NodeContext;
use crate::service::{OperatorError, Service};
use backup::Backups;

/// Answers operators.
pub struct AdminHandler {
    context: Arc<NodeContext>,
    service: Arc<Service>,
    backups: Arc<Backups>,
}

impl AdminHandler {
    /// For one node.
    pub fn new(context: Arc<NodeContext>, service: Arc<Service>) -> Self {
        AdminHandler {
            context,
            service,
            backups: Arc::default(),
        }
    }

    /// Answers one request.
    pub async fn answer(&self, request: AdminRequest) -> AdminReply {
        let context = &self.context;
        let service = &self.service;
        match request {
            AdminRequest::Report => Ok(AdminOk::Report(Box::new(report::report(context).await))),
            AdminRequest::Kill => abort(),
            AdminRequest::Stop => {
                context.lifecycle.stop_requested.cancel();
                Ok(AdminOk::Done)
            }
            AdminRequest::Transfer { to } => members::transfer(context, to).await,
            AdminRequest::MemberList => members::list(context),
            AdminRequest::MemberAdd { node, client, peer } => {
                members::add(context, node, client, peer).await
            }
            AdminRequest::MemberPromote { node } => members::promote(context, node).await,
            AdminRequest::MemberRemove { node } => members::remove(context, node).await,
            AdminRequest::MemberReplace { node } => members::replace(context, node).await,
            AdminRequest::UserList { pattern } => self.users("", service.list_users(pattern)).await,
            AdminRequest::UserShow { name } => self.users(&name, service.show_user(&name)).await,
            AdminRequest::UserAdd { name, password } => {
                self.change(&name, service.add_user(&name, password)).await
            }
            AdminRequest::UserLock { name } => self.change(&name, service.lock_user(&name)).await,
            AdminRequest::UserUnlock { name } => {
                self.change(&name, service.unlock_user(&name)).await
            }
            AdminRequest::UserResetPassword { name, password } => {
                let reset = service.reset_password(&name, password);
                self.change(&name, reset).await
            }
            AdminRequest::UserDelete { name } => {
                self.change(&name, service.delete_user(&name)).await
            }
            AdminRequest::UserFree { name } => self.change(&name, service.free_name(&name)).await,
            AdminRequest::Sql { text } => inspect::sql(context, text).await,
            AdminRequest::Changes { from, limit, wait } => {
                inspect::changes(context, from, limit, wait).await
            }
            AdminRequest::Digest { at } => inspect::digest(context, at).await,
            AdminRequest::Backup { at } => self.backups.begin(context, at).await,
            AdminRequest::BackupPiece { id, offset } => {
                self.backups.piece(context, id, offset).await
            }
        }
    }

    async fn users(
        &self,
        name: &str,
        read: impl Future<Output = Result<Vec<UserRow>, OperatorError>>,
    ) -> AdminReply {
        refusal::replica(&self.context)?;
        let rows = read.await.map_err(|e| refusal::of_operation(name, e))?;
        Ok(AdminOk::Users(rows))
    }

    async fn change(
        &self,
        name: &str,
        change: impl Future<Output = Result<(), OperatorError>>,
    ) -> AdminReply {
        refusal::replica(&self.context)?;
        change.await.map_err(|e| refusal::of_operation(name, e))?;
        Ok(AdminOk::Done)
    }
}

/// Ends the process as SIGKILL does, on an operator's request: nothing is flushed, no client or peer is told.
fn abort() -> ! {
    tracing::warn!("killed by an operator");
    let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    std::process::abort()
}
