//! The JSON dialect: which requests go through the write queue, and which are answered at once or by their own task.

use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::json::{self, Empty, Op, encode_failure, encode_ok};
use serde::Serialize;

use super::connection_shared::ConnShared;
use super::work::{Request, Success, Work};
use crate::service::{DeleteRequest, Post};

/// How a line is handled.
pub(super) enum Step {
    /// Answered already, with this line.
    Reply(String),
    /// A write, or a change of the connection's session: in order.
    Queue(u64, Work),
    /// A read: answered by its own task, so replies may overtake each other.
    Read(u64, Op),
}

/// Parses a line. `true` with it: the client may stay without logging in (`status`, `ping`, `campaign`).
pub(super) fn step(shared: &ConnShared, line: &str) -> (Step, bool) {
    let json::Request { id, op } = match json::Request::parse(line) {
        Ok(request) => request,
        Err(malformed) => {
            return (
                Step::Reply(encode_failure(malformed.id, &malformed.failure)),
                false,
            );
        }
    };
    let op = match shared.rewrite {
        Some(rewrite) => rewrite(&shared.conn, op),
        None => op,
    };
    let may_stay = matches!(op, Op::Status {} | Op::Ping {} | Op::Campaign {});
    let work = match op {
        Op::Hello {} => {
            return (
                Step::Reply(encode_ok(id, &shared.service.hello())),
                may_stay,
            );
        }
        Op::Status {} => {
            return (
                Step::Reply(encode_ok(id, &shared.service.status())),
                may_stay,
            );
        }
        Op::Ping {} => return (Step::Reply(encode_ok(id, &shared.service.ping())), may_stay),
        Op::Users { .. }
        | Op::Inbox { .. }
        | Op::Sync { .. }
        | Op::History { .. }
        | Op::Campaign {} => return (Step::Read(id, op), may_stay),
        Op::Logout {} => Work::Post(Post::Logout),
        Op::Send { to, body, key } => Work::Post(Post::Send { to, body, key }),
        Op::Ack { through } => Work::Post(Post::Ack { through }),
        Op::Register {
            user,
            password,
            key,
        } => Work::Request(Request::Register {
            user,
            password,
            key,
        }),
        Op::Login { user, password } => Work::Request(Request::Login { user, password }),
        Op::Resume { token, consistency } => Work::Request(Request::Resume { token, consistency }),
        Op::Password { old, new, key } => Work::Request(Request::Password { old, new, key }),
        Op::Delete {
            password,
            key,
            user,
        } => Work::Request(Request::Delete(DeleteRequest {
            password: Some(password),
            key,
            user,
        })),
    };
    (Step::Queue(id, work), may_stay)
}

/// Answers a read, after the `session_changes` requests before it that begin or end a session.
pub(super) async fn read(shared: &ConnShared, id: u64, op: Op, session_changes: u64) {
    let (service, conn) = (&shared.service, &shared.conn);
    // A campaign is answered within 2 s: neither a login nor reads without a quorum may delay it.
    let _permit = if matches!(op, Op::Campaign {}) {
        None
    } else {
        shared.wait_for_session(session_changes).await;
        // An error is impossible: this semaphore is never closed.
        shared.read_permits.acquire().await.ok()
    };
    let line = match op {
        Op::Users {
            pattern,
            after,
            limit,
            consistency,
        } => line(
            id,
            &service
                .users(conn, pattern, after, limit, consistency)
                .await,
        ),
        Op::Inbox {
            after,
            limit,
            consistency,
        } => line(id, &service.inbox(conn, after, limit, consistency).await),
        Op::Sync {
            after,
            limit,
            consistency,
        } => line(id, &service.sync(conn, after, limit, consistency).await),
        Op::History {
            with,
            before,
            limit,
            consistency,
        } => line(
            id,
            &service
                .history(conn, with, before, limit, consistency)
                .await,
        ),
        Op::Campaign {} => line(id, &service.campaign(conn).await),
        // `step` queues or answers all others.
        other => {
            let message = format!("`{}` is not answered as a read", other.name());
            encode_failure(Some(id), &Failure::not_done(Code::Internal, message))
        }
    };
    conn.outbox.reply(line).await;
}

/// An answer of the write queue.
pub(super) fn encode(id: u64, answer: &Result<Success, Failure>) -> String {
    match answer {
        Ok(Success::Registered(ok)) => encode_ok(id, ok),
        Ok(Success::LoggedIn(ok)) => encode_ok(id, ok),
        Ok(Success::Resumed(ok)) => encode_ok(id, ok),
        Ok(Success::Sent(ok)) => encode_ok(id, ok),
        Ok(Success::Deleted | Success::Done) => encode_ok(id, &Empty {}),
        Err(failure) => encode_failure(Some(id), failure),
    }
}

fn line<T: Serialize>(id: u64, result: &Result<T, Failure>) -> String {
    match result {
        Ok(ok) => encode_ok(id, ok),
        Err(failure) => encode_failure(Some(id), failure),
    }
}
