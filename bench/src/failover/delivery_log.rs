//! What was acknowledged against what is in the recipient's mailbox. Pure.

use std::collections::HashMap;

use serde::Serialize;

/// Digits of the number that a body begins with.
pub const NUMBER_DIGITS: usize = 20;

/// A body of exactly `bytes` bytes (at least [`NUMBER_DIGITS`]) that tells its number.
pub fn body(number: u64, bytes: usize) -> String {
    let mut text = format!("{number:0NUMBER_DIGITS$}");
    text.extend(std::iter::repeat_n(
        '.',
        bytes.saturating_sub(NUMBER_DIGITS),
    ));
    text
}

/// The number that a body tells.
pub fn number_of(body: &str) -> Option<u64> {
    body.get(..NUMBER_DIGITS)?.parse().ok()
}

/// What the sender knows of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Acknowledged under this id.
    Acknowledged {
        /// The message's id.
        id: u64,
    },
    /// It may be there.
    Unknown,
    /// It is not there: the node said so.
    NotDone,
}

/// One message, in the order of sending.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// Ascending, each once.
    pub number: u64,
    /// What the sender knows.
    pub fate: Fate,
}

/// One message in the mailbox.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Its id; a mailbox is sorted by it.
    pub id: u64,
    /// The number in its body; `None` if it tells none.
    pub number: Option<u64>,
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DeliveryReport {
    /// Messages that were acknowledged.
    pub acknowledged: u64,
    /// Acknowledged and not there.
    pub lost: u64,
    /// There more than once; each further copy counts.
    pub doubled: u64,
    /// Acknowledged messages that stand behind one that was sent after them.
    pub out_of_order: u64,
    /// There and not to be explained: refused for certain, never sent, or under another id than the acknowledged one.
    pub strange: u64,
}

impl DeliveryReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        (self.lost, self.doubled, self.out_of_order, self.strange) == (0, 0, 0, 0)
    }
}

/// Judges a mailbox, sorted by id.
pub fn check(attempts: &[Attempt], found: &[Found]) -> DeliveryReport {
    let fates: HashMap<u64, Fate> = attempts
        .iter()
        .map(|attempt| (attempt.number, attempt.fate))
        .collect();
    let mut verdict = DeliveryReport::default();
    let mut seen: HashMap<u64, u64> = HashMap::new();
    let mut newest = None;
    for message in found {
        let Some((number, fate)) = message
            .number
            .and_then(|number| Some((number, fates.get(&number)?)))
        else {
            verdict.strange += 1;
            continue;
        };
        let copies = seen.entry(number).or_default();
        *copies += 1;
        if *copies > 1 {
            verdict.doubled += 1;
            continue;
        }
        match fate {
            Fate::Acknowledged { id } => {
                verdict.strange += u64::from(*id != message.id);
                verdict.out_of_order += u64::from(newest.is_some_and(|newest| newest > number));
                newest = newest.max(Some(number));
            }
            // A sender that gave up on a message does not know when it comes.
            Fate::Unknown => {}
            Fate::NotDone => verdict.strange += 1,
        }
    }
    for attempt in attempts {
        if let Fate::Acknowledged { .. } = attempt.fate {
            verdict.acknowledged += 1;
            verdict.lost += u64::from(!seen.contains_key(&attempt.number));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Message n was acknowledged under id 10 · n.
    fn acknowledged(numbers: &[u64]) -> Vec<Attempt> {
        numbers
            .iter()
            .map(|n| Attempt {
                number: *n,
                fate: Fate::Acknowledged { id: n * 10 },
            })
            .collect()
    }

    fn found(numbers: &[u64]) -> Vec<Found> {
        numbers
            .iter()
            .map(|n| Found {
                id: n * 10,
                number: Some(*n),
            })
            .collect()
    }

    #[test]
    fn a_body_tells_its_number_and_has_its_size() {
        for number in [0, 7, u64::MAX] {
            let text = body(number, 256);
            assert_eq!((text.len(), number_of(&text)), (256, Some(number)));
        }
        assert_eq!(body(1, NUMBER_DIGITS).len(), NUMBER_DIGITS);
        assert_eq!(number_of("hello"), None);
    }

    #[test]
    fn what_was_acknowledged_once_and_is_there_once_is_clean() {
        let verdict = check(&acknowledged(&[1, 2, 3]), &found(&[1, 2, 3]));
        assert_eq!(
            verdict,
            DeliveryReport {
                acknowledged: 3,
                ..DeliveryReport::default()
            }
        );
        assert!(verdict.is_clean());
    }

    #[test]
    fn losses_copies_and_order_are_counted_apart() {
        let sent = acknowledged(&[1, 2, 3, 4]);
        assert_eq!(check(&sent, &found(&[1, 4])).lost, 2);
        let mut twice = found(&[1, 2, 2, 3, 4]);
        twice[2].id = 21;
        let verdict = check(&sent, &twice);
        assert_eq!(
            (
                verdict.doubled,
                verdict.lost,
                verdict.out_of_order,
                verdict.strange
            ),
            (1, 0, 0, 0)
        );
        let verdict = check(&sent, &found(&[1, 3, 2, 4]));
        assert_eq!(
            (verdict.out_of_order, verdict.lost, verdict.doubled),
            (1, 0, 0)
        );
        assert!(!verdict.is_clean());
    }

    #[test]
    fn an_unknown_one_may_be_there_once_and_a_refused_one_not_at_all() {
        let mut sent = acknowledged(&[1, 2, 3]);
        sent[1].fate = Fate::Unknown;
        assert!(check(&sent, &found(&[1, 2, 3])).is_clean());
        assert!(check(&sent, &found(&[1, 3])).is_clean());
        assert!(
            check(&sent, &found(&[1, 3, 2])).is_clean(),
            "it may come late"
        );
        assert_eq!(check(&sent, &found(&[1, 2, 2, 3])).doubled, 1);
        sent[1].fate = Fate::NotDone;
        assert_eq!(check(&sent, &found(&[1, 2, 3])).strange, 1);
        assert!(check(&sent, &found(&[1, 3])).is_clean());
    }

    #[test]
    fn what_nobody_sent_and_another_id_are_strange() {
        let sent = acknowledged(&[1]);
        assert_eq!(check(&sent, &found(&[1, 2])).strange, 1);
        assert_eq!(
            check(
                &sent,
                &[
                    Found {
                        id: 10,
                        number: Some(1)
                    },
                    Found {
                        id: 11,
                        number: None
                    }
                ]
            )
            .strange,
            1
        );
        assert_eq!(
            check(
                &sent,
                &[Found {
                    id: 12,
                    number: Some(1)
                }]
            )
            .strange,
            1
        );
    }
}
