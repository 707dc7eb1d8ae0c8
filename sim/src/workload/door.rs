//! What a node does for a client, in the node's lifetime: the way through `service/` without its sockets and hashes. A
//! stored "hash" is the password itself behind a mark.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use messagebase_checker::{Answer, Call, Message, Reply};
use messagebase_daemon::change::{Change, Outcome, Refusal, Secrets};
use messagebase_daemon::raft::api::{Draft, Verdict};
use messagebase_daemon::state::index::Memtable;
use messagebase_daemon::state::read;
use messagebase_protocol::name::fold_name;

use super::{Defect, record};
use crate::net::{Net, SimReplica, Station};

/// Page of a client that names no limit.
const LIMIT: u32 = 100;

/// A session as the node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session {
    pub id: u64,
    pub user: u64,
}

/// A token; its hash is itself.
pub(super) type Token = [u8; 32];

pub(super) fn stored(password: &str) -> String {
    format!("$argon2id$v=19$m=8,t=1,p=1$c2FsdA${password}")
}

/// Runs work on a node within its lifetime. `None`: it is not there, or died meanwhile.
async fn at<T, F>(
    net: &Net,
    node: u16,
    work: impl FnOnce(SimReplica, messagebase_daemon::store::Store) -> F,
) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let Station {
        lifetime,
        replica,
        store,
        ..
    } = net.station(node)?;
    let work = work(replica, store);
    lifetime.run(work).await
}

/// Proposes a connection's writes as one ordered batch; one answer each. `None`: no answers.
pub(super) async fn write(
    net: &Net,
    node: u16,
    session: Session,
    calls: &[Call],
    defect: Option<Defect>,
) -> Option<Vec<Answer>> {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
    let draft = |call: &Call| {
        let user = session.user;
        let body = match call {
            Call::Send { to, body, key } => Change::Send {
                user,
                to: to.clone(),
                body: body.clone(),
                key: if defect == Some(Defect::KeyUniqueness) {
                    format!("{key} {}", ATTEMPTS.fetch_add(1, Ordering::SeqCst))
                } else {
                    key.clone()
                },
            },
            Call::Ack { through } => Change::Ack {
                user,
                through: *through,
            },
            _ => Change::Logout {},
        };
        Draft {
            actor: Some(session.id),
            body,
            secrets: None,
        }
    };
    let drafts: Vec<Draft> = calls.iter().map(draft).collect();
    let verdicts = at(net, node, |replica, _| async move {
        replica.propose(drafts).await
    })
    .await?;
    Some(verdicts.into_iter().map(answer).collect())
}

async fn one(
    replica: &SimReplica,
    actor: Option<u64>,
    body: Change,
    secrets: Option<Secrets>,
) -> Verdict {
    replica
        .propose(vec![Draft {
            actor,
            body,
            secrets,
        }])
        .await
        .pop()
        .unwrap_or(Verdict::NoQuorum)
}

fn secret_password(password: &str) -> Option<Secrets> {
    Some(Secrets {
        password_hash: Some(stored(password)),
        token_hash: None,
    })
}

pub(super) async fn register(
    net: &Net,
    node: u16,
    name: &str,
    password: &str,
    key: &str,
) -> Option<Answer> {
    let body = Change::Register {
        name: name.into(),
        key: key.into(),
        by_operator: false,
    };
    let secrets = secret_password(password);
    at(net, node, |replica, _| async move {
        answer(one(&replica, None, body, secrets).await)
    })
    .await
}

/// The answer, and the session if there is one.
pub(super) async fn login(
    net: &Net,
    node: u16,
    name: &str,
    password: &str,
    token: Token,
) -> Option<(Answer, Option<Session>)> {
    let (name, password) = (fold_name(name), stored(password));
    at(net, node, |replica, store| async move {
        if replica.linear().await.is_err() {
            return (no_quorum(), None);
        }
        let account = store
            .readers()
            .with(|conn| read::user_by_name(conn, &name))
            .expect("the file is readable");
        let Some(account) = account.filter(|account| account.password_hash == password) else {
            return (Answer::refused("bad_credentials", "not_done"), None);
        };
        let body = Change::Login {
            user: account.id,
            credential_version: account.credential_version,
        };
        let secrets = Secrets {
            password_hash: None,
            token_hash: Some(token),
        };
        match one(&replica, None, body, Some(secrets)).await {
            Verdict::Applied {
                outcome:
                    Outcome::LoggedIn {
                        session,
                        user,
                        name,
                        ..
                    },
                ..
            } => {
                let reply = Reply::LoggedIn {
                    user: name,
                    token: text(token),
                };
                (Answer::Ok(reply), Some(Session { id: session, user }))
            }
            other => (answer(other), None),
        }
    })
    .await
}

pub(super) fn text(token: Token) -> String {
    token.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) async fn resume(
    net: &Net,
    node: u16,
    token: Token,
) -> Option<(Answer, Option<Session>)> {
    at(net, node, |replica, store| async move {
        if replica.linear().await.is_err() {
            return (no_quorum(), None);
        }
        let row = store
            .readers()
            .with(|conn| read::session_by_token_hash(conn, &token))
            .expect("the file is readable");
        match row.filter(|row| row.expires_at > row.clock && !row.locked) {
            Some(row) => {
                let reply = Reply::Resumed {
                    user: row.name,
                    linear: true,
                };
                (
                    Answer::Ok(reply),
                    Some(Session {
                        id: row.session,
                        user: row.user,
                    }),
                )
            }
            None => (Answer::refused("bad_credentials", "not_done"), None),
        }
    })
    .await
}

pub(super) async fn password(
    net: &Net,
    node: u16,
    session: Session,
    (old, new): (&str, &str),
    key: &str,
) -> Option<Answer> {
    let (old, secrets, key) = (stored(old), secret_password(new), key.to_owned());
    at(net, node, |replica, store| async move {
        if replica.linear().await.is_err() {
            return no_quorum();
        }
        let Session { id, user } = session;
        let known = store.readers().with(|conn| {
            let again = read::account_key(conn, "password", &user.to_string(), &key)?.is_some();
            Ok((again, read::user_by_id(conn, user)?))
        });
        let account = match known.expect("the file is readable") {
            (true, _) => return Answer::Ok(Reply::Done),
            (false, account) => account.filter(|account| account.password_hash == old),
        };
        let Some(account) = account else {
            return Answer::refused("bad_credentials", "not_done");
        };
        let body = Change::Password {
            user,
            credential_version: account.credential_version,
            key,
        };
        answer(one(&replica, Some(id), body, secrets).await)
    })
    .await
}

/// Carries out a call that only reads.
pub(super) async fn look(
    net: &Net,
    node: u16,
    session: Session,
    call: &Call,
    defect: Option<Defect>,
) -> Option<Answer> {
    let call = call.clone();
    at(net, node, |replica, store| async move {
        let linear = match &call {
            Call::Inbox { linear, .. } | Call::Sync { linear, .. } | Call::Users { linear, .. } => {
                *linear
            }
            Call::History { linear, .. } => *linear,
            _ => true,
        };
        let waits = linear && defect != Some(Defect::StaleRead);
        if waits && replica.linear().await.is_err() {
            return no_quorum();
        }
        let found = store.readers().with(|conn| {
            if linear && read::session_by_id(conn, session.id)?.is_none() {
                return Ok(Answer::refused("not_logged_in", "not_done"));
            }
            page(conn, store.readers().memtable(), session.user, &call)
        });
        found.expect("the file is readable")
    })
    .await
}

fn page(
    conn: &rusqlite::Connection,
    memtable: &Memtable,
    user: u64,
    call: &Call,
) -> rusqlite::Result<Answer> {
    let records = |page: read::Page<messagebase_protocol::json::MessageRecord>| {
        Answer::Ok(Reply::Page {
            messages: page.items.into_iter().map(record).collect(),
            more: page.more,
        })
    };
    Ok(match call {
        Call::Sync { after, limit, .. } => records(read::sync_page(
            conn,
            memtable,
            user,
            *after,
            limit.unwrap_or(LIMIT),
        )?),
        Call::History {
            with,
            before,
            limit,
            ..
        } => {
            match read::history_page(
                conn,
                memtable,
                user,
                &fold_name(with),
                *before,
                limit.unwrap_or(LIMIT),
            )? {
                Some(page) => records(page),
                None => Answer::refused("no_such_user", "not_done"),
            }
        }
        Call::Inbox { after, limit, .. } => {
            let page = read::inbox_page(conn, memtable, user, *after, limit.unwrap_or(LIMIT))?;
            let messages = page.items.into_iter().map(|m| Message {
                id: m.id,
                from: m.from,
                to: m.to,
                body: m.body,
                sent_at: m.sent_at,
                delivered_at: None,
            });
            Answer::Ok(Reply::Page {
                messages: messages.collect(),
                more: page.more,
            })
        }
        _ => {
            let page = read::users_page(conn, None, None, LIMIT)?;
            Answer::Ok(Reply::Users {
                names: page.items.into_iter().map(|row| row.name).collect(),
                more: page.more,
            })
        }
    })
}

fn no_quorum() -> Answer {
    Answer::refused("no_quorum", "unknown")
}

/// As `service::verdict` turns it.
fn answer(verdict: Verdict) -> Answer {
    let outcome = match verdict {
        Verdict::Applied { outcome, .. } => outcome,
        Verdict::InDoubt(_) | Verdict::NoQuorum => return no_quorum(),
        Verdict::Closing => return Answer::refused("closing", "unknown"),
    };
    let code = match outcome {
        Outcome::Registered { name, .. } => return Answer::Ok(Reply::Registered { user: name }),
        Outcome::Sent {
            id,
            sent_at,
            duplicate,
            ..
        } => {
            return Answer::Ok(Reply::Sent {
                id,
                sent_at,
                duplicate,
            });
        }
        Outcome::Done => return Answer::Ok(Reply::Done),
        Outcome::LoggedIn { .. } | Outcome::Rejected => {
            return Answer::refused("internal", "unknown");
        }
        Outcome::Refused(refusal) => match refusal {
            Refusal::NotLoggedIn => "not_logged_in",
            Refusal::BadCredentials => "bad_credentials",
            Refusal::Locked => "locked",
            Refusal::NameTaken => "name_taken",
            Refusal::NoSuchUser => "no_such_user",
            Refusal::QueueFull => "busy",
            Refusal::NotPermitted => "not_permitted",
            Refusal::KeyReused | Refusal::NoSuchMessage | Refusal::NameInUse => "bad_request",
        },
    };
    Answer::refused(code, "not_done")
}
