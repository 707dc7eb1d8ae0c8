//! Good histories out of the model, each broken in one way: the checker must find it.

use proptest::prelude::*;

use super::model::histories;
use super::promises;
use crate::{Answer, Call, Event, History, Reply};

/// Ways to break a history. Each says whether this one could be broken so.
type Break = fn(&mut History) -> bool;

fn acknowledged(history: &History) -> Option<u64> {
    history.attempts.iter().find_map(|a| match a.answer {
        Answer::Ok(Reply::Sent { id, .. }) => Some(id),
        _ => None,
    })
}

fn lose(history: &mut History) -> bool {
    let Some(id) = acknowledged(history) else {
        return false;
    };
    history
        .mailboxes
        .iter_mut()
        .for_each(|mailbox| mailbox.messages.retain(|m| m.id != id));
    true
}

fn double(history: &mut History) -> bool {
    let Some(mailbox) = history
        .mailboxes
        .iter_mut()
        .find(|mailbox| !mailbox.messages.is_empty())
    else {
        return false;
    };
    let mut again = mailbox.messages[0].clone();
    (again.id, again.sent_at) = (9_999, 99_999);
    mailbox.messages.push(again);
    true
}

fn falsify(history: &mut History) -> bool {
    let message = history
        .mailboxes
        .iter_mut()
        .flat_map(|mailbox| mailbox.messages.iter_mut())
        .next();
    message.map(|message| message.body.push('!')).is_some()
}

fn rename(history: &mut History) -> bool {
    let message = history
        .mailboxes
        .iter_mut()
        .flat_map(|mailbox| mailbox.messages.iter_mut())
        .next();
    message.map(|message| message.from.push('!')).is_some()
}

fn answer_twice(history: &mut History) -> bool {
    let sent = history
        .attempts
        .iter()
        .find(|a| matches!(a.answer, Answer::Ok(Reply::Sent { .. })));
    let Some(mut again) = sent.cloned() else {
        return false;
    };
    again.answer = Answer::Ok(Reply::Sent {
        id: 9_999,
        sent_at: 99_999,
        duplicate: false,
    });
    (again.connection, again.sequence) = (999, 1);
    history.attempts.push(again);
    true
}

/// The last message of a linear page that had been acknowledged before the page was asked for.
fn stale(history: &mut History) -> bool {
    let mut known: Vec<(u64, u64)> = Vec::new();
    for attempt in &history.attempts {
        if let (Answer::Ok(Reply::Sent { id, .. }), Some(at)) = (&attempt.answer, attempt.completed)
        {
            known.push((*id, at.tick));
        }
    }
    for attempt in &mut history.attempts {
        let (Call::Sync { .. }, Answer::Ok(Reply::Page { messages, .. })) =
            (&attempt.call, &mut attempt.answer)
        else {
            continue;
        };
        let Some(last) = messages.last().map(|m| m.id) else {
            continue;
        };
        if known
            .iter()
            .any(|(id, at)| *id == last && *at < attempt.invoked.tick)
        {
            messages.pop();
            return true;
        }
    }
    false
}

fn repeat_event(history: &mut History) -> bool {
    let is_message = |event: &Event| matches!(event, Event::Message(_));
    let Some(mut again) = history.shown.iter().find(|s| is_message(&s.event)).cloned() else {
        return false;
    };
    again.at.tick = history
        .shown
        .iter()
        .filter(|s| s.connection == again.connection)
        .map(|s| s.at.tick)
        .max()
        .unwrap_or(0);
    // Only its own connection's events are compared; the same tick twice is no matter.
    history.shown.push(again);
    true
}

/// What was acknowledged becomes refused as not_done.
fn deny(history: &mut History) -> bool {
    let Some(id) = acknowledged(history) else {
        return false;
    };
    for attempt in &mut history.attempts {
        if matches!(attempt.answer, Answer::Ok(Reply::Sent { id: this, .. }) if this == id) {
            attempt.answer = Answer::refused("busy", "not_done");
        }
    }
    let key = |a: &crate::Attempt| (a.user.clone(), a.call.key().map(str::to_owned));
    let denied: Vec<_> = history
        .attempts
        .iter()
        .filter(|a| a.answer.not_done().is_some())
        .map(key)
        .collect();
    history
        .attempts
        .retain(|a| a.answer.not_done().is_some() || !denied.contains(&key(a)));
    true
}

fn unlike_rows(history: &mut History) -> bool {
    history
        .rows
        .last_mut()
        .map(|rows| rows.rows.push("more".into()))
        .is_some()
}

const BREAKS: [(Break, &[&str]); 9] = [
    (lose, &["nothing lost"]),
    (double, &["exactly once"]),
    (falsify, &["content", "nothing invented"]),
    (rename, &["content", "nothing invented"]),
    (answer_twice, &["keys"]),
    (stale, &["linear reads"]),
    (repeat_event, &["events"]),
    (deny, &["not_done"]),
    (unlike_rows, &["replicas"]),
];

proptest! {
    #[test]
    fn whatever_is_broken_is_found(history in histories(80)) {
        for (number, (broken, expected)) in BREAKS.iter().enumerate() {
            let mut history = history.clone();
            if broken(&mut history) {
                let violations = crate::check(&history);
                let told = promises(&violations);
                prop_assert!(
                    expected.iter().any(|promise| told.contains(promise)),
                    "break {number}: expected one of {expected:?}, not {}", crate::report(&violations)
                );
            }
        }
    }
}
