//! One client of a storm: holds one account's session over whatever happens to its node. Resumes by token, repeats what
//! was not answered in order under the same keys before anything new, and fetches what it missed, as PROTOCOL.md 11 says.
//! What it does with that is in [`crate::storm::workload`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use messagebase_checker::{Answer, Call, Event, Message, RecordingClient, Reply};

use crate::client::PASSWORD;
use crate::storm::context::StormContext;
use crate::storm::faults::pause_until;
use crate::storm::plan::{Behavior, ClientPlan};
use crate::storm::recorded_client::RecordedClient;
use crate::storm::tape::Heard;

/// A client takes its node for lost when an answer takes longer (PROTOCOL.md 7).
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// Longest pause between two attempts to be served.
const BACKOFF_MAX: Duration = Duration::from_millis(320);
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
/// Messages of a page: small, so that pages and `more` are exercised.
const PAGE: u32 = 50;

/// A client could not go on before the run's patience ended. Its unanswered requests stay unanswered in the history.
#[derive(Debug)]
pub(super) struct GaveUp;

/// The client.
#[derive(Debug)]
pub struct StormClient {
    pub(super) context: Arc<StormContext>,
    pub(super) user: String,
    behavior: Behavior,
    tls: bool,
    pub(super) rng: Rng,
    /// In the history; a new one when it breaks off without repeating.
    recording: RecordingClient,
    /// Where it is or wants to be.
    pub(super) node: u16,
    connection: Option<RecordedClient>,
    token: Option<String>,
    registered: bool,
    /// Unlike those of every other client.
    stem: String,
    keys: u64,
    /// Every message to or from the user up to here was shown.
    pub(super) last: u64,
    /// The greatest shown id of a message to the user.
    pub(super) last_to_me: u64,
    /// What it has been shown begins after this id.
    since: u64,
    /// Events that came before all pages were fetched; `None` once they are.
    held: Option<Vec<Message>>,
}

impl StormClient {
    /// As planned; `number` is unlike that of every other client.
    pub fn new(context: Arc<StormContext>, number: usize, planned: &ClientPlan) -> StormClient {
        StormClient {
            recording: context.recorder.client(),
            context,
            user: planned.user.clone(),
            behavior: planned.behavior,
            tls: planned.tls,
            rng: Rng::with_seed(planned.seed),
            node: planned.node,
            connection: None,
            token: None,
            registered: false,
            stem: format!("g{number}"),
            keys: 0,
            last: 0,
            last_to_me: 0,
            since: 0,
            held: None,
        }
    }

    /// A client of the same place with an account of its own that does not exist yet.
    pub(super) fn companion(&mut self, user: &str) -> StormClient {
        self.keys += 1;
        StormClient {
            recording: self.context.recorder.client(),
            context: Arc::clone(&self.context),
            user: user.to_owned(),
            behavior: self.behavior,
            tls: self.tls,
            rng: Rng::with_seed(self.rng.u64(..)),
            node: self.node,
            connection: None,
            token: None,
            registered: false,
            stem: format!("{}c{}", self.stem, self.keys),
            keys: 0,
            last: 0,
            last_to_me: 0,
            since: 0,
            held: None,
        }
    }

    /// A key that nobody else uses.
    pub(super) fn key(&mut self) -> String {
        self.keys += 1;
        format!("{}-{}", self.stem, self.keys)
    }

    /// The line is dead, or the client wants away: nothing is read from it any more.
    pub(super) fn hang_up(&mut self) {
        if let Some(connection) = self.connection.take()
            && let Some(wrong) = connection.wrong()
        {
            self.context.wrong(wrong.to_owned());
        }
    }

    /// Goes on as somebody who never repeats what is open: as another client of the history.
    pub(super) fn become_another(&mut self) {
        self.hang_up();
        self.recording = self.context.recorder.client();
        self.since = self.last;
    }

    /// Another node than this one, unless the client is one that stays.
    pub(super) fn move_on(&mut self) {
        let others = self.context.cluster.others(&[self.node]);
        if self.behavior == Behavior::Roaming && !others.is_empty() {
            self.node = others[self.rng.usize(..others.len())];
        }
    }

    /// The session has ended: a login is due.
    pub(super) fn forget_session(&mut self) {
        self.token = None;
        self.hang_up();
    }

    // ---- being served ----

    /// Tries nodes until one serves the account's session, with all that was missed fetched.
    pub(super) fn come_up(&mut self) -> Result<(), GaveUp> {
        let mut pause = BACKOFF_FIRST;
        while self.connection.is_none() {
            if self.context.out_of_patience() {
                return Err(GaveUp);
            }
            if self.enter() {
                break;
            }
            self.hang_up();
            self.move_on();
            let jitter = Duration::from_millis(
                self.rng
                    .u64(0..=u64::try_from(pause.as_millis()).unwrap_or(0)),
            );
            pause_until(Instant::now() + jitter);
            pause = (pause * 2).min(BACKOFF_MAX);
        }
        Ok(())
    }

    /// One attempt at one node.
    fn enter(&mut self) -> bool {
        self.connection =
            RecordedClient::dial(&self.context.cluster, self.node, self.tls, &self.recording);
        if self.connection.is_none() {
            return false;
        }
        self.held = Some(Vec::new());
        let linear = match self.token.clone() {
            Some(token) => {
                // Most people are not in a hurry; some read before it is clear who leads.
                let linear = self.context.is_over() || self.rng.u8(0..8) != 0;
                if !self.resume(token, linear) {
                    return false;
                }
                linear
            }
            None => {
                if !(self.registered || self.register()) || !self.login() {
                    return false;
                }
                true
            }
        };
        self.catch_up(linear)
    }

    /// One request and its answer; what is shown meanwhile is taken in. `None`: the connection is of no more use.
    pub(super) fn ask(&mut self, call: Call) -> Option<Answer> {
        let mut seen = Vec::new();
        let answer = self
            .connection
            .as_mut()?
            .ask(call, ANSWER_WITHIN, &mut |event| seen.push(event));
        let ended = seen.into_iter().any(|event| self.take_in(event));
        if answer.is_none() || ended {
            self.hang_up();
        }
        answer
    }

    fn register(&mut self) -> bool {
        // The same key on every node and by both clients of a shared account: the first one makes it for both.
        let (user, password) = (self.user.clone(), PASSWORD.to_owned());
        let key = format!("register {user}");
        if self.context.passwords(&user).is_empty() {
            self.context.may_have(&user, PASSWORD);
        }
        let answer = self.ask(Call::Register {
            user,
            password,
            key,
        });
        self.registered = matches!(answer, Some(Answer::Ok(_)));
        self.registered
    }

    fn login(&mut self) -> bool {
        for password in self.context.passwords(&self.user) {
            match self.ask(Call::Login {
                user: self.user.clone(),
                password,
            }) {
                Some(Answer::Ok(Reply::LoggedIn { token, .. })) => {
                    self.token = Some(token);
                    return true;
                }
                Some(answer) if answer.not_done() == Some("bad_credentials") => {}
                _ => return false,
            }
        }
        false
    }

    fn resume(&mut self, token: String, linear: bool) -> bool {
        let answer = self.ask(Call::Resume { token, linear });
        if let Some("bad_credentials" | "locked") = answer.as_ref().and_then(Answer::not_done) {
            self.token = None;
        }
        matches!(answer, Some(Answer::Ok(_)))
    }

    /// Pages of `sync` from what was shown last.
    fn catch_up(&mut self, linear: bool) -> bool {
        loop {
            let call = Call::Sync {
                after: self.last,
                limit: Some(PAGE),
                linear,
            };
            let Some(Answer::Ok(Reply::Page { messages, more })) = self.ask(call) else {
                return false;
            };
            let came = !messages.is_empty();
            messages.iter().for_each(|message| self.show(message));
            if !more {
                self.held
                    .take()
                    .unwrap_or_default()
                    .iter()
                    .for_each(|message| self.show(message));
                return true;
            }
            if !came {
                self.context.wrong(format!(
                    "an empty page of sync for {} says that more follows",
                    self.user
                ));
                return false;
            }
        }
    }

    fn show(&mut self, message: &Message) {
        self.last = self.last.max(message.id);
        if message.to == self.user {
            self.last_to_me = self.last_to_me.max(message.id);
        }
    }

    /// Takes an event in; true when it is the last one of this connection.
    fn take_in(&mut self, event: Event) -> bool {
        match event {
            Event::Message(message) => {
                // What comes before the pages are fetched must not move the cursor over what they hold.
                match &mut self.held {
                    Some(held) => held.push(message),
                    None => self.show(&message),
                }
                false
            }
            Event::Delivered { .. } => false,
            Event::Closing { reason } => {
                if ["logout", "locked", "deleted"].contains(&reason.as_str()) {
                    self.token = None;
                }
                true
            }
        }
    }

    /// Listens for a while.
    pub(super) fn listen(&mut self, for_: Duration) {
        let until = Instant::now() + for_;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(connection) = &mut self.connection else {
                pause_until(until);
                return;
            };
            match connection.hear(left) {
                Heard::Event(event) => {
                    if self.take_in(event) {
                        self.hang_up();
                    }
                }
                Heard::Lost => {
                    self.hang_up();
                    self.move_on();
                }
                Heard::Answer(..) | Heard::Aside(..) | Heard::Nothing if left.is_zero() => return,
                Heard::Answer(..) | Heard::Aside(..) | Heard::Nothing => {}
            }
        }
    }

    // ---- writing ----

    /// Writes all of these without waiting in between and goes on, over other nodes if need be, until each is answered for
    /// good. What is not answered is repeated in order before anything else.
    pub(super) fn insist(&mut self, calls: Vec<Call>) -> Result<Vec<Answer>, GaveUp> {
        let mut answers: Vec<Option<Answer>> = vec![None; calls.len()];
        let mut pause = BACKOFF_FIRST;
        loop {
            self.come_up()?;
            self.post_open(&calls, &mut answers);
            if let Some(done) = answers.iter().cloned().collect() {
                return Ok(done);
            }
            if self.context.out_of_patience() {
                return Err(GaveUp);
            }
            // Without a quorum a node may say so at once: a client that repeats at once would do nothing else.
            self.listen(pause);
            pause = (pause * 2).min(BACKOFF_MAX);
            if self.rng.bool() && self.behavior == Behavior::Roaming {
                self.hang_up();
                self.move_on();
            }
        }
    }

    /// One round over one connection.
    fn post_open(&mut self, calls: &[Call], answers: &mut [Option<Answer>]) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let mut open: BTreeMap<u64, usize> = BTreeMap::new();
        for (at, call) in calls
            .iter()
            .enumerate()
            .filter(|(at, _)| answers[*at].is_none())
        {
            open.insert(connection.post(call.clone()), at);
        }
        let mut refused = Vec::new();
        let mut until = Instant::now() + ANSWER_WITHIN;
        while !open.is_empty() {
            let Some(connection) = &mut self.connection else {
                break;
            };
            let left = until.saturating_duration_since(Instant::now());
            match connection.hear(left) {
                Heard::Answer(id, answer) => {
                    let Some(at) = open.remove(&id) else { continue };
                    until = Instant::now() + ANSWER_WITHIN;
                    match &answer {
                        Answer::Ok(_) => answers[at] = Some(answer),
                        Answer::Refused { .. } if answer.not_done().is_some() => {
                            refused.push((at, answer))
                        }
                        _ => {}
                    }
                }
                Heard::Event(event) => {
                    if self.take_in(event) {
                        self.hang_up();
                    }
                }
                Heard::Aside(..) | Heard::Nothing if left.is_zero() => {
                    self.hang_up();
                    self.move_on();
                }
                Heard::Aside(..) | Heard::Nothing => {}
                Heard::Lost => {
                    self.hang_up();
                    self.move_on();
                }
            }
        }
        self.settle_refused(refused, answers);
    }

    /// A refusal is final, unless its cause goes away by itself; then it is repeated, if nothing behind it was done: else
    /// the repetition would be out of order by the client's own doing.
    fn settle_refused(&mut self, refused: Vec<(usize, Answer)>, answers: &mut [Option<Answer>]) {
        let last_done = answers.iter().rposition(Option::is_some);
        for (at, answer) in refused {
            let code = answer.not_done().unwrap_or_default().to_owned();
            if code == "not_logged_in" {
                self.forget_session();
            }
            let passes = ["not_logged_in", "closing"].contains(&code.as_str());
            if !passes || last_done.is_some_and(|done| done > at) {
                answers[at] = Some(answer);
            }
        }
    }

    /// Writes these, reads nothing and hangs up: they are repeated elsewhere.
    pub(super) fn post_and_hang_up(&mut self, calls: &[Call]) -> Result<(), GaveUp> {
        self.come_up()?;
        if let Some(connection) = &mut self.connection {
            for call in calls {
                let _ = connection.post(call.clone());
            }
        }
        self.hang_up();
        self.move_on();
        Ok(())
    }

    /// Deletes the account, repeating under the same key until it is answered for good, also when the session is gone.
    pub(super) fn delete_account(&mut self) -> Result<(), GaveUp> {
        let (user, key) = (self.user.clone(), self.key());
        let Some(password) = self.context.passwords(&user).first().cloned() else {
            return Ok(());
        };
        let call = Call::Delete { password, key };
        loop {
            if self.context.out_of_patience() {
                return Err(GaveUp);
            }
            if self.connection.is_none() && !self.enter() {
                self.hang_up();
                self.move_on();
                pause_until(Instant::now() + BACKOFF_FIRST);
                if self.token.is_some() {
                    continue;
                }
                // The session is dead, perhaps because the account is: the key knows.
                self.connection = RecordedClient::dial(
                    &self.context.cluster,
                    self.node,
                    self.tls,
                    &self.recording,
                );
            }
            let Some(connection) = &mut self.connection else {
                continue;
            };
            let id = connection.post_for(Some(&user), call.clone());
            if let Some(Answer::Ok(_)) = self.answer_to(id) {
                self.hang_up();
                return Ok(());
            }
            self.hang_up();
        }
    }

    /// The answer to one request that was posted.
    fn answer_to(&mut self, id: u64) -> Option<Answer> {
        let until = Instant::now() + ANSWER_WITHIN;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.connection.as_mut()?.hear(left) {
                Heard::Answer(answered, answer) if answered == id => return Some(answer),
                Heard::Lost => return None,
                _ if left.is_zero() => return None,
                _ => {}
            }
        }
    }

    /// Asks for something that the history does not hold.
    pub(super) fn aside(&mut self, op: &str) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let id = connection.post_aside(op);
        let until = Instant::now() + ANSWER_WITHIN;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(connection) = &mut self.connection else {
                return;
            };
            match connection.hear(left) {
                Heard::Aside(answered, _) if answered == id => return,
                Heard::Event(event) => {
                    if self.take_in(event) {
                        self.hang_up();
                    }
                }
                Heard::Lost => return self.hang_up(),
                Heard::Answer(..) | Heard::Aside(..) | Heard::Nothing if left.is_zero() => {
                    return self.hang_up();
                }
                Heard::Answer(..) | Heard::Aside(..) | Heard::Nothing => {}
            }
        }
    }

    /// The last thing: fetches what was missed and claims to have missed nothing. Nobody may write any more.
    ///
    /// # Errors
    /// For people, when the cluster does not serve it.
    pub fn finish(mut self) -> Result<(), String> {
        let failed = |client: &StormClient| {
            format!("{} could not fetch what it missed in the end", client.user)
        };
        self.hang_up();
        if self.come_up().is_err() || !self.catch_up(true) {
            return Err(failed(&self));
        }
        let Some(connection) = &self.connection else {
            return Err(failed(&self));
        };
        connection.kept_up(&self.user, self.since);
        Ok(())
    }
}
