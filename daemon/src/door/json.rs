//! The JSON dialect: which requests take the lane, which are answered at once or by a task of their own.

use messagebase_protocol::code::Failure;
use messagebase_protocol::json::{Empty, Op, Request, encode_failure, encode_ok};
use serde::Serialize;

use super::answer::Answer;
use super::lane::Work;
use super::session::Shared;
use crate::service::{DeleteRequest, Post};

/// What is to be done with a line.
pub(super) enum Step {
    /// Answered already.
    Say(String),
    /// A write, or a change of the connection's session: in order.
    Lane(u64, Work),
    /// A read: answered by a task, replies may overtake each other.
    Read(u64, Op),
}

/// Reads a line. `true` with it: the client may stay without logging in (`status`, `ping`, `campaign`).
pub(super) fn step(shared: &Shared, line: &str) -> (Step, bool) {
    let Request { id, op } = match Request::parse(line) {
        Ok(request) => request,
        Err(malformed) => {
            return (
                Step::Say(encode_failure(malformed.id, &malformed.failure)),
                false,
            );
        }
    };
    let may_stay = matches!(op, Op::Status {} | Op::Ping {} | Op::Campaign {});
    let step = match op {
        Op::Hello {} => Step::Say(encode_ok(id, &shared.service.hello())),
        Op::Status {} => Step::Say(encode_ok(id, &shared.service.status())),
        Op::Ping {} => Step::Say(encode_ok(id, &shared.service.ping())),
        Op::Register {
            user,
            password,
            key,
        } => Step::Lane(
            id,
            Work::Register {
                user,
                password,
                key,
            },
        ),
        Op::Login { user, password } => Step::Lane(id, Work::Login { user, password }),
        Op::Resume { token, consistency } => Step::Lane(id, Work::Resume { token, consistency }),
        Op::Password { old, new, key } => Step::Lane(id, Work::Password { old, new, key }),
        Op::Delete {
            password,
            key,
            user,
        } => Step::Lane(
            id,
            Work::Delete(DeleteRequest {
                password: Some(password),
                key,
                user,
            }),
        ),
        Op::Logout {} => Step::Lane(id, Work::Post(Post::Logout)),
        Op::Send { to, body, key } => Step::Lane(id, Work::Post(Post::Send { to, body, key })),
        Op::Ack { through } => Step::Lane(id, Work::Post(Post::Ack { through })),
        op @ (Op::Users { .. }
        | Op::Inbox { .. }
        | Op::Sync { .. }
        | Op::History { .. }
        | Op::Campaign {}) => Step::Read(id, op),
    };
    (step, may_stay)
}

/// Answers a read. `moves`: how many changes of the session were asked for before it; it waits for them.
pub(super) async fn read(shared: &Shared, id: u64, op: Op, moves: u64) {
    let (service, conn) = (&shared.service, &shared.conn);
    // A campaign is answered within 2 s: neither a login nor reads without a quorum may hold it up.
    let _turn = if matches!(op, Op::Campaign {}) {
        None
    } else {
        shared.wait_for_session(moves).await;
        // An error is impossible: this semaphore is never closed.
        shared.reading.acquire().await.ok()
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
        _ => line(id, &service.campaign(conn).await),
    };
    conn.outbox.reply(line).await;
}

/// The lane's answers.
pub(super) fn encode(id: u64, answer: &Result<Answer, Failure>) -> String {
    match answer {
        Ok(Answer::Registered(ok)) => encode_ok(id, ok),
        Ok(Answer::LoggedIn(ok)) => encode_ok(id, ok),
        Ok(Answer::Resumed(ok)) => encode_ok(id, ok),
        Ok(Answer::Sent(ok)) => encode_ok(id, ok),
        Ok(Answer::Deleted | Answer::Done) => encode_ok(id, &Empty {}),
        Err(failure) => encode_failure(Some(id), failure),
    }
}

fn line<T: Serialize>(id: u64, result: &Result<T, Failure>) -> String {
    match result {
        Ok(ok) => encode_ok(id, ok),
        Err(failure) => encode_failure(Some(id), failure),
    }
}
