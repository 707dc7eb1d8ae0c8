//! Order: the sends of one connection take effect as they were written to it; what was sent after another message was
//! known has the greater id; times go with ids.

use std::collections::{HashMap, HashSet};

use super::Violation;
use super::index::{Index, NEVER};
use crate::history::Attempt;

pub(super) fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    connections(index, found);
    real_time(index, found);
    times(index, found);
}

/// One send over one connection whose message is known.
struct Placed<'h> {
    attempt: &'h Attempt,
    send: usize,
    id: u64,
}

/// Within one connection. A message that the other connections may have carried without its predecessor is excused.
fn connections(index: &Index<'_>, found: &mut Vec<Violation>) {
    let mut ids: HashMap<usize, u64> = HashMap::new();
    for (id, known) in &index.messages {
        if let Some(send) = known.send.or_else(|| sole_send(index, known)) {
            ids.entry(send).or_insert(*id);
        }
    }
    let mut carried: HashMap<u64, Vec<Placed<'_>>> = HashMap::new();
    for (number, send) in index.sends.iter().enumerate() {
        let Some(id) = ids.get(&number).copied() else {
            continue;
        };
        for attempt in send
            .write
            .attempts
            .iter()
            .filter(|a| a.answer.not_done().is_none())
        {
            carried.entry(attempt.connection).or_default().push(Placed {
                attempt,
                send: number,
                id,
            });
        }
    }
    let mut told = HashSet::new();
    for placed in carried.values_mut() {
        placed.sort_by_key(|p| p.attempt.sequence);
        let mut greatest = 0;
        for later in 0..placed.len() {
            if placed[later].id >= greatest {
                greatest = placed[later].id;
                continue;
            }
            let swapped = placed[..later]
                .iter()
                .find(|p| p.id > placed[later].id && is_bound(index, p, &placed[later]));
            let Some(earlier) = swapped else { continue };
            if told.insert((earlier.send, placed[later].send)) {
                found.push(swap(index, earlier, &placed[later]));
            }
        }
    }
}

/// Whether every attempt at `later` that may count was made behind one at `earlier`, over the same connection. One whose
/// recipient may not have been registered yet does not bind: it may have been refused, which leaves its key to a
/// repetition, by the client or inside the cluster.
fn is_bound(index: &Index<'_>, earlier: &Placed<'_>, later: &Placed<'_>) -> bool {
    let send = &index.sends[earlier.send];
    let counts = |b: &Attempt| {
        b.answer.not_done().is_none() && index.is_registered_before(&send.to, b.invoked.tick)
    };
    let before: Vec<&&Attempt> = send.write.attempts.iter().filter(|b| counts(b)).collect();
    let behind = |attempt: &&Attempt| {
        before
            .iter()
            .any(|b| b.connection == attempt.connection && b.sequence < attempt.sequence)
    };
    let all = &index.sends[later.send].write.attempts;
    all.iter()
        .filter(|a| a.answer.not_done().is_none())
        .all(behind)
}

fn swap(index: &Index<'_>, earlier: &Placed<'_>, later: &Placed<'_>) -> Violation {
    let what = format!(
        "connection {} sent request {} before {}, but they took effect as messages {} and {}",
        later.attempt.connection,
        earlier.attempt.sequence,
        later.attempt.sequence,
        earlier.id,
        later.id
    );
    let mut evidence = index.sends[earlier.send].write.evidence();
    evidence.extend(index.sends[later.send].write.evidence());
    Violation::new("connection order", what, evidence)
}

/// The unanswered send that a message must be by its content, if there is but one.
fn sole_send(index: &Index<'_>, known: &super::index::Known) -> Option<usize> {
    let candidates = index.by_content(known);
    match candidates {
        [only] if index.sends[*only].id.is_none() => Some(*only),
        _ => None,
    }
}

/// Across everything: ids are given in log order.
fn real_time(index: &Index<'_>, found: &mut Vec<Violation>) {
    let mut known: Vec<(u64, u64)> = index
        .messages
        .iter()
        .map(|(id, k)| (k.known, *id))
        .collect();
    known.sort_unstable();
    let mut asked: Vec<(u64, u64, usize)> = index
        .sends
        .iter()
        .enumerate()
        .filter_map(|(number, send)| {
            let id = send.id.filter(|_| send.write.is_possible())?;
            Some((send.write.invoked, id, number))
        })
        .collect();
    asked.sort_unstable();
    let (mut greatest, mut next) = (0, 0);
    for (invoked, id, number) in asked {
        while next < known.len() && known[next].0 < invoked && known[next].0 != NEVER {
            greatest = greatest.max(known[next].1);
            next += 1;
        }
        if id < greatest {
            let what = format!(
                "message {id} was sent after message {greatest} was known, and has the smaller id"
            );
            let mut evidence = vec![index.messages[&greatest].evidence.clone()];
            evidence.extend(index.sends[number].write.evidence());
            found.push(Violation::new("real-time order", what, evidence));
        }
    }
}

fn times(index: &Index<'_>, found: &mut Vec<Violation>) {
    let all: Vec<_> = index.messages.values().collect();
    for pair in all.windows(2) {
        let (a, b) = (&pair[0].message, &pair[1].message);
        if a.sent_at >= b.sent_at {
            let what = format!(
                "message {} has sent_at {}, the later message {} has {}",
                a.id, a.sent_at, b.id, b.sent_at
            );
            found.push(Violation::new(
                "times",
                what,
                vec![pair[0].evidence.clone(), pair[1].evidence.clone()],
            ));
        }
    }
}
