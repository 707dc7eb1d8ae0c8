//! A blocking client of the JSON dialect that hides nothing: it does not resume or elect, and repeats nothing but what a
//! test expects to succeed.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clock_stall::Watch;
use crate::connection::{Connection, Heard};
use crate::wait::{LONG, SHORT};

/// The password of every user in the tests.
pub const PASSWORD: &str = "correct horse";

/// What may be asked again without a key.
const READS: [&str; 7] = [
    "login", "resume", "inbox", "sync", "history", "users", "ack",
];

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code on the wire; `lost` when the connection ended first.
    pub code: String,
    /// For people.
    pub message: String,
    /// `not_done` or `unknown`.
    pub outcome: String,
}

/// `ok` or `error`.
pub type Answer = Result<Value, Refusal>;

/// A connection that speaks JSON.
#[derive(Debug)]
pub struct TestClient {
    connection: Connection,
    next_id: u64,
    answers: HashMap<u64, Answer>,
    unnumbered: VecDeque<Refusal>,
    events: VecDeque<Value>,
    lost: bool,
}

impl TestClient {
    /// Speaks JSON on a connection.
    pub fn on(connection: Connection) -> TestClient {
        TestClient {
            connection,
            next_id: 1,
            answers: HashMap::new(),
            unnumbered: VecDeque::new(),
            events: VecDeque::new(),
            lost: false,
        }
    }

    /// To a `plain` port.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn plain(port: u16) -> std::io::Result<TestClient> {
        Connection::plain(port).map(TestClient::on)
    }

    /// Sends a request without waiting; several may be under way.
    pub fn post(&mut self, op: &str, fields: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let mut request = json!({"id": id, "op": op});
        if let (Some(request), Value::Object(fields)) = (request.as_object_mut(), fields) {
            request.extend(fields);
        }
        self.connection.say(&request.to_string());
        id
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        self.connection.write(bytes);
    }

    /// The answer to a request; a lost connection is the refusal `lost`.
    #[track_caller]
    pub fn answer(&mut self, id: u64, within: Duration) -> Answer {
        let until = Instant::now() + within;
        loop {
            if let Some(answer) = self.answers.remove(&id) {
                return answer;
            }
            if self.lost {
                let outcome = "unknown".to_owned();
                return Err(Refusal {
                    code: "lost".into(),
                    message: "the connection ended".into(),
                    outcome,
                });
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "no answer to request {id} within {within:?}"
            );
            self.read(left);
        }
    }

    /// Sends a request and waits for its answer.
    #[track_caller]
    pub fn ask(&mut self, op: &str, fields: Value) -> Answer {
        let id = self.post(op, fields);
        self.answer(id, SHORT)
    }

    /// Asks, and expects success. Where a cluster on a machine that stood still did not serve in time it asks again, as
    /// the contract lets every client do: what names its key, and what changes nothing.
    #[track_caller]
    pub fn ok(&mut self, op: &str, fields: Value) -> Value {
        let until = Instant::now() + LONG;
        loop {
            let watch = Watch::begin();
            let refusal = match self.ask(op, fields.clone()) {
                Ok(ok) => return ok,
                Err(refusal) => refusal,
            };
            let may =
                refusal.code == "no_quorum" && (fields.get("key").is_some() || READS.contains(&op));
            let again = may && watch.stood_still().is_some() && Instant::now() < until;
            assert!(again, "{op} was refused: {refusal:?}");
        }
    }

    /// Asks, and expects to be refused with this code.
    #[track_caller]
    pub fn refused(&mut self, op: &str, fields: Value, code: &str) -> Refusal {
        match self.ask(op, fields.clone()) {
            Ok(ok) => panic!("{op} {fields} should be refused as {code}, but: {ok}"),
            Err(refusal) => {
                assert_eq!(refusal.code, code, "{op} {fields}: {refusal:?}");
                refusal
            }
        }
    }

    /// The next refusal whose request had no readable id.
    #[track_caller]
    pub fn unnumbered(&mut self, what: &str) -> Refusal {
        self.until(what, SHORT, |client| client.unnumbered.pop_front())
    }

    /// The next event of this kind; others before it stay.
    #[track_caller]
    pub fn event(&mut self, kind: &str) -> Value {
        self.until(&format!("an event `{kind}`"), SHORT, |client| {
            let at = client
                .events
                .iter()
                .position(|event| event["event"] == kind)?;
            client.events.remove(at)
        })
    }

    /// The events that have come already.
    pub fn events(&mut self) -> Vec<Value> {
        self.events.drain(..).collect()
    }

    /// Reads until the other side has closed.
    #[track_caller]
    pub fn wait_closed(&mut self) {
        self.until("the node to close the connection", SHORT, |client| {
            client.lost.then_some(())
        });
    }

    #[track_caller]
    fn until<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut take: impl FnMut(&mut TestClient) -> Option<T>,
    ) -> T {
        let until = Instant::now() + within;
        loop {
            if let Some(found) = take(self) {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            let over = left.is_zero() || self.lost;
            assert!(
                !over,
                "expected {what}; lost: {}, events so far: {:?}",
                self.lost, self.events
            );
            self.read(left);
        }
    }

    fn read(&mut self, within: Duration) {
        let line = match self.connection.hear(within) {
            Heard::Line(line) => line,
            Heard::Closed => {
                self.lost = true;
                return;
            }
            Heard::Nothing => return,
        };
        let value: Value =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
        if value.get("event").is_some() {
            self.events.push_back(value);
            return;
        }
        let answer = match value.get("error") {
            None => Ok(value["ok"].clone()),
            Some(error) => Err(Refusal {
                code: text(&error["code"]),
                message: text(&error["message"]),
                outcome: text(&error["outcome"]),
            }),
        };
        match (value["id"].as_u64(), answer) {
            (Some(id), answer) => drop(self.answers.insert(id, answer)),
            (None, Err(refusal)) => self.unnumbered.push_back(refusal),
            (None, Ok(ok)) => panic!("a success without an id: {ok}"),
        }
    }

    // ---- what most tests begin with ----

    /// Makes an account with [`PASSWORD`].
    #[track_caller]
    pub fn register(&mut self, user: &str) {
        self.ok(
            "register",
            json!({"user": user, "password": PASSWORD, "key": format!("register {user}")}),
        );
    }

    /// Logs in and returns the token.
    #[track_caller]
    pub fn login(&mut self, user: &str) -> String {
        text(&self.ok("login", json!({"user": user, "password": PASSWORD}))["token"])
    }

    /// Makes an account and logs in.
    #[track_caller]
    pub fn sign_up(&mut self, user: &str) -> String {
        self.register(user);
        self.login(user)
    }

    /// Sends a message under a key and returns the `ok`.
    #[track_caller]
    pub fn send(&mut self, to: &str, body: &str, key: &str) -> Value {
        self.ok("send", json!({"to": to, "body": body, "key": key}))
    }

    /// All pages of `inbox`.
    #[track_caller]
    pub fn inbox(&mut self) -> Vec<Value> {
        self.pages("inbox", 0, &json!({}))
    }

    /// All pages of `sync` after an id.
    #[track_caller]
    pub fn sync(&mut self, after: u64) -> Vec<Value> {
        self.pages("sync", after, &json!({}))
    }

    /// All pages of `sync` from the node's own state.
    #[track_caller]
    pub fn sync_locally(&mut self, after: u64) -> Vec<Value> {
        self.pages("sync", after, &json!({"consistency": "local"}))
    }

    #[track_caller]
    fn pages(&mut self, op: &str, after: u64, fields: &Value) -> Vec<Value> {
        let mut found: Vec<Value> = Vec::new();
        let mut after = after;
        loop {
            let mut fields = fields.clone();
            fields["after"] = json!(after);
            let page = self.ok(op, fields);
            let messages = page["messages"].as_array().cloned().unwrap_or_default();
            after = messages
                .last()
                .and_then(|message| message["id"].as_u64())
                .unwrap_or(after);
            let went_on = !messages.is_empty();
            found.extend(messages);
            if page["more"] != true {
                return found;
            }
            assert!(went_on, "an empty page of {op} says that more follows");
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
