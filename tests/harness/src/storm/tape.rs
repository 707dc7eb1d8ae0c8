//! Records the requests, answers and events of one connection in the checker's history, from the lines that pass.

use std::collections::BTreeMap;

use messagebase_checker::{Answer, Call, Event, Open, RecordingClient, RecordingConnection, Reply};
use messagebase_protocol::json::{Consistency, Op, Request};
use serde_json::Value;

/// What came over the connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// The answer to request number so-and-so.
    Answer(u64, Answer),
    /// An event that the checker judges.
    Event(Event),
    /// The answer to something that it does not judge ([`crate::storm::RecordedClient::post_aside`]); `None`: refused.
    Aside(u64, Option<Value>),
    /// The other side closed, in order or not.
    Lost,
    /// Nothing in the given time.
    Nothing,
}

/// The recorder of one connection.
#[derive(Debug)]
pub(super) struct Tape {
    recording: RecordingConnection,
    node: u16,
    /// Whose session the connection has.
    user: Option<String>,
    open: BTreeMap<u64, (Open, Call)>,
}

impl Tape {
    pub fn new(client: &RecordingClient, node: u16) -> Tape {
        Tape {
            recording: client.connect(node),
            node,
            user: None,
            open: BTreeMap::new(),
        }
    }

    /// Request number `id` is about to be written. `user`: of a request that names its user; else the session's.
    pub fn asked(&mut self, id: u64, user: Option<&str>, call: Call) {
        let user = user.or(self.user.as_deref());
        let open = self.recording.invoke(user, call.clone());
        self.open.insert(id, (open, call));
    }

    /// As [`Tape::asked`], from the line. Requests that the checker does not judge are not recorded.
    pub fn asked_line(&mut self, line: &str) {
        if let Ok(Request { id, op }) = Request::parse(line)
            && let Some((user, call)) = call_of(op)
        {
            self.asked(id, user.as_deref(), call);
        }
    }

    /// A line came from the node.
    ///
    /// # Errors
    /// For people, when it is neither an answer nor an event.
    pub fn heard(&mut self, line: &str) -> Result<Heard, String> {
        let wrong = |why: &str| {
            let node = self.node;
            format!("node {node} said what is no answer and no event: {line}{why}")
        };
        let mut value: Value = serde_json::from_str(line).map_err(|_| wrong(""))?;
        if value.get("event").is_some() {
            let event = Event::read(value).map_err(|e| wrong(&format!(": {e}")))?;
            return Ok(event.map_or(Heard::Nothing, |event| {
                self.recording.shown(event.clone());
                Heard::Event(event)
            }));
        }
        let id = value["id"].as_u64().ok_or_else(|| wrong(""))?;
        let ok = value.get_mut("ok").map(Value::take);
        let Some((open, call)) = self.open.remove(&id) else {
            return Ok(Heard::Aside(id, ok));
        };
        let answer = match ok {
            Some(ok) => Answer::Ok(Reply::read(&call, ok).map_err(|e| wrong(&format!(": {e}")))?),
            None => {
                let text = |key: &str| value["error"][key].as_str().unwrap_or_default().to_owned();
                Answer::refused(&text("code"), &text("outcome"))
            }
        };
        self.recording.complete(open, answer.clone());
        match (&call, &answer) {
            (_, Answer::Ok(Reply::LoggedIn { user, .. } | Reply::Resumed { user, .. })) => {
                self.user = Some(user.clone());
            }
            (Call::Logout, Answer::Ok(_)) => self.user = None,
            _ => {}
        }
        Ok(Heard::Answer(id, answer))
    }

    /// Claims for the client of this connection that it was shown all messages to a user after an id.
    pub fn kept_up(&self, user: &str, after: u64) {
        self.recording.kept_up(user, after);
    }
}

/// What the history calls a request, and the user that it names for itself; `None` for what the checker does not judge.
fn call_of(op: Op) -> Option<(Option<String>, Call)> {
    let is_linear = |consistency| consistency == Consistency::Linear;
    let call = match op {
        Op::Register {
            user,
            password,
            key,
        } => Call::Register {
            user,
            password,
            key,
        },
        Op::Login { user, password } => Call::Login { user, password },
        Op::Resume { token, consistency } => Call::Resume {
            token,
            linear: is_linear(consistency),
        },
        Op::Logout {} => Call::Logout,
        Op::Password { old, new, key } => Call::Password { old, new, key },
        Op::Delete {
            password,
            key,
            user,
        } => return Some((user, Call::Delete { password, key })),
        Op::Users {
            pattern,
            after,
            limit,
            consistency,
        } => Call::Users {
            pattern,
            after,
            limit,
            linear: is_linear(consistency),
        },
        Op::Send { to, body, key } => Call::Send { to, body, key },
        Op::Inbox {
            after,
            limit,
            consistency,
        } => Call::Inbox {
            after: after.unwrap_or(0),
            limit,
            linear: is_linear(consistency),
        },
        Op::Sync {
            after,
            limit,
            consistency,
        } => Call::Sync {
            after,
            limit,
            linear: is_linear(consistency),
        },
        Op::Ack { through } => Call::Ack { through },
        Op::History {
            with,
            before,
            limit,
            consistency,
        } => Call::History {
            with,
            before,
            limit,
            linear: is_linear(consistency),
        },
        Op::Hello {} | Op::Status {} | Op::Campaign {} | Op::Ping {} => return None,
    };
    Some((None, call))
}

#[cfg(test)]
mod tests {
    use messagebase_checker::{Answer, Call, Recorder, Reply};

    use super::{Heard, Tape};

    #[test]
    fn a_session_is_recorded_from_its_lines() {
        let recorder = Recorder::new();
        let mut tape = Tape::new(&recorder.client(), 2);
        tape.asked_line(r#"{"id":1,"op":"login","user":"anna","password":"secret"}"#);
        tape.asked_line(r#"{"id":2,"op":"ping"}"#);
        let login = tape.heard(r#"{"id":1,"ok":{"user":"anna","token":"t","queued":0}}"#);
        assert!(matches!(
            login,
            Ok(Heard::Answer(1, Answer::Ok(Reply::LoggedIn { .. })))
        ));
        let ping = tape.heard(r#"{"id":2,"ok":{"ready":true}}"#);
        assert!(matches!(ping, Ok(Heard::Aside(2, Some(_)))));
        tape.asked_line(r#"{"id":3,"op":"send","to":"ben","body":"hi","key":"k"}"#);
        let send =
            tape.heard(r#"{"id":3,"ok":{"id":7,"sent_at":5,"duplicate":false,"online":false}}"#);
        assert!(matches!(send, Ok(Heard::Answer(3, Answer::Ok(_)))));
        assert!(tape.heard("no line of the protocol").is_err());

        let history = recorder.finish();
        assert_eq!(history.attempts.len(), 2);
        let send = &history.attempts[1];
        assert_eq!((send.node, send.user.as_deref()), (2, Some("anna")));
        assert!(matches!(&send.call, Call::Send { key, .. } if key == "k"));
    }
}
