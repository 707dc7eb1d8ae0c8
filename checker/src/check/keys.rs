//! A key gets its first answer again: same id, same time, `duplicate` for all but the first; and never belongs to two
//! messages.

use super::Violation;
use super::index::{Index, NEVER, Send};
use crate::history::{Answer, Attempt, Reply};

/// Refusals that a repetition of what was acknowledged must not get: they look at more than the key.
const NOT_AGAIN: [&str; 2] = ["no_such_user", "bad_request"];

pub(super) fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    for send in &index.sends {
        answers(send, found);
    }
    // Sends are sorted by sender and key.
    for pair in index.sends.windows(2) {
        let same_key = pair[0].from == pair[1].from && pair[0].key == pair[1].key;
        if same_key && pair[0].write.is_done() && pair[1].write.is_done() {
            let what = format!(
                "key {:?} of {} was taken for two messages",
                pair[0].key, pair[0].from
            );
            let mut evidence = pair[0].write.evidence();
            evidence.extend(pair[1].write.evidence());
            found.push(Violation::new("keys", what, evidence));
        }
    }
}

fn answers(send: &Send<'_>, found: &mut Vec<Violation>) {
    let mut tell = |what: String| found.push(Violation::new("keys", what, send.write.evidence()));
    let sent = |attempt: &&Attempt| match attempt.answer {
        Answer::Ok(Reply::Sent {
            id,
            sent_at,
            duplicate,
        }) => Some((id, sent_at, duplicate)),
        _ => None,
    };
    let answered: Vec<(u64, u64, bool)> = send.write.attempts.iter().filter_map(sent).collect();
    let Some((id, sent_at, _)) = answered.first().copied() else {
        return;
    };
    let (from, key) = (&send.from, send.key);
    if let Some(other) = answered
        .iter()
        .find(|(i, at, _)| (*i, *at) != (id, sent_at))
    {
        let first = (id, sent_at);
        tell(format!(
            "key {key:?} of {from} got two answers: (id, sent_at) {first:?} and {:?}",
            (other.0, other.1)
        ));
    }
    if answered
        .iter()
        .filter(|(_, _, duplicate)| !duplicate)
        .count()
        > 1
    {
        tell(format!(
            "key {key:?} of {from} was new twice: two answers say duplicate: false"
        ));
    }
    for attempt in send
        .write
        .attempts
        .iter()
        .filter(|a| a.invoked.tick > send.write.completed)
    {
        match &attempt.answer {
            Answer::Ok(Reply::Sent {
                duplicate: false, ..
            }) => {
                tell(format!(
                    "key {key:?} of {from} was repeated after its answer and called new"
                ));
            }
            Answer::Refused { code, .. }
                if NOT_AGAIN.contains(&code.as_str()) && send.write.completed != NEVER =>
            {
                tell(format!(
                    "key {key:?} of {from} was repeated after its answer and refused: {code}"
                ));
            }
            _ => {}
        }
    }
}
