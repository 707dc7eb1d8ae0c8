//! What `mbctl` asks: looks at the node, changes accounts and membership. One file a subject; the words are in
//! `messagebase_protocol::peer`. Authenticated by the peer door; every request here is an operator's.

mod backup;
mod inspect;
mod members;
mod report;
mod users;

use std::sync::Arc;

pub use backup::Backups;
use messagebase_protocol::peer::{
    AdminCode, AdminError, AdminErrorKind, AdminOk, AdminReply, AdminRequest,
};

use crate::node::Shared;
use crate::service::Service;

/// Answers one request.
pub async fn answer(
    shared: &Arc<Shared>,
    service: &Arc<Service>,
    request: AdminRequest,
) -> AdminReply {
    match request {
        AdminRequest::Report => Ok(AdminOk::Report(Box::new(report::report(shared).await))),
        AdminRequest::Kill => shared.die(),
        AdminRequest::Stop => {
            shared.quit.cancel();
            Ok(AdminOk::Done)
        }
        AdminRequest::Transfer { to } => members::transfer(shared, to).await,
        AdminRequest::MemberList => members::list(shared),
        AdminRequest::MemberAdd { node, client, peer } => {
            members::add(shared, node, client, peer).await
        }
        AdminRequest::MemberPromote { node } => members::promote(shared, node).await,
        AdminRequest::MemberRemove { node } => members::remove(shared, node).await,
        AdminRequest::MemberReplace { node } => members::replace(shared, node).await,
        AdminRequest::UserList { pattern } => users::list(shared, pattern).await,
        AdminRequest::UserShow { name } => users::show(shared, name).await,
        AdminRequest::UserAdd { name, password } => {
            users::add(shared, service, name, password).await
        }
        AdminRequest::UserLock { name } => users::lock(shared, name).await,
        AdminRequest::UserUnlock { name } => users::unlock(shared, name).await,
        AdminRequest::UserResetPassword { name, password } => {
            users::reset_password(shared, service, name, password).await
        }
        AdminRequest::UserDelete { name } => users::delete(shared, name).await,
        AdminRequest::UserFree { name } => users::free(shared, name).await,
        AdminRequest::Sql { text } => inspect::sql(shared, text).await,
        AdminRequest::Changes { from, limit, wait } => {
            inspect::changes(shared, from, limit, wait).await
        }
        AdminRequest::Digest { at } => inspect::digest(shared, at).await,
        AdminRequest::Backup { at } => backup::begin(shared, at).await,
        AdminRequest::BackupPiece { id, offset } => backup::piece(shared, id, offset).await,
    }
}

/// A refusal that asking again does not change.
fn refused(code: AdminCode, message: impl Into<String>) -> AdminError {
    AdminError {
        kind: AdminErrorKind::Refused,
        code,
        message: message.into(),
        hint: None,
        leader: None,
    }
}

/// No majority answered.
fn no_quorum() -> AdminError {
    AdminError {
        kind: AdminErrorKind::NoQuorum,
        code: AdminCode::NoQuorum,
        message: "no majority of the nodes answered in time; it may still be done".into(),
        hint: Some("mbctl status".into()),
        leader: None,
    }
}

/// A defect or a broken disk; the node's log says more.
fn internal(e: impl std::fmt::Display) -> AdminError {
    AdminError {
        kind: AdminErrorKind::Internal,
        code: AdminCode::Internal,
        message: format!("the node failed to answer: {e}"),
        hint: Some("mbctl logs N".into()),
        leader: None,
    }
}

/// This node belongs to no cluster.
fn waiting(shared: &Shared) -> AdminError {
    let why = shared
        .waiting_for()
        .unwrap_or_else(|| "it has just been started".into());
    AdminError {
        kind: AdminErrorKind::NoQuorum,
        code: AdminCode::Waiting,
        message: format!("node {} belongs to no cluster yet: {why}", shared.node),
        hint: Some("mbctl status".into()),
        leader: None,
    }
}
