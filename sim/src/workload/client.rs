//! One client: has an account, a session and, one after the other, connections to nodes. What was not answered it
//! repeats in order under the same keys, over the next connection, before anything new.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use messagebase_checker::{Answer, Call, Recorder, RecordingClient, RecordingConnection, Reply};
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use super::door::{self, Session, Token};
use super::{Defect, USERS, user};
use crate::net::Net;
use crate::rng::Rng;

/// Between two requests, ms.
const THINK_MS: (u64, u64) = (2, 60);
/// Pause after a failed attempt, ms.
const AGAIN_MS: (u64, u64) = (5, 50);
/// Sends pipelined at most.
const PIPELINED: u64 = 4;
/// Messages of a page: small, so that pages go on.
const PAGE: u32 = 7;
/// Attempts to hear everything in the end, over all nodes; then the client claims nothing.
const LAST_ATTEMPTS: u32 = 200;

/// See the file.
pub(super) struct Client {
    number: usize,
    name: String,
    password: String,
    net: Net,
    rng: Rng,
    over: Arc<AtomicBool>,
    /// Clients that may still send.
    writing: Arc<AtomicUsize>,
    recording: RecordingClient,
    /// Connection, its node, and its session.
    at: Option<(RecordingConnection, u16, Session)>,
    token: Option<Token>,
    /// Asked and not answered, oldest first.
    unanswered: Vec<Call>,
    keys: u64,
    /// Everything up to here was shown by `sync`.
    last: u64,
    /// The greatest shown id of a message to this user.
    last_to_me: u64,
    defect: Option<Defect>,
}

impl Client {
    pub fn new(
        recorder: &Recorder,
        number: usize,
        name: String,
        net: Net,
        rng: Rng,
        over: Arc<AtomicBool>,
        writing: Arc<AtomicUsize>,
    ) -> Client {
        Client {
            number,
            password: format!("password of {name}"),
            name,
            net,
            rng,
            over,
            writing,
            recording: recorder.client(),
            at: None,
            token: None,
            unanswered: Vec::new(),
            keys: 0,
            last: 0,
            last_to_me: 0,
            defect: None,
        }
    }

    /// Its nodes have this defect.
    pub fn with_defect(mut self, defect: Option<Defect>) -> Client {
        self.defect = defect;
        self
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn key(&mut self) -> String {
        self.keys += 1;
        format!("{}-{}", self.number, self.keys)
    }

    fn node(&mut self) -> Option<u16> {
        let nodes: Vec<u16> = self
            .net
            .stations()
            .iter()
            .map(|s| messagebase_daemon::raft::node_of(s.raft_id))
            .collect();
        self.rng.pick(&nodes)
    }

    async fn pause(&mut self, (least, most): (u64, u64)) {
        SimRuntime::sleep(self.rng.millis(least, most)).await;
    }

    /// Lives until it is over, then hears what there is to hear.
    pub async fn live(mut self) {
        self.have_account().await;
        while !self.over() {
            self.pause(THINK_MS).await;
            if !self.have_session().await {
                self.pause(AGAIN_MS).await;
                continue;
            }
            self.act().await;
        }
        for _ in 0..LAST_ATTEMPTS {
            if self.have_session().await {
                break;
            }
            self.pause(AGAIN_MS).await;
        }
        // Who hears everything has to listen after the last message was sent.
        self.writing.fetch_sub(1, Ordering::SeqCst);
        while self.writing.load(Ordering::SeqCst) > 0 {
            self.pause(AGAIN_MS).await;
        }
        for _ in 0..LAST_ATTEMPTS {
            if self.have_session().await && self.catch_up(true).await {
                return self.recording.kept_up(&self.name, 0);
            }
            self.pause(AGAIN_MS).await;
        }
    }

    async fn have_account(&mut self) {
        let (user, password) = (self.name.clone(), self.password.clone());
        let key = format!("register {user}");
        let call = Call::Register {
            user: user.clone(),
            password: password.clone(),
            key: key.clone(),
        };
        loop {
            if let Some(node) = self.node() {
                let mut connection = self.recording.connect(node);
                let open = connection.invoke(None, call.clone());
                let answer = door::register(&self.net, node, &user, &password, &key)
                    .await
                    .unwrap_or(Answer::Nothing);
                connection.complete(open, answer.clone());
                if answer.ok().is_some() || answer.not_done().is_some() {
                    return;
                }
            }
            self.pause(AGAIN_MS).await;
        }
    }

    /// A connection with a session, and everything answered that was open. False: not now.
    async fn have_session(&mut self) -> bool {
        if self.at.is_none() && !self.enter().await {
            return false;
        }
        if self.unanswered.is_empty() {
            return true;
        }
        let again = std::mem::take(&mut self.unanswered);
        self.write(again).await;
        self.at.is_some() && self.unanswered.is_empty()
    }

    async fn enter(&mut self) -> bool {
        let Some(node) = self.node() else {
            return false;
        };
        let mut connection = self.recording.connect(node);
        let (call, token) = match self.token {
            Some(token) => (
                Call::Resume {
                    token: door::text(token),
                    linear: true,
                },
                token,
            ),
            None => {
                let token = std::array::from_fn(|_| self.rng.draw() as u8);
                (
                    Call::Login {
                        user: self.name.clone(),
                        password: self.password.clone(),
                    },
                    token,
                )
            }
        };
        let open = connection.invoke(None, call);
        let told = match self.token {
            Some(token) => door::resume(&self.net, node, token).await,
            None => door::login(&self.net, node, &self.name, &self.password, token).await,
        };
        let (answer, session) = told.unwrap_or((Answer::Nothing, None));
        connection.complete(open, answer.clone());
        match (session, answer.not_done()) {
            (Some(session), _) => {
                self.token = Some(token);
                self.at = Some((connection, node, session));
                true
            }
            // The other client of this account has changed it: the session is over, or the password.
            (None, Some("bad_credentials")) if self.token.take().is_none() => {
                self.password = self.other_password();
                false
            }
            (None, _) => false,
        }
    }

    fn other_password(&self) -> String {
        let first = format!("password of {}", self.name);
        if self.password == first {
            format!("second password of {}", self.name)
        } else {
            first
        }
    }

    /// Writes, pipelined; what is not answered for good stays to be repeated.
    async fn write(&mut self, calls: Vec<Call>) {
        let Some((connection, node, session)) = &mut self.at else {
            return self.unanswered.extend(calls);
        };
        let open: Vec<_> = calls
            .iter()
            .map(|call| connection.invoke(Some(&self.name), call.clone()))
            .collect();
        let answers = door::write(&self.net, *node, *session, &calls, self.defect).await;
        let lost = answers.is_none();
        let answers = answers.unwrap_or_else(|| vec![Answer::Nothing; calls.len()]);
        let mut ended = false;
        for ((open, call), answer) in open.into_iter().zip(calls).zip(answers) {
            connection.complete(open, answer.clone());
            ended |= answer.not_done() == Some("not_logged_in");
            // Repeated also when only its session had ended.
            let again = matches!(answer, Answer::Nothing)
                || answer.ok().is_none() && answer.not_done().is_none();
            if again && call != Call::Logout {
                self.unanswered.push(call);
            }
        }
        if lost || ended {
            self.at = None;
        }
        if ended {
            self.token = None;
        }
    }

    /// Reads; `None`: there was no page.
    async fn read(&mut self, call: Call) -> Option<Reply> {
        let (connection, node, session) = self.at.as_mut()?;
        let open = connection.invoke(Some(&self.name), call.clone());
        let answer = door::look(&self.net, *node, *session, &call, self.defect)
            .await
            .unwrap_or(Answer::Nothing);
        connection.complete(open, answer.clone());
        if answer == Answer::Nothing {
            self.at = None;
        }
        if answer.not_done() == Some("not_logged_in") {
            (self.at, self.token) = (None, None);
        }
        answer.ok().cloned()
    }

    /// Pages of `sync` from what was shown; true when there are no more.
    async fn catch_up(&mut self, to_the_end: bool) -> bool {
        loop {
            let call = Call::Sync {
                after: self.last,
                limit: Some(PAGE),
                linear: true,
            };
            let Some(Reply::Page { messages, more }) = self.read(call).await else {
                return false;
            };
            for message in messages {
                self.last = self.last.max(message.id);
                if message.to == self.name {
                    self.last_to_me = self.last_to_me.max(message.id);
                }
            }
            if !more || !to_the_end {
                return !more;
            }
        }
    }

    async fn act(&mut self) {
        match self.rng.between(0, 99) {
            0..50 => {
                let many = self.rng.between(1, PIPELINED);
                let calls = (0..many).map(|_| self.message()).collect();
                self.write(calls).await;
            }
            50..65 => {
                self.catch_up(false).await;
            }
            65..75 => {
                let linear = !self.rng.hits(200);
                let reply = self
                    .read(Call::Inbox {
                        after: 0,
                        limit: Some(PAGE),
                        linear,
                    })
                    .await;
                if let Some(Reply::Page { messages, .. }) = reply
                    && let Some(newest) = messages.last()
                {
                    self.last_to_me = self.last_to_me.max(newest.id);
                }
            }
            75..83 if self.last_to_me > 0 => {
                self.write(vec![Call::Ack {
                    through: self.last_to_me,
                }])
                .await
            }
            83..89 => {
                let with = self.somebody();
                drop(
                    self.read(Call::History {
                        with,
                        before: None,
                        limit: Some(PAGE),
                        linear: true,
                    })
                    .await,
                );
            }
            89..94 => drop(
                self.read(Call::Users {
                    pattern: None,
                    after: None,
                    limit: None,
                    linear: true,
                })
                .await,
            ),
            94..96 => self.write(vec![Call::Logout]).await,
            96..98 => self.change_password().await,
            // Another node, though this one is well.
            98..100 => self.at = None,
            _ => {}
        }
    }

    fn somebody(&mut self) -> String {
        user(self.rng.between(0, USERS as u64 - 1) as usize)
    }

    fn message(&mut self) -> Call {
        let (to, key) = (self.somebody(), self.key());
        let body = format!("{key} {}", "x".repeat(self.rng.between(0, 200) as usize));
        Call::Send { to, body, key }
    }

    async fn change_password(&mut self) {
        let (old, new, key) = (self.password.clone(), self.other_password(), self.key());
        let call = Call::Password {
            old: old.clone(),
            new: new.clone(),
            key: key.clone(),
        };
        while let Some((connection, node, session)) = &mut self.at {
            let open = connection.invoke(Some(&self.name), call.clone());
            let answer = door::password(&self.net, *node, *session, (&old, &new), &key)
                .await
                .unwrap_or(Answer::Nothing);
            connection.complete(open, answer.clone());
            if answer.ok().is_some() {
                self.password = new;
                return;
            }
            if answer == Answer::Nothing {
                // It may have happened; the next login finds out.
                self.at = None;
            } else if let Some(code) = answer.not_done() {
                if code != "bad_credentials" {
                    (self.at, self.token) = (None, None);
                }
                return;
            }
            self.pause(AGAIN_MS).await;
        }
    }
}
