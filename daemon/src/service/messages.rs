//! Messages: `send` and `ack` (with `logout` the changes that need nothing but the session), `inbox`, `sync`,
//! `history`. Pages are cut so that their reply fits into one line of the protocol.

use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::json::{
    ClosingReason, Consistency, Inbox, Message, MessageRecord, Records, Sent,
};
use messagebase_protocol::limits::LINE_MAX_BYTES;
use messagebase_protocol::name::{check_body, check_key, check_name, fold_name};

use super::directory::page_limit;
use super::{Connection, Deadline, Service, Session, metrics, token, verdict};
use crate::change::{Change, Outcome};
use crate::raft::api::{Draft, Verdict};
use crate::state::read::{self, Page};

/// Bytes of a page. A reply line is at most as long as a request line; the rest is for the JSON around the page.
const PAGE_MAX_BYTES: usize = LINE_MAX_BYTES - 1_024;
/// A message's punctuation and field names.
const MESSAGE_FRAME_BYTES: usize =
    r#"{"id":,"from":"","to":"","body":"","sent_at":,"delivered_at":null},"#.len();
/// Random bytes of a key that the node makes for the pipe dialect.
const MADE_KEY_BYTES: usize = 18;

/// A change that needs nothing but the session.
#[derive(Clone, PartialEq, Eq)]
pub enum Post {
    /// `send`
    Send {
        /// Recipient's name.
        to: String,
        /// The message.
        body: String,
        /// Idempotency key.
        key: String,
    },
    /// `ack`
    Ack {
        /// Greatest delivered id.
        through: u64,
    },
    /// `logout`
    Logout,
}

impl Post {
    /// About how many bytes it adds to a batch.
    pub fn weight(&self) -> usize {
        match self {
            Post::Send { body, .. } => body.len(),
            Post::Ack { .. } | Post::Logout => 0,
        }
    }

    fn check(&self) -> Result<(), Failure> {
        match self {
            Post::Send { to, body, key } => {
                check_name(to)?;
                check_body(body)?;
                check_key(key)
            }
            Post::Ack { .. } | Post::Logout => Ok(()),
        }
    }

    fn into_draft(self, session: &Session) -> Draft {
        let user = session.user;
        let body = match self {
            Post::Send { to, body, key } => Change::Send {
                user,
                to,
                body,
                key,
            },
            Post::Ack { through } => Change::Ack { user, through },
            Post::Logout => Change::Logout {},
        };
        Draft {
            actor: Some(session.id),
            body,
            secrets: None,
        }
    }
}

/// The success of a [`Post`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Posted {
    /// To `send`.
    Sent(Sent),
    /// To `ack` and `logout`.
    Done,
}

/// A key for a `send` of the pipe dialect, which has none, so that retries inside the cluster stay harmless.
pub fn send_key() -> Result<String, Failure> {
    token::random_text(MADE_KEY_BYTES)
}

impl Service {
    /// Proposes a connection's changes as one ordered batch; returns one answer for each, in the same order. Must be awaited
    /// to its end, like [`super::Replication::propose`].
    pub async fn post(
        &self,
        conn: &Connection,
        posts: Vec<Post>,
        deadline: Deadline,
    ) -> Vec<Result<Posted, Failure>> {
        let session = match conn.session() {
            Ok(session) => session,
            Err(failure) => {
                // A logout of a session that has ended has nothing left to do.
                let again = conn.past_name().is_some();
                let answer = |post| {
                    if again && post == Post::Logout {
                        Ok(Posted::Done)
                    } else {
                        Err(failure.clone())
                    }
                };
                return posts.into_iter().map(answer).collect();
            }
        };
        let mut answers: Vec<Result<Posted, Failure>> = Vec::with_capacity(posts.len());
        let mut drafts = Vec::with_capacity(posts.len());
        let mut proposed = Vec::with_capacity(posts.len());
        for (place, post) in posts.into_iter().enumerate() {
            match post.check() {
                Err(failure) => answers.push(Err(failure)),
                Ok(()) => {
                    // Replaced by the verdict's answer.
                    answers.push(Err(verdict::no_quorum()));
                    proposed.push((place, post == Post::Logout));
                    drafts.push(post.into_draft(&session));
                }
            }
        }
        if drafts.is_empty() {
            return answers;
        }
        let Ok(within) = deadline.proposal_timeout() else {
            return answers;
        };
        let verdicts = self.replication.propose(drafts, within).await;
        let mut sent = 0;
        for ((place, is_logout), verdict) in proposed.into_iter().zip(verdicts) {
            let answer = self.posted(conn, &session, is_logout, verdict);
            sent += u64::from(matches!(&answer, Ok(Posted::Sent(sent)) if !sent.duplicate));
            answers[place] = answer;
        }
        if sent > 0 {
            metrics::messages_sent(sent);
        }
        answers
    }

    fn posted(
        &self,
        conn: &Connection,
        session: &Session,
        is_logout: bool,
        verdict: Verdict,
    ) -> Result<Posted, Failure> {
        if verdict::proves_session(&verdict) {
            session.set_checked();
        }
        match verdict::outcome(verdict) {
            Ok(Outcome::Sent {
                id,
                sent_at,
                duplicate,
                recipient,
            }) => {
                let online = recipient.is_some_and(|user| self.presence.is_online(user));
                Ok(Posted::Sent(Sent {
                    id,
                    sent_at,
                    duplicate,
                    online,
                }))
            }
            Ok(Outcome::Done) => {
                if is_logout {
                    conn.end_session(ClosingReason::Logout);
                }
                Ok(Posted::Done)
            }
            Ok(other) => Err(verdict::unexpected(&other)),
            Err(failure) if failure.code == Code::NotLoggedIn => {
                conn.end_session(ClosingReason::Logout);
                if is_logout {
                    Ok(Posted::Done)
                } else {
                    Err(failure)
                }
            }
            Err(failure) => Err(failure),
        }
    }

    /// Undelivered messages to me, oldest first.
    pub async fn inbox(
        &self,
        conn: &Connection,
        after: Option<u64>,
        limit: Option<u32>,
        consistency: Consistency,
    ) -> Result<Inbox, Failure> {
        conn.session()?;
        let limit = page_limit(limit)?;
        let session = self.session_for_read(conn, consistency).await?;
        let (user, after) = (session.user, after.unwrap_or(0));
        let memtable = self.reads.memtable();
        let page = self
            .read(move |db| read::inbox_page(db, &memtable, user, row_id(after), limit))
            .await?;
        let page = keep_first(page, message_bytes);
        Ok(Inbox {
            messages: page.items,
            more: page.more,
        })
    }

    /// All messages to or from me with a greater id.
    pub async fn sync(
        &self,
        conn: &Connection,
        after: u64,
        limit: Option<u32>,
        consistency: Consistency,
    ) -> Result<Records, Failure> {
        conn.session()?;
        let limit = page_limit(limit)?;
        let user = self.session_for_read(conn, consistency).await?.user;
        let memtable = self.reads.memtable();
        let page = self
            .read(move |db| read::sync_page(db, &memtable, user, row_id(after), limit))
            .await?;
        let page = keep_first(page, record_bytes);
        Ok(Records {
            messages: page.items,
            more: page.more,
        })
    }

    /// The conversation with one user, newest page first, oldest first within the page.
    pub async fn history(
        &self,
        conn: &Connection,
        with: String,
        before: Option<u64>,
        limit: Option<u32>,
        consistency: Consistency,
    ) -> Result<Records, Failure> {
        conn.session()?;
        check_name(&with)?;
        let limit = page_limit(limit)?;
        let user = self.session_for_read(conn, consistency).await?.user;
        let (folded, before) = (fold_name(&with), before.map(row_id));
        let memtable = self.reads.memtable();
        let page = self
            .read(move |db| read::history_page(db, &memtable, user, &folded, before, limit))
            .await?;
        let page = page.ok_or_else(|| verdict::refused(crate::change::Refusal::NoSuchUser))?;
        let page = keep_last(page, record_bytes);
        Ok(Records {
            messages: page.items,
            more: page.more,
        })
    }
}

/// Ids come from clients; rows have none above `i64::MAX`.
fn row_id(id: u64) -> u64 {
    id.min(i64::MAX.unsigned_abs())
}

/// Greatest length of a message on the wire: its body escaped as JSON, with names, numbers and punctuation.
fn wire_bytes(body: &str, names: usize, numbers: [u64; 3]) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    let digits = |number: u64| number.checked_ilog10().unwrap_or(0) as usize + 1;
    MESSAGE_FRAME_BYTES
        + names
        + numbers.into_iter().map(digits).sum::<usize>()
        + body.bytes().map(escaped).sum::<usize>()
}

fn message_bytes(message: &Message) -> usize {
    let Message {
        id,
        from,
        to,
        body,
        sent_at,
    } = message;
    wire_bytes(body, from.len() + to.len(), [*id, *sent_at, 0])
}

fn record_bytes(record: &MessageRecord) -> usize {
    let MessageRecord {
        id,
        from,
        to,
        body,
        sent_at,
        delivered_at,
    } = record;
    wire_bytes(
        body,
        from.len() + to.len(),
        [*id, *sent_at, delivered_at.unwrap_or(0)],
    )
}

/// The longest beginning of a page that fits into a line; at least one item, which always fits.
fn keep_first<T>(mut page: Page<T>, bytes: impl Fn(&T) -> usize) -> Page<T> {
    let fitting = fitting(page.items.iter().map(bytes));
    if fitting < page.items.len() {
        page.items.truncate(fitting);
        page.more = true;
    }
    page
}

/// The longest end of a page that fits into a line.
fn keep_last<T>(mut page: Page<T>, bytes: impl Fn(&T) -> usize) -> Page<T> {
    let fitting = fitting(page.items.iter().rev().map(bytes));
    if fitting < page.items.len() {
        page.items.drain(..page.items.len() - fitting);
        page.more = true;
    }
    page
}

fn fitting(sizes: impl Iterator<Item = usize>) -> usize {
    let mut total = 0;
    sizes
        .take_while(|size| {
            let first = total == 0;
            total += size;
            first || total <= PAGE_MAX_BYTES
        })
        .count()
}

#[cfg(test)]
mod tests {
    use messagebase_protocol::json::encode_ok;
    use messagebase_protocol::limits::BODY_MAX_BYTES;

    use super::*;

    fn record(id: u64, body: &str) -> MessageRecord {
        let name = "n".repeat(32);
        let (from, to) = (name.clone(), name);
        MessageRecord {
            id,
            from,
            to,
            body: body.into(),
            sent_at: u64::MAX,
            delivered_at: Some(u64::MAX),
        }
    }

    #[test]
    fn every_page_fits_into_a_line_and_is_not_empty() {
        for body in [
            "\u{1}".repeat(BODY_MAX_BYTES),
            "a\"b\n".repeat(100),
            String::new(),
        ] {
            let items: Vec<_> = (0..1_000).map(|n| record(u64::MAX - n, &body)).collect();
            let page = keep_first(
                Page {
                    items: items.clone(),
                    more: false,
                },
                record_bytes,
            );
            assert!(!page.items.is_empty() && page.more);
            assert_eq!(page.items[0], items[0]);
            let line = encode_ok(
                u64::MAX,
                &Records {
                    messages: page.items,
                    more: true,
                },
            );
            assert!(line.len() <= LINE_MAX_BYTES, "{}", line.len());
            let page = keep_last(
                Page {
                    items: items.clone(),
                    more: false,
                },
                record_bytes,
            );
            assert_eq!(page.items.last(), items.last());
            assert!(page.more);
        }
    }

    #[test]
    fn a_small_page_stays_whole() {
        let page = keep_first(
            Page {
                items: vec![record(1, "a"), record(2, "b")],
                more: false,
            },
            |_| 10,
        );
        assert_eq!((page.items.len(), page.more), (2, false));
    }
}
