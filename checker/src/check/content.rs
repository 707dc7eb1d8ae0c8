//! Nothing is invented: every message that is there was sent, by who it says, to whom it says, as it says; once; not
//! before it was asked for; and not when its sender was told that nothing was done.

use std::collections::HashMap;

use super::index::{Index, Known};
use super::{Violation, describe};

pub(super) fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    // Which send has become which message by its content alone.
    let mut taken: HashMap<usize, u64> = HashMap::new();
    for (id, known) in &index.messages {
        if let Some(send) = known.send {
            if index.sends[send].write.invoked > known.known {
                found.push(too_early(index, known, send));
            }
            continue;
        }
        let sends = index.by_content(known);
        let free = sends.iter().find(|send| {
            let possible = &index.sends[**send];
            possible.id.is_none() && possible.write.is_possible() && !taken.contains_key(send)
        });
        match free {
            Some(send) if index.sends[*send].write.invoked > known.known => {
                found.push(too_early(index, known, *send))
            }
            Some(send) => drop(taken.insert(*send, *id)),
            None => found.push(unexplained(index, known, sends, &taken)),
        }
    }
}

fn too_early(index: &Index<'_>, known: &Known, send: usize) -> Violation {
    let what = format!(
        "{} was there before it was sent",
        describe::message_text(&known.message)
    );
    let mut evidence = index.sends[send].write.evidence();
    evidence.push(known.evidence.clone());
    Violation::new("nothing invented", what, evidence)
}

fn unexplained(
    index: &Index<'_>,
    known: &Known,
    sends: &[usize],
    taken: &HashMap<usize, u64>,
) -> Violation {
    let text = describe::message_text(&known.message);
    let mut evidence: Vec<String> = sends
        .iter()
        .flat_map(|send| index.sends[*send].write.evidence())
        .collect();
    evidence.push(known.evidence.clone());
    let other = sends
        .iter()
        .find_map(|send| index.sends[*send].id.or(taken.get(send).copied()));
    match other {
        Some(other) => {
            let what = format!(
                "{text} is there twice: it was sent under one key and is also message {other}"
            );
            Violation::new("exactly once", what, evidence)
        }
        None if !sends.is_empty() => {
            let what = format!("{text} is there, but its sender was told not_done");
            Violation::new("not_done", what, evidence)
        }
        None => Violation::new(
            "nothing invented",
            format!("{text} was never sent"),
            evidence,
        ),
    }
}
