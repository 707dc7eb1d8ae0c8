//! Lines of evidence for people: who asked what over which connection, when, and what was answered. Pages are shown by
//! their ids alone.

use crate::history::{Answer, Attempt, Event, Message, Reply, Shown};

/// Ids of a page shown in full.
const IDS_MOST: usize = 8;

pub(super) fn attempt(attempt: &Attempt) -> String {
    let Attempt {
        client,
        connection,
        node,
        sequence,
        call,
        invoked,
        ..
    } = attempt;
    let user = attempt.user.as_deref().unwrap_or("nobody");
    let until = attempt
        .completed
        .map_or("…".into(), |at| at.tick.to_string());
    let answer = match &attempt.answer {
        Answer::Ok(reply) => reply_text(reply),
        Answer::Refused { code, outcome } => format!("{code} ({outcome:?})"),
        Answer::Nothing => "no answer".into(),
    };
    format!(
        "[{}–{until}, {} ms] client {client}, connection {connection} to node {node}, request {sequence}, {user}: \
         {call:?} -> {answer}",
        invoked.tick,
        invoked.us / 1_000
    )
}

pub(super) fn shown(shown: &Shown) -> String {
    let Shown {
        client,
        connection,
        at,
        event,
    } = shown;
    let event = match event {
        Event::Message(message) => message_text(message),
        other => format!("{other:?}"),
    };
    format!(
        "[{}, {} ms] client {client}, connection {connection}: event {event}",
        at.tick,
        at.us / 1_000
    )
}

fn reply_text(reply: &Reply) -> String {
    match reply {
        Reply::Page { messages, more } => {
            let ids: Vec<u64> = messages.iter().map(|m| m.id).collect();
            match ids.as_slice() {
                few if few.len() <= IDS_MOST => format!("ok, ids {few:?}, more: {more}"),
                [first, .., last] => format!("ok, {} ids {first}…{last}, more: {more}", ids.len()),
                _ => unreachable!("few enough"),
            }
        }
        other => format!("ok {other:?}"),
    }
}

pub(super) fn message_text(message: &Message) -> String {
    let Message {
        id,
        from,
        to,
        body,
        sent_at,
        ..
    } = message;
    format!("message {id} {from} -> {to} {body:?} (sent_at {sent_at})")
}
