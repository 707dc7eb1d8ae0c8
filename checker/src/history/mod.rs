//! A history: the attempts of all clients, everything that they were shown, and what is there in the end. One record a
//! line, so that a failing run can be kept, read by people and judged again. It judges nothing.

mod answer;
mod call;
mod recorder;

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

pub use answer::{Answer, Event, Message, Outcome, Reply};
pub use call::Call;
pub use recorder::{Open, Recorder, RecordingClient, RecordingConnection};

/// When something happened. Ordered by `tick`, which is given once only: of two moments one is the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "(u64, u64)", from = "(u64, u64)")]
pub struct Moment {
    /// Counts up over the whole history.
    pub tick: u64,
    /// µs on the recorder's clock; for people who compare with logs.
    pub us: u64,
}

impl From<(u64, u64)> for Moment {
    fn from((tick, us): (u64, u64)) -> Moment {
        Moment { tick, us }
    }
}

impl From<Moment> for (u64, u64) {
    fn from(moment: Moment) -> (u64, u64) {
        (moment.tick, moment.us)
    }
}

/// One request over one connection, and what came of it. Attempts with the same key are one operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Who asked; a client uses one connection after another.
    pub client: u64,
    /// Over which connection.
    pub connection: u64,
    /// The node at the other end.
    pub node: u16,
    /// Place among the requests of that connection, in the order they were written to it.
    pub sequence: u64,
    /// Whose session the connection had, by the name as registered, or `None`.
    pub user: Option<String>,
    /// What was asked.
    pub call: Call,
    /// Just before the request was written (invocation).
    pub invoked: Moment,
    /// Just after the answer was read (completion); `None`: no answer came.
    pub completed: Option<Moment>,
    /// What was answered.
    pub answer: Answer,
}

/// Something that a client was shown unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Who.
    pub client: u64,
    /// Over which connection.
    pub connection: u64,
    /// When it was read.
    pub at: Moment,
    /// What.
    pub event: Event,
}

/// A client's claim that it kept up: that it has been shown, over whatever connections, every message to `user` with
/// an id over `after` that was acknowledged before this moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptUp {
    /// Who.
    pub client: u64,
    /// Whose mailbox.
    pub user: String,
    /// Greatest id that it did not ask for.
    pub after: u64,
    /// When.
    pub at: Moment,
}

/// What a user's mailbox holds in the end: all pages of a linear `sync` from 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mailbox {
    /// Whose.
    pub user: String,
    /// Before the first page was asked for.
    pub at: Moment,
    /// As shown.
    pub messages: Vec<Message>,
}

/// The rows of one table in one node's file, in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// The node.
    pub node: u16,
    /// The table.
    pub table: String,
    /// Each row as text. Their order does not count.
    pub rows: Vec<String>,
}

/// What was done to the cluster; for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// When.
    pub at: Moment,
    /// In words.
    pub what: String,
}

/// One line of a kept history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "nearly all of them are attempts")]
pub enum Record {
    /// A request and what came of it.
    Attempt(Attempt),
    /// An event.
    Shown(Shown),
    /// A claim to have missed nothing.
    KeptUp(KeptUp),
    /// A user's mailbox in the end.
    Mailbox(Mailbox),
    /// A table of a node in the end.
    Rows(Rows),
    /// What was done to the cluster.
    Fault(FaultRecord),
}

/// All that is known of a run. The order within the lists does not count; moments do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Requests.
    pub attempts: Vec<Attempt>,
    /// Events.
    pub shown: Vec<Shown>,
    /// Claims to have missed nothing.
    pub kept_up: Vec<KeptUp>,
    /// Mailboxes in the end. Of users who are not among them less is proved.
    pub mailboxes: Vec<Mailbox>,
    /// The nodes' files in the end; recorded once all nodes had applied the same.
    pub rows: Vec<Rows>,
    /// What was done to the cluster.
    pub faults: Vec<FaultRecord>,
}

/// Why kept lines are no history.
#[derive(Debug)]
pub enum ReadError {
    /// They can't be read.
    Io(std::io::Error),
    /// This line, from 1, is no record.
    Line(usize, serde_json::Error),
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::Io(error) => write!(f, "failed to read the history: {error}"),
            ReadError::Line(line, error) => {
                write!(f, "line {line} of the history is no record: {error}")
            }
        }
    }
}

impl std::error::Error for ReadError {}

impl History {
    /// Takes one record in.
    pub fn push(&mut self, record: Record) {
        match record {
            Record::Attempt(attempt) => self.attempts.push(attempt),
            Record::Shown(shown) => self.shown.push(shown),
            Record::KeptUp(kept_up) => self.kept_up.push(kept_up),
            Record::Mailbox(mailbox) => self.mailboxes.push(mailbox),
            Record::Rows(rows) => self.rows.push(rows),
            Record::Fault(fault) => self.faults.push(fault),
        }
    }

    /// Writes JSON lines, what happened in the order it began.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write_lines(&self, to: &mut impl Write) -> std::io::Result<()> {
        let mut happened: Vec<(Moment, Record)> = Vec::new();
        happened.extend(
            self.attempts
                .iter()
                .map(|r| (r.invoked, Record::Attempt(r.clone()))),
        );
        happened.extend(self.shown.iter().map(|r| (r.at, Record::Shown(r.clone()))));
        happened.extend(
            self.kept_up
                .iter()
                .map(|r| (r.at, Record::KeptUp(r.clone()))),
        );
        happened.extend(
            self.mailboxes
                .iter()
                .map(|r| (r.at, Record::Mailbox(r.clone()))),
        );
        happened.extend(self.faults.iter().map(|r| (r.at, Record::Fault(r.clone()))));
        happened.sort_by_key(|(at, _)| *at);
        let rows = self.rows.iter().map(|r| Record::Rows(r.clone()));
        for record in happened.into_iter().map(|(_, record)| record).chain(rows) {
            serde_json::to_writer(&mut *to, &record)?;
            to.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Reads what [`History::write_lines`] wrote.
    ///
    /// # Errors
    /// The line that is no record.
    pub fn read_lines(from: impl BufRead) -> Result<History, ReadError> {
        let mut history = History::default();
        for (number, line) in from.lines().enumerate() {
            let line = line.map_err(ReadError::Io)?;
            let record =
                serde_json::from_str(&line).map_err(|error| ReadError::Line(number + 1, error))?;
            history.push(record);
        }
        Ok(history)
    }

    /// How many sends were answered with `ok`.
    pub fn acknowledged(&self) -> usize {
        self.attempts
            .iter()
            .filter(|a| matches!(a.answer, Answer::Ok(Reply::Sent { .. })))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_history_reads_back_the_same() {
        let recorder = Recorder::new();
        let mut connection = recorder.client().connect(2);
        let send = Call::Send {
            to: "ben".into(),
            body: "hi".into(),
            key: "k".into(),
        };
        let attempt = connection.invoke(Some("anna"), send);
        let message = Message {
            id: 1,
            from: "anna".into(),
            to: "ben".into(),
            body: "hi".into(),
            sent_at: 7,
            delivered_at: None,
        };
        connection.shown(Event::Message(message.clone()));
        connection.complete(
            attempt,
            Answer::Ok(Reply::Sent {
                id: 1,
                sent_at: 7,
                duplicate: false,
            }),
        );
        let _unanswered = connection.invoke(
            Some("anna"),
            Call::Sync {
                after: 0,
                limit: None,
                linear: true,
            },
        );
        let refused = connection.invoke(None, Call::Logout);
        connection.complete(refused, Answer::refused("not_logged_in", "not_done"));
        connection.kept_up("ben", 0);
        recorder.fault("node 1 killed");
        recorder.mailbox("ben", recorder.moment(), vec![message]);
        recorder.rows(1, "users", vec!["1|anna".into()]);
        let history = recorder.finish();
        assert_eq!(
            (
                history.attempts.len(),
                history.shown.len(),
                history.acknowledged()
            ),
            (3, 1, 1)
        );

        let mut kept = Vec::new();
        history.write_lines(&mut kept).expect("memory takes it");
        let mut read = History::read_lines(kept.as_slice()).expect("it reads");
        read.attempts.sort_by_key(|a| a.sequence);
        let mut history = history;
        history.attempts.sort_by_key(|a| a.sequence);
        assert_eq!(read, history);
        let broken = History::read_lines(&b"{}\n"[..]).expect_err("no record");
        assert!(broken.to_string().starts_with("line 1 "), "{broken}");
    }
}
