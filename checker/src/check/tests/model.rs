//! A small model of the service that keeps every promise, and histories out of it: whatever clients do and whichever
//! answers are lost, the checker must find nothing.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::{login, register};
use crate::{
    Answer, Call, Event, History, Message, Open, Recorder, RecordingClient, RecordingConnection,
    Reply,
};

/// What happens next, to one of the clients.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Send {
        to: usize,
    },
    Inbox,
    Sync,
    Ack,
    /// The oldest request that was not carried out is.
    Apply,
    /// The oldest answer arrives.
    Answer,
    /// The oldest event arrives.
    Show,
    /// The connection breaks; another one takes the session up and repeats what was unanswered.
    Lose,
}

/// Ben has two clients.
const USERS: [&str; 4] = ["anna", "ben", "carl", "ben"];

struct Request {
    open: Open,
    call: Call,
    answer: Option<Answer>,
}

struct Client {
    recording: RecordingClient,
    connection: RecordingConnection,
    user: &'static str,
    token: String,
    requests: VecDeque<Request>,
    events: VecDeque<Message>,
}

struct World {
    recorder: Recorder,
    clients: Vec<Client>,
    messages: Vec<Message>,
    keys: BTreeMap<(String, String), u64>,
    bodies: u64,
}

impl World {
    fn new() -> World {
        let recorder = Recorder::new();
        let client = |(number, user): (usize, &&'static str)| {
            let recording = recorder.client();
            let mut connection = recording.connect(1);
            register(&mut connection, user, "password 1");
            let token = format!("token {number}");
            login(&mut connection, user, "password 1", &token);
            let (requests, events) = (VecDeque::new(), VecDeque::new());
            Client {
                recording,
                connection,
                user,
                token,
                requests,
                events,
            }
        };
        let clients = USERS.iter().enumerate().map(client).collect();
        World {
            recorder,
            clients,
            messages: Vec::new(),
            keys: BTreeMap::new(),
            bodies: 0,
        }
    }

    fn step(&mut self, who: usize, step: Step) {
        let call = match step {
            Step::Send { to } => {
                self.bodies += 1;
                let (body, key) = (
                    format!("body {}", self.bodies),
                    format!("key {}", self.bodies),
                );
                Call::Send {
                    to: USERS[to].into(),
                    body,
                    key,
                }
            }
            Step::Inbox => Call::Inbox {
                after: 0,
                limit: Some(3),
                linear: true,
            },
            Step::Sync => Call::Sync {
                after: 0,
                limit: None,
                linear: true,
            },
            Step::Ack => {
                let user = self.clients[who].user;
                let Some(newest) = self.messages.iter().rfind(|m| m.to == user) else {
                    return;
                };
                Call::Ack { through: newest.id }
            }
            Step::Apply => return self.apply(who),
            Step::Answer => {
                let client = &mut self.clients[who];
                if let Some(request) = client.requests.pop_front_if(|r| r.answer.is_some()) {
                    client
                        .connection
                        .complete(request.open, request.answer.expect("just seen"));
                }
                return;
            }
            Step::Show => {
                let client = &mut self.clients[who];
                if let Some(message) = client.events.pop_front() {
                    client.connection.shown(Event::Message(message));
                }
                return;
            }
            Step::Lose => return self.lose(who),
        };
        self.ask(who, call);
    }

    fn ask(&mut self, who: usize, call: Call) {
        let client = &mut self.clients[who];
        let open = client.connection.invoke(Some(client.user), call.clone());
        client.requests.push_back(Request {
            open,
            call,
            answer: None,
        });
    }

    fn apply(&mut self, who: usize) {
        let Some(at) = self.clients[who]
            .requests
            .iter()
            .position(|r| r.answer.is_none())
        else {
            return;
        };
        let call = self.clients[who].requests[at].call.clone();
        let user = self.clients[who].user;
        let reply = match call {
            Call::Send { to, body, key } => self.send(who, user, &to, &body, key),
            Call::Inbox { limit, .. } => {
                let queued = self
                    .messages
                    .iter()
                    .filter(|m| m.to == user && m.delivered_at.is_none());
                let all: Vec<Message> = queued.cloned().collect();
                let limit = limit.unwrap_or(100) as usize;
                Reply::Page {
                    more: all.len() > limit,
                    messages: all.into_iter().take(limit).collect(),
                }
            }
            Call::Sync { .. } => {
                let mine = self
                    .messages
                    .iter()
                    .filter(|m| m.to == user || m.from == user);
                Reply::Page {
                    messages: mine.cloned().collect(),
                    more: false,
                }
            }
            Call::Ack { through } => {
                let mine = self
                    .messages
                    .iter_mut()
                    .filter(|m| m.to == user && m.id <= through);
                mine.for_each(|m| _ = m.delivered_at.get_or_insert(9_999));
                Reply::Done
            }
            other => unreachable!("the model asks no {other:?}"),
        };
        self.clients[who].requests[at].answer = Some(Answer::Ok(reply));
    }

    fn send(&mut self, who: usize, user: &str, to: &str, body: &str, key: String) -> Reply {
        let next = self.messages.len() as u64 + 1;
        let id = *self.keys.entry((user.to_owned(), key)).or_insert(next);
        let sent_at = 1_000 + id;
        if id < next {
            return Reply::Sent {
                id,
                sent_at,
                duplicate: true,
            };
        }
        let (from, to, body) = (user.to_owned(), to.to_owned(), body.to_owned());
        let message = Message {
            id,
            from,
            to,
            body,
            sent_at,
            delivered_at: None,
        };
        for (number, client) in self.clients.iter_mut().enumerate() {
            if client.user == message.to || (client.user == user && number != who) {
                client.events.push_back(message.clone());
            }
        }
        self.messages.push(message);
        Reply::Sent {
            id,
            sent_at,
            duplicate: false,
        }
    }

    fn lose(&mut self, who: usize) {
        let client = &mut self.clients[who];
        client.events.clear();
        client.connection = client.recording.connect(2);
        let resume = client.connection.invoke(
            None,
            Call::Resume {
                token: client.token.clone(),
                linear: true,
            },
        );
        client.connection.complete(
            resume,
            Answer::Ok(Reply::Resumed {
                user: client.user.into(),
                linear: true,
            }),
        );
        let unanswered: Vec<Call> = client.requests.drain(..).map(|r| r.call).collect();
        unanswered.into_iter().for_each(|call| self.ask(who, call));
    }

    fn finish(self) -> History {
        for user in ["anna", "ben", "carl"] {
            let mine = self
                .messages
                .iter()
                .filter(|m| m.to == user || m.from == user);
            self.recorder
                .mailbox(user, self.recorder.moment(), mine.cloned().collect());
        }
        let rows: Vec<String> = self.messages.iter().map(|m| format!("{m:?}")).collect();
        (1..=3).for_each(|node| self.recorder.rows(node, "messages", rows.clone()));
        self.recorder.finish()
    }
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        6 => (0..USERS.len()).prop_map(|to| Step::Send { to }),
        2 => Just(Step::Inbox),
        2 => Just(Step::Sync),
        1 => Just(Step::Ack),
        9 => Just(Step::Apply),
        7 => Just(Step::Answer),
        5 => Just(Step::Show),
        1 => Just(Step::Lose),
    ];
    (0..USERS.len(), step)
}

/// Histories up to this number of steps.
pub(super) fn histories(steps: usize) -> impl Strategy<Value = History> {
    proptest::collection::vec(step(), 0..steps).prop_map(|steps| {
        let mut world = World::new();
        steps
            .into_iter()
            .for_each(|(who, step)| world.step(who, step));
        world.finish()
    })
}

proptest! {
    #[test]
    fn a_service_that_keeps_its_promises_is_never_blamed(history in histories(200)) {
        let violations = crate::check(&history);
        prop_assert!(violations.is_empty(), "{}", crate::report(&violations));
    }
}
