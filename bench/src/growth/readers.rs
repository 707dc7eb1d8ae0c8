//! Users of a filled cluster who ask for what is theirs. They are spread evenly over all users, and each question is
//! another's, so that answers come from all over the file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use messagebase_client::connection::Connection;
use messagebase_protocol::json::{Consistency, Inbox, LoggedIn, MessageRecord, Op, Records, Users};
use messagebase_protocol::limits::PAGE_MAX;
use serde::Serialize;

use super::fill::{PASSWORD, Size, user};
use crate::load::buffered::buffered;
use crate::load::drive::{Link, Receipt, Worked};
use crate::load::load_users::{ClusterAccess, ask, words};
use crate::load::messagebase::leader_at;
use crate::load::{LoadError, Say, Server, Shape, Subject};

/// Logins at a time when they gather: each is a password hash.
const AT_A_TIME: usize = 8;
/// A question that is not answered for so long fails.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Characters of a name that a search begins with; a hundred users share them.
const PREFIX_CHARACTERS: usize = "User-0000".len();

/// What is asked. Pages have the protocol's default length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// A new connection and a login with its password.
    Login,
    /// The first page of what is queued.
    Inbox,
    /// A page of all messages behind one of them.
    Sync,
    /// The newest page of a conversation.
    History,
    /// The users whose names begin as one's own.
    Search,
}

impl Question {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Question::Login => "login",
            Question::Inbox => "inbox",
            Question::Sync => "sync",
            Question::History => "history",
            Question::Search => "search",
        }
    }
}

/// One user in a session.
struct Reader {
    name: String,
    connection: Connection,
    /// Ids of all messages, ascending.
    ids: Vec<u64>,
    /// Who wrote to them or was written to.
    others: Vec<String>,
}

/// All who ask on one cluster.
pub struct Readers {
    name: &'static str,
    access: ClusterAccess,
    leader: usize,
    servers: Vec<Server>,
    all: Vec<Arc<Reader>>,
    question: Question,
}

impl Readers {
    /// Logs `askers` of the users in on the leader.
    ///
    /// # Errors
    /// They can't log in, or have no messages.
    pub async fn gather(
        name: &'static str,
        access: &ClusterAccess,
        servers: Vec<Server>,
        size: Size,
        askers: u32,
        say: Say<'_>,
    ) -> Result<Readers, LoadError> {
        const TELL_EVERY: usize = 64;
        let leader = leader_at(access).await?;
        let apart = size.users / askers.clamp(1, size.users);
        let deed = |_, at: u32| Reader::log_in(access.clone(), leader, user(at * apart));
        let tell = |done: usize| {
            if done.is_multiple_of(TELL_EVERY) {
                say(&format!("{name}: logged in: {done} of {askers}"));
            }
        };
        let all = buffered(0..askers, AT_A_TIME, deed, tell).await?;
        let all = all.into_iter().map(Arc::new).collect();
        Ok(Readers {
            name,
            access: access.clone(),
            leader,
            servers,
            all,
            question: Question::Inbox,
        })
    }

    /// What the next rounds ask.
    pub fn turn_to(&mut self, question: Question) -> &mut Readers {
        self.question = question;
        self
    }
}

impl Reader {
    async fn log_in(access: ClusterAccess, node: usize, name: String) -> Result<Reader, LoadError> {
        let connection = access.connect(node).await?;
        let op = Op::Login {
            user: name.clone(),
            password: PASSWORD.into(),
        };
        ask::<LoggedIn>(&connection, op).await?;
        let (mut ids, mut others) = (Vec::new(), Vec::new());
        loop {
            let after = ids.last().copied().unwrap_or(0);
            let op = Op::Sync {
                after,
                limit: Some(PAGE_MAX),
                consistency: Consistency::Linear,
            };
            let page: Records = ask(&connection, op).await?;
            for MessageRecord { id, from, to, .. } in page.messages {
                ids.push(id);
                others.push(if from == name { to } else { from });
            }
            if !page.more {
                break;
            }
        }
        if ids.is_empty() {
            return Err(LoadError::Refused(format!("{name} has no messages")));
        }
        Ok(Reader {
            name,
            connection,
            ids,
            others,
        })
    }

    /// Asks for the `turn`th time; how many rows the answer has.
    async fn ask(&self, question: Question, turn: u64) -> Result<usize, String> {
        const CONSISTENCY: Consistency = Consistency::Linear;
        // The remainder is a place in the list, so it fits.
        let place = usize::try_from(turn % self.ids.len() as u64).unwrap_or(0);
        let rows = match question {
            Question::Login => return Err("a login needs a connection of its own".into()),
            Question::Inbox => {
                let op = Op::Inbox {
                    after: None,
                    limit: None,
                    consistency: CONSISTENCY,
                };
                self.connection
                    .call::<Inbox>(op, ANSWER_TIMEOUT)
                    .await
                    .map(|page| page.messages.len())
            }
            Question::Sync => {
                // Before the message in that place, so that the page has at least that one.
                let op = Op::Sync {
                    after: self.ids[place] - 1,
                    limit: None,
                    consistency: CONSISTENCY,
                };
                self.connection
                    .call::<Records>(op, ANSWER_TIMEOUT)
                    .await
                    .map(|page| page.messages.len())
            }
            Question::History => {
                let with = self.others[place].clone();
                let op = Op::History {
                    with,
                    before: None,
                    limit: None,
                    consistency: CONSISTENCY,
                };
                self.connection
                    .call::<Records>(op, ANSWER_TIMEOUT)
                    .await
                    .map(|page| page.messages.len())
            }
            Question::Search => {
                let beginning = self.name.get(..PREFIX_CHARACTERS).unwrap_or(&self.name);
                let pattern = Some(format!("{beginning}*"));
                let op = Op::Users {
                    pattern,
                    after: None,
                    limit: None,
                    consistency: CONSISTENCY,
                };
                self.connection
                    .call::<Users>(op, ANSWER_TIMEOUT)
                    .await
                    .map(|page| page.users.len())
            }
        };
        rows.map_err(|e| words(&e))
    }
}

/// Some of those who ask, one after the other.
pub struct Row {
    access: ClusterAccess,
    leader: usize,
    askers: Vec<Arc<Reader>>,
    question: Question,
    next: AtomicU64,
}

impl Link for Row {
    async fn call(&self) -> Result<Option<Receipt>, String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (turn, place) = (
            number / self.askers.len() as u64,
            number % self.askers.len() as u64,
        );
        // A remainder is a place in the list, so it fits.
        let asker = &self.askers[usize::try_from(place).unwrap_or(0)];
        let rows = if self.question == Question::Login {
            let connection = self
                .access
                .connect(self.leader)
                .await
                .map_err(|e| e.to_string())?;
            let op = Op::Login {
                user: asker.name.clone(),
                password: PASSWORD.into(),
            };
            connection
                .call::<LoggedIn>(op, ANSWER_TIMEOUT)
                .await
                .map(|_| 1)
                .map_err(|e| words(&e))
        } else {
            asker.ask(self.question, turn).await
        };
        match rows {
            Ok(0) => Err(format!(
                "{}: {} was answered with nothing",
                asker.name,
                self.question.name()
            )),
            Ok(_) => Ok(None),
            Err(why) => Err(format!(
                "{}: {} failed: {why}",
                asker.name,
                self.question.name()
            )),
        }
    }
}

impl Subject for Readers {
    type Link = Row;

    fn name(&self) -> &'static str {
        self.name
    }

    fn servers(&self) -> &[Server] {
        &self.servers
    }

    fn sync_counters(&self) -> &'static [&'static str] {
        &[]
    }

    async fn links(&mut self, shape: &Shape, _say: Say<'_>) -> Result<Vec<Arc<Row>>, LoadError> {
        let rows = shape.connections.min(self.all.len());
        let row = |at: usize| {
            Arc::new(Row {
                access: self.access.clone(),
                leader: self.leader,
                askers: self.all.iter().skip(at).step_by(rows).cloned().collect(),
                question: self.question,
                next: AtomicU64::new(0),
            })
        };
        Ok((0..rows).map(row).collect())
    }

    fn absorb(&mut self, _worked: Vec<Worked>) {
        // Questions leave no receipts.
    }
}
