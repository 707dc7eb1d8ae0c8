//! A connection whose requests, answers and events are taken down in the checker's history. Never panics over what a node
//! does: a line that can't be read is told as wrong, and a connection that says nothing is the caller's to drop.

use std::time::{Duration, Instant};

use messagebase_checker::{Answer, Call, Event, RecordingClient};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::connection::{self, Connection};
use crate::storm::tape::{Heard, Tape};

/// Connecting to a process of this machine takes less, unless it is stopped.
const DIAL_WITHIN: Duration = Duration::from_millis(1_500);

/// The connection.
#[derive(Debug)]
pub struct RecordedClient {
    connection: Connection,
    tape: Tape,
    node: u16,
    next: u64,
    wrong: Option<String>,
}

impl RecordedClient {
    /// Connects a client of the history to a node; `None` when that fails or takes too long.
    pub fn dial(
        cluster: &Cluster,
        node: u16,
        tls: bool,
        client: &RecordingClient,
    ) -> Option<RecordedClient> {
        let ports = cluster.ports(node);
        let (port, pki) = if tls {
            (ports.client, Some(cluster.pki()))
        } else {
            (ports.plain, None)
        };
        let connection = Connection::dial(port, pki.as_deref(), DIAL_WITHIN).ok()?;
        Some(RecordedClient {
            connection,
            tape: Tape::new(client, node),
            node,
            next: 1,
            wrong: None,
        })
    }

    /// The node at the other end.
    pub fn node(&self) -> u16 {
        self.node
    }

    /// The line that was none, if there was one; the connection counts as lost then.
    pub fn wrong(&self) -> Option<&str> {
        self.wrong.as_deref()
    }

    /// Writes a request. Its number is in [`Heard::Answer`].
    pub fn post(&mut self, call: Call) -> u64 {
        self.post_for(None, call)
    }

    /// [`RecordedClient::post`] in the name of a user that this connection has no session of: the repetition of a deletion.
    pub fn post_for(&mut self, user: Option<&str>, call: Call) -> u64 {
        let (op, mut fields) = call.request();
        if let (Call::Delete { .. }, Some(user)) = (&call, user) {
            // So that it can be repeated when the account, and the session with it, is gone.
            fields["user"] = json!(user);
        }
        let id = self.next;
        self.tape.asked(id, user, call);
        self.write(op, fields)
    }

    /// Writes a request that the history does not hold, e.g. `campaign`.
    pub fn post_aside(&mut self, op: &str) -> u64 {
        self.write(op, json!({}))
    }

    fn write(&mut self, op: &str, mut fields: Value) -> u64 {
        let id = self.next;
        self.next += 1;
        fields["id"] = json!(id);
        fields["op"] = json!(op);
        self.connection.say(&fields.to_string());
        id
    }

    /// Waits for the next line.
    pub fn hear(&mut self, within: Duration) -> Heard {
        let line = match self.connection.hear(within) {
            connection::Heard::Line(line) => line,
            connection::Heard::Closed => return Heard::Lost,
            connection::Heard::Nothing => return Heard::Nothing,
        };
        self.tape.heard(&line).unwrap_or_else(|wrong| {
            self.wrong = Some(wrong);
            Heard::Lost
        })
    }

    /// Writes a request and waits for its answer; events that come before it go to `seen`. `None`: the connection is lost
    /// or says nothing in time, and is of no more use.
    pub fn ask(
        &mut self,
        call: Call,
        within: Duration,
        seen: &mut dyn FnMut(Event),
    ) -> Option<Answer> {
        let id = self.post(call);
        let until = Instant::now() + within;
        loop {
            match self.hear(until.saturating_duration_since(Instant::now())) {
                Heard::Answer(answered, answer) if answered == id => return Some(answer),
                Heard::Event(event) => seen(event),
                Heard::Lost => return None,
                Heard::Answer(..) | Heard::Aside(..) | Heard::Nothing
                    if Instant::now() >= until =>
                {
                    return None;
                }
                Heard::Answer(..) | Heard::Aside(..) | Heard::Nothing => {}
            }
        }
    }

    /// Claims for the client of this connection that it was shown all messages to a user after an id.
    pub fn kept_up(&self, user: &str, after: u64) {
        self.tape.kept_up(user, after);
    }
}
