//! Refusals for operators: code, message, next command. `service` maps what became of a change; here it gets words for
//! operators.

use std::fmt::Display;

use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::peer::{AdminCode, AdminError, AdminErrorKind};

use crate::context::{JUST_STARTED, NodeContext, Replica};
use crate::raft::MemberError;
use crate::service::OperatorError;

fn error(kind: AdminErrorKind, code: AdminCode, message: String) -> AdminError {
    AdminError {
        kind,
        code,
        message,
        hint: None,
        leader: None,
    }
}

/// A refusal that stays the same when the request is repeated.
pub fn refused(code: AdminCode, message: impl Into<String>) -> AdminError {
    error(AdminErrorKind::Refused, code, message.into())
}

/// A defect or a broken disk; the node's log says more.
pub fn internal(e: impl Display) -> AdminError {
    internal_message(format!("the node failed to answer: {e}"))
}

fn internal_message(message: String) -> AdminError {
    error(AdminErrorKind::Internal, AdminCode::Internal, message).with_hint("mbctl logs N")
}

fn no_quorum() -> AdminError {
    let message = "no majority of the nodes answered in time; it may still be done";
    error(
        AdminErrorKind::NoQuorum,
        AdminCode::NoQuorum,
        message.into(),
    )
    .with_hint("mbctl status")
}

/// Another node leads, or none does.
pub fn not_leader(leader: Option<u16>) -> AdminError {
    let message = "this node does not lead";
    AdminError {
        leader,
        ..error(
            AdminErrorKind::NotLeader,
            AdminCode::NotLeader,
            message.into(),
        )
    }
}

/// The replica of a member. On any other node a refusal that says what the node waits for.
pub fn replica(context: &NodeContext) -> Result<&Replica, AdminError> {
    context.replica().ok_or_else(|| {
        let why = context.participation.waiting_for();
        let why = why.unwrap_or_else(|| JUST_STARTED.into());
        let message = format!("node {} belongs to no cluster yet: {why}", context.node);
        error(AdminErrorKind::NoQuorum, AdminCode::Waiting, message).with_hint("mbctl status")
    })
}

/// Of a change of membership or leadership.
pub fn of_member_change(e: MemberError) -> AdminError {
    match e {
        MemberError::NotLeader { leader } => not_leader(leader),
        MemberError::NoQuorum => no_quorum(),
        MemberError::Behind(_) => refused(AdminCode::Behind, e.to_string())
            .with_hint("try again once `mbctl status` shows little lag"),
        MemberError::Refused(why) => refused(AdminCode::Refused, why),
    }
}

/// Of a use case on the account or reserved name `name`.
pub fn of_operation(name: &str, e: OperatorError) -> AdminError {
    match e {
        OperatorError::NoSuchUser => refused(
            AdminCode::NoSuchUser,
            format!("there is no user and no reserved name {name}"),
        )
        .with_hint("mbctl user list"),
        OperatorError::NameTaken => refused(
            AdminCode::NameTaken,
            format!("the name {name} belongs to somebody or is reserved"),
        )
        .with_hint(format!(
            "if the account was deleted, release the name: mbctl user free {name}"
        )),
        OperatorError::NameInUse => refused(
            AdminCode::NameInUse,
            format!("{name} has an account; only the name of a deleted one is reserved"),
        )
        .with_hint(format!("mbctl user delete {name}")),
        OperatorError::Failed(failure) => of_failure(failure),
    }
}

fn of_failure(failure: Failure) -> AdminError {
    match failure.code {
        Code::NoQuorum | Code::Closing => no_quorum(),
        Code::Internal => internal_message(failure.message),
        Code::BadName => refused(AdminCode::BadName, failure.message),
        Code::BadPassword => refused(AdminCode::BadPassword, failure.message),
        Code::Busy => refused(AdminCode::Busy, failure.message),
        _ => refused(AdminCode::Refused, failure.message),
    }
}
