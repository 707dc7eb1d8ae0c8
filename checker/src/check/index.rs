//! What all checks look up: sends by key and content, messages by id with when they were first known to be there, the
//! mailboxes' ids in order, acknowledgements and deletions by user, whose session a connection had.

use std::collections::{BTreeMap, HashMap};

use super::{Violation, describe};
use crate::history::{Answer, Attempt, Call, Event, History, Message, Reply};

/// Never.
pub(super) const NEVER: u64 = u64::MAX;

/// Names are unique without regard to case.
pub(super) fn fold(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// An operation that writes: between the first attempt that may have had an effect and the first `ok`.
#[derive(Debug, Clone)]
pub(super) struct Write<'h> {
    pub attempts: Vec<&'h Attempt>,
    /// Tick before which it had no effect.
    pub invoked: u64,
    /// Tick after which it is done; [`NEVER`] when nothing says so.
    pub completed: u64,
}

impl<'h> Write<'h> {
    pub fn new(mut attempts: Vec<&'h Attempt>) -> Write<'h> {
        attempts.sort_by_key(|a| a.invoked);
        let possible = attempts.iter().filter(|a| a.answer.not_done().is_none());
        let invoked = possible.map(|a| a.invoked.tick).min().unwrap_or(NEVER);
        let done = attempts.iter().filter(|a| a.answer.ok().is_some());
        let completed = done
            .filter_map(|a| a.completed)
            .map(|at| at.tick)
            .min()
            .unwrap_or(NEVER);
        Write {
            attempts,
            invoked,
            completed,
        }
    }

    /// Whether it may have had an effect at all.
    pub fn is_possible(&self) -> bool {
        self.invoked != NEVER
    }

    pub fn is_done(&self) -> bool {
        self.completed != NEVER
    }

    pub fn evidence(&self) -> Vec<String> {
        self.attempts.iter().map(|a| describe::attempt(a)).collect()
    }
}

/// All attempts to send one message under one key.
#[derive(Debug)]
pub(super) struct Send<'h> {
    pub from: String,
    pub to: String,
    pub body: &'h str,
    pub key: &'h str,
    pub write: Write<'h>,
    /// Its id as acknowledged, or by its content.
    pub id: Option<u64>,
}

/// A message that is known to be there.
#[derive(Debug)]
pub(super) struct Known {
    pub from: String,
    pub to: String,
    pub message: Message,
    /// Tick at which somebody first knew.
    pub known: u64,
    /// Tick at which somebody first knew that it was delivered.
    pub delivered: u64,
    /// Which of the sends; `None` is a violation of its own.
    pub send: Option<usize>,
    /// Where it was first seen.
    pub evidence: String,
}

/// Ids of one mailbox in order, and up to which one they were known at a moment.
#[derive(Debug, Default)]
pub(super) struct Ids {
    pub ids: Vec<u64>,
    /// (tick, greatest id known by then), both growing.
    known: Vec<(u64, u64)>,
}

impl Ids {
    fn finish(&mut self, mut known: Vec<(u64, u64)>) {
        known.sort_unstable();
        let mut greatest = 0;
        for (tick, id) in known {
            if id > greatest {
                greatest = id;
                self.known.push((tick, id));
            }
        }
        self.ids.sort_unstable();
    }

    /// The greatest id that was known before `tick`.
    pub fn known_before(&self, tick: u64) -> u64 {
        let n = self.known.partition_point(|(at, _)| *at < tick);
        n.checked_sub(1).map_or(0, |last| self.known[last].1)
    }

    /// Those with `after < id <= through`.
    pub fn range(&self, after: u64, through: u64) -> &[u64] {
        let from = self.ids.partition_point(|id| *id <= after);
        let to = self.ids.partition_point(|id| *id <= through);
        &self.ids[from..to.max(from)]
    }
}

/// The acknowledgements of one user.
#[derive(Debug, Default)]
pub(super) struct Acks {
    /// (asked at, greatest `through` asked for by then); those that may have had an effect.
    maybe: Vec<(u64, u64)>,
    /// (answered at, greatest `through` answered by then).
    surely: Vec<(u64, u64)>,
}

impl Acks {
    /// Up to which id messages may be delivered at `tick`.
    pub fn maybe_before(&self, tick: u64) -> u64 {
        let n = self.maybe.partition_point(|(at, _)| *at < tick);
        n.checked_sub(1).map_or(0, |last| self.maybe[last].1)
    }

    /// Up to which id messages are delivered at `tick`.
    pub fn surely_before(&self, tick: u64) -> u64 {
        let n = self.surely.partition_point(|(at, _)| *at < tick);
        n.checked_sub(1).map_or(0, |last| self.surely[last].1)
    }
}

/// A login or resume that a connection began with, until the next one or for ever.
#[derive(Debug)]
pub(super) struct Session<'h> {
    pub user: String,
    pub token: &'h str,
    pub begun: &'h Attempt,
    /// When its answer was read.
    pub from: u64,
    /// When the next began, or [`NEVER`].
    pub until: u64,
}

/// Everything that the checks look up.
pub(super) struct Index<'h> {
    pub history: &'h History,
    pub sends: Vec<Send<'h>>,
    pub messages: BTreeMap<u64, Known>,
    /// To or from a user.
    pub of: HashMap<String, Ids>,
    /// To a user.
    pub to: HashMap<String, Ids>,
    pub acks: HashMap<String, Acks>,
    /// When a user's registration was first acknowledged, or [`NEVER`]; users that nobody registered in this history
    /// are not here, they were there before it.
    registered: HashMap<String, u64>,
    /// Deletions of a user that may have had an effect.
    pub deletions: HashMap<String, Vec<Write<'h>>>,
    /// By connection, in order.
    pub sessions: HashMap<u64, Vec<Session<'h>>>,
    contents: HashMap<(String, String), HashMap<&'h str, Vec<usize>>>,
}

impl<'h> Index<'h> {
    pub fn new(history: &'h History, found: &mut Vec<Violation>) -> Index<'h> {
        let mut index = Index {
            history,
            sends: sends(history),
            messages: BTreeMap::new(),
            of: HashMap::new(),
            to: HashMap::new(),
            acks: acks(history),
            registered: registered(history),
            deletions: deletions(history),
            sessions: sessions(history),
            contents: HashMap::new(),
        };
        for (number, send) in index.sends.iter().enumerate() {
            let between = index
                .contents
                .entry((send.from.clone(), send.to.clone()))
                .or_default();
            between.entry(send.body).or_default().push(number);
        }
        index.see_sends(found);
        index.see_pages(found);
        index.list();
        index
    }

    /// The sends that say what a message says.
    pub fn by_content(&self, known: &Known) -> &[usize] {
        let between = self.contents.get(&(known.from.clone(), known.to.clone()));
        between
            .and_then(|bodies| bodies.get(known.message.body.as_str()))
            .map_or(&[], Vec::as_slice)
    }

    /// Whether a send asked at `tick` surely met its recipient's account, if that was not deleted.
    pub fn is_registered_before(&self, user: &str, tick: u64) -> bool {
        self.registered.get(user).is_none_or(|at| *at < tick)
    }

    /// The session that a connection had at a tick; `None` before its login was answered.
    pub fn session_at(&self, connection: u64, tick: u64) -> Option<&Session<'h>> {
        let sessions = self.sessions.get(&connection)?;
        let n = sessions.partition_point(|session| session.from < tick);
        sessions.get(n.checked_sub(1)?)
    }

    /// Whether a message may rightly be missing in what `user` is shown at `tick`: accounts were deleted.
    pub fn may_be_gone(&self, known: &Known, user: &str, tick: u64) -> bool {
        let sent = known.send.map_or(0, |send| self.sends[send].write.invoked);
        let deleted = |name: &str| {
            let all = self.deletions.get(name).map_or(&[][..], Vec::as_slice);
            all.iter()
                .filter(move |d| d.invoked < tick && d.completed > sent)
                .map(|d| d.invoked)
                .min()
        };
        if deleted(user).is_some() {
            return true;
        }
        let acks = self.acks.get(&known.to);
        let kept = |at| {
            known.delivered < at
                || acks.is_some_and(|acks| acks.surely_before(at) >= known.message.id)
        };
        deleted(&known.to).is_some_and(|at| !kept(at))
    }

    fn see_sends(&mut self, found: &mut Vec<Violation>) {
        for number in 0..self.sends.len() {
            let attempts = self.sends[number].write.attempts.clone();
            for attempt in attempts {
                let Answer::Ok(Reply::Sent { id, sent_at, .. }) = attempt.answer else {
                    continue;
                };
                let send = &mut self.sends[number];
                let first = send.id.get_or_insert(id);
                // Another id for the same key is told by `keys`.
                if *first != id {
                    continue;
                }
                let (from, to) = (send.from.clone(), send.to.clone());
                let message = Message {
                    id,
                    from,
                    to,
                    body: send.body.to_owned(),
                    sent_at,
                    delivered_at: None,
                };
                let at = attempt.completed.map_or(NEVER, |at| at.tick);
                self.see(&message, at, || describe::attempt(attempt), found);
                if let Some(known) = self.messages.get_mut(&id) {
                    match known.send {
                        None => known.send = Some(number),
                        Some(other) if other != number => {
                            let what = format!("id {id} was given to two messages");
                            let mut evidence = self.sends[other].write.evidence();
                            evidence.extend(self.sends[number].write.evidence());
                            found.push(Violation::new("one id a message", what, evidence));
                        }
                        Some(_) => {}
                    }
                }
            }
        }
    }

    fn see_pages(&mut self, found: &mut Vec<Violation>) {
        let history = self.history;
        for attempt in &history.attempts {
            let Answer::Ok(Reply::Page { messages, .. }) = &attempt.answer else {
                continue;
            };
            let at = attempt.completed.map_or(NEVER, |at| at.tick);
            messages
                .iter()
                .for_each(|message| self.see(message, at, || describe::attempt(attempt), found));
        }
        for shown in &history.shown {
            let Event::Message(message) = &shown.event else {
                continue;
            };
            self.see(message, shown.at.tick, || describe::shown(shown), found);
        }
        for mailbox in &history.mailboxes {
            let place = || format!("the mailbox of {} in the end", mailbox.user);
            mailbox
                .messages
                .iter()
                .for_each(|message| self.see(message, NEVER, place, found));
        }
    }

    fn see(
        &mut self,
        message: &Message,
        at: u64,
        place: impl Fn() -> String,
        found: &mut Vec<Violation>,
    ) {
        let known = self.messages.entry(message.id).or_insert_with(|| Known {
            from: fold(&message.from),
            to: fold(&message.to),
            message: message.clone(),
            known: at,
            delivered: NEVER,
            send: None,
            evidence: place(),
        });
        known.known = known.known.min(at);
        if message.delivered_at.is_some() {
            known.delivered = known.delivered.min(at);
            let first = *known
                .message
                .delivered_at
                .get_or_insert(message.delivered_at.unwrap_or_default());
            if Some(first) != message.delivered_at {
                let what = format!(
                    "message {} was delivered twice: at {first} and {message:?}",
                    message.id
                );
                found.push(Violation::new(
                    "content",
                    what,
                    vec![known.evidence.clone(), place()],
                ));
            }
        }
        let same = (known.from.eq_ignore_ascii_case(&message.from)
            && known.to.eq_ignore_ascii_case(&message.to))
            && (known.message.body == message.body && known.message.sent_at == message.sent_at);
        if !same {
            let (here, there) = (
                describe::message_text(&known.message),
                describe::message_text(message),
            );
            let what = format!("one id, two messages: {here} and {there}");
            found.push(Violation::new(
                "content",
                what,
                vec![known.evidence.clone(), place()],
            ));
        }
    }

    /// The mailboxes' ids, once all messages are known.
    fn list(&mut self) {
        let mut of: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
        let mut to: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
        for (id, known) in &self.messages {
            to.entry(&known.to).or_default().push((known.known, *id));
            of.entry(&known.to).or_default().push((known.known, *id));
            if known.from != known.to {
                of.entry(&known.from).or_default().push((known.known, *id));
            }
        }
        let finish = |lists: HashMap<&str, Vec<(u64, u64)>>| {
            let ids = |known: Vec<(u64, u64)>| {
                let mut ids = Ids {
                    ids: known.iter().map(|(_, id)| *id).collect(),
                    known: Vec::new(),
                };
                ids.finish(known);
                ids
            };
            lists
                .into_iter()
                .map(|(user, known)| (user.to_owned(), ids(known)))
                .collect()
        };
        (self.of, self.to) = (finish(of), finish(to));
    }
}

fn sends(history: &History) -> Vec<Send<'_>> {
    let mut grouped: BTreeMap<(String, &str, String, &str), Vec<&Attempt>> = BTreeMap::new();
    for attempt in &history.attempts {
        let (Call::Send { to, body, key }, Some(user)) = (&attempt.call, &attempt.user) else {
            continue;
        };
        grouped
            .entry((fold(user), key, fold(to), body))
            .or_default()
            .push(attempt);
    }
    let send = |((from, key, to, body), attempts)| Send {
        from,
        to,
        body,
        key,
        write: Write::new(attempts),
        id: None,
    };
    grouped.into_iter().map(send).collect()
}

fn acks(history: &History) -> HashMap<String, Acks> {
    let mut all: HashMap<String, Acks> = HashMap::new();
    for attempt in &history.attempts {
        let (Call::Ack { through }, Some(user)) = (&attempt.call, &attempt.user) else {
            continue;
        };
        if attempt.answer.not_done().is_some() {
            continue;
        }
        let acks = all.entry(fold(user)).or_default();
        acks.maybe.push((attempt.invoked.tick, *through));
        if let (Some(at), Some(_)) = (attempt.completed, attempt.answer.ok()) {
            acks.surely.push((at.tick, *through));
        }
    }
    for acks in all.values_mut() {
        for list in [&mut acks.maybe, &mut acks.surely] {
            list.sort_unstable();
            let mut greatest = 0;
            for (_, through) in list {
                greatest = greatest.max(*through);
                *through = greatest;
            }
        }
    }
    all
}

fn registered(history: &History) -> HashMap<String, u64> {
    let mut registered = HashMap::new();
    for attempt in &history.attempts {
        if let Call::Register { user, .. } = &attempt.call {
            let done = attempt
                .completed
                .filter(|_| attempt.answer.ok().is_some())
                .map_or(NEVER, |at| at.tick);
            registered
                .entry(fold(user))
                .and_modify(|at: &mut u64| *at = done.min(*at))
                .or_insert(done);
        }
    }
    registered
}

fn deletions(history: &History) -> HashMap<String, Vec<Write<'_>>> {
    let mut grouped: BTreeMap<(String, &str), Vec<&Attempt>> = BTreeMap::new();
    for attempt in &history.attempts {
        let (Call::Delete { key, .. }, Some(user)) = (&attempt.call, &attempt.user) else {
            continue;
        };
        grouped.entry((fold(user), key)).or_default().push(attempt);
    }
    let mut all: HashMap<String, Vec<Write<'_>>> = HashMap::new();
    for ((user, _), attempts) in grouped {
        let write = Write::new(attempts);
        if write.is_possible() {
            all.entry(user).or_default().push(write);
        }
    }
    all
}

fn sessions(history: &History) -> HashMap<u64, Vec<Session<'_>>> {
    let mut all: HashMap<u64, Vec<Session<'_>>> = HashMap::new();
    for attempt in &history.attempts {
        let (user, token) = match (&attempt.call, &attempt.answer) {
            (_, Answer::Ok(Reply::LoggedIn { user, token })) => (user, token),
            (Call::Resume { token, .. }, Answer::Ok(Reply::Resumed { user, .. })) => (user, token),
            _ => continue,
        };
        let from = attempt.completed.map_or(NEVER, |at| at.tick);
        let session = Session {
            user: fold(user),
            token,
            begun: attempt,
            from,
            until: NEVER,
        };
        all.entry(attempt.connection).or_default().push(session);
    }
    for sessions in all.values_mut() {
        sessions.sort_by_key(|session| session.from);
        for i in 1..sessions.len() {
            sessions[i - 1].until = sessions[i].begun.invoked.tick;
        }
    }
    all
}
