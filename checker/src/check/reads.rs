//! Linear reads show everything that was known before they were asked for: a page without a message that belongs into
//! it is stale, a mailbox in the end without it has lost it. Pages of any consistency are in order and hold nothing
//! twice.

use std::collections::{HashMap, HashSet};

use super::index::{Index, Known, NEVER, fold};
use super::{Violation, describe};
use crate::history::{Answer, Attempt, Call, Message, Reply};

/// Missing messages told of one page.
const MISSING_MOST: usize = 3;

pub(super) fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    pages(index, found);
    mailboxes(index, found);
}

/// The pages that clients were answered.
fn pages(index: &Index<'_>, found: &mut Vec<Violation>) {
    let conversations = conversations(index);
    for attempt in &index.history.attempts {
        let (Answer::Ok(Reply::Page { messages, more }), Some(user)) =
            (&attempt.answer, &attempt.user)
        else {
            continue;
        };
        let place = || describe::attempt(attempt);
        sorted(messages, place, found);
        let user = fold(user);
        belongs(&user, attempt, messages, found);
        let mut page = Page {
            index,
            user: &user,
            messages,
            at: attempt.invoked.tick,
            promise: "linear reads",
            found,
        };
        let last = messages.last().map_or(0, |m| m.id);
        match &attempt.call {
            Call::Sync {
                after,
                linear: true,
                ..
            } => {
                let ids = index
                    .of
                    .get(&user)
                    .map(|ids| ids.range(*after, page.end(*more, last, ids.known_before(page.at))));
                page.holds(ids.unwrap_or_default(), place);
                page.stays_delivered(place);
            }
            Call::Inbox {
                after,
                linear: true,
                ..
            } => {
                let until = attempt.completed.map_or(NEVER, |at| at.tick);
                let acks = index.acks.get(&user);
                let acked = acks.map_or(0, |acks| acks.maybe_before(until));
                let ids = index.to.get(&user).map(|ids| {
                    ids.range(
                        acked.max(*after),
                        page.end(*more, last, ids.known_before(page.at)),
                    )
                });
                page.holds(ids.unwrap_or_default(), place);
                page.is_undelivered(place);
            }
            Call::History {
                with,
                before,
                linear: true,
                ..
            } => {
                let first = messages.first().filter(|_| *more).map_or(0, |m| m.id);
                let before = before.unwrap_or(NEVER);
                let between = conversations.get(&pair(&user, &fold(with)));
                let between = between.map_or(&[][..], Vec::as_slice);
                let from = between.partition_point(|id| *id < first);
                let to = between.partition_point(|id| *id < before);
                page.holds(&between[from..to.max(from)], place);
                page.stays_delivered(place);
            }
            _ => {}
        }
    }
}

/// The mailboxes in the end.
fn mailboxes(index: &Index<'_>, found: &mut Vec<Violation>) {
    for mailbox in &index.history.mailboxes {
        let place = || {
            format!(
                "the mailbox of {} in the end, {} messages",
                mailbox.user,
                mailbox.messages.len()
            )
        };
        sorted(&mailbox.messages, place, found);
        let user = fold(&mailbox.user);
        let (messages, at) = (mailbox.messages.as_slice(), mailbox.at.tick);
        let mut page = Page {
            index,
            user: &user,
            messages,
            at,
            promise: "nothing lost",
            found,
        };
        page.holds(
            index.of.get(&user).map_or(&[], |ids| ids.range(0, NEVER)),
            place,
        );
        page.stays_delivered(place);
    }
}

fn pair(a: &str, b: &str) -> (String, String) {
    (a.min(b).to_owned(), a.max(b).to_owned())
}

fn conversations(index: &Index<'_>) -> HashMap<(String, String), Vec<u64>> {
    let mut all: HashMap<(String, String), Vec<u64>> = HashMap::new();
    for (id, known) in &index.messages {
        all.entry(pair(&known.from, &known.to))
            .or_default()
            .push(*id);
    }
    all
}

fn sorted(messages: &[Message], place: impl Fn() -> String, found: &mut Vec<Violation>) {
    for wrong in messages.windows(2).filter(|pair| pair[0].id >= pair[1].id) {
        let (a, b) = (wrong[0].id, wrong[1].id);
        let what = if a == b {
            format!("message {a} is there twice")
        } else {
            format!("message {a} stands before {b}")
        };
        found.push(Violation::new("exactly once", what, vec![place()]));
    }
}

/// Nobody is shown what is neither to nor from them.
fn belongs(user: &str, attempt: &Attempt, messages: &[Message], found: &mut Vec<Violation>) {
    let inbox = matches!(attempt.call, Call::Inbox { .. });
    let other = |m: &&Message| {
        !m.to.eq_ignore_ascii_case(user) && (inbox || !m.from.eq_ignore_ascii_case(user))
    };
    if let Some(message) = messages.iter().find(other) {
        let what = format!("{user} was shown {}", describe::message_text(message));
        found.push(Violation::new(
            "nothing invented",
            what,
            vec![describe::attempt(attempt)],
        ));
    }
}

/// A page that was asked for at a tick.
struct Page<'a, 'h> {
    index: &'a Index<'h>,
    user: &'a str,
    messages: &'a [Message],
    at: u64,
    promise: &'static str,
    found: &'a mut Vec<Violation>,
}

impl Page<'_, '_> {
    /// Up to which id the page had to hold everything that was known.
    fn end(&self, more: bool, last: u64, known: u64) -> u64 {
        if more { last } else { known }
    }

    /// What was known in time is there.
    fn holds(&mut self, ids: &[u64], place: impl Fn() -> String) {
        let shown: HashSet<u64> = self.messages.iter().map(|m| m.id).collect();
        let missing = ids
            .iter()
            .filter(|id| !shown.contains(id))
            .map(|id| &self.index.messages[id]);
        let missing =
            missing.filter(|k| k.known < self.at && !self.index.may_be_gone(k, self.user, self.at));
        for known in missing.take(MISSING_MOST) {
            let what = format!(
                "{} is missing, though it was known at tick {} and this was asked at {}",
                describe::message_text(&known.message),
                known.known,
                self.at
            );
            let mut evidence = vec![known.evidence.clone()];
            evidence.extend(
                known
                    .send
                    .into_iter()
                    .flat_map(|send| self.index.sends[send].write.evidence()),
            );
            evidence.push(place());
            self.found
                .push(Violation::new(self.promise, what, evidence));
        }
    }

    fn was_delivered(&self, known: &Known) -> bool {
        let acked = self
            .index
            .acks
            .get(&known.to)
            .map_or(0, |acks| acks.surely_before(self.at));
        known.delivered < self.at || acked >= known.message.id
    }

    /// An inbox holds nothing that was acknowledged before.
    fn is_undelivered(&mut self, place: impl Fn() -> String) {
        for message in self.messages {
            let known = &self.index.messages[&message.id];
            if self.was_delivered(known) {
                let what = format!(
                    "message {} came back into the inbox after it was acknowledged",
                    message.id
                );
                self.found.push(Violation::new(
                    self.promise,
                    what,
                    vec![known.evidence.clone(), place()],
                ));
            }
        }
    }

    /// What was delivered once stays so.
    fn stays_delivered(&mut self, place: impl Fn() -> String) {
        for message in self.messages.iter().filter(|m| m.delivered_at.is_none()) {
            let known = &self.index.messages[&message.id];
            if self.was_delivered(known) {
                let what = format!(
                    "message {} is shown as queued after it was acknowledged",
                    message.id
                );
                self.found.push(Violation::new(
                    self.promise,
                    what,
                    vec![known.evidence.clone(), place()],
                ));
            }
        }
    }
}
