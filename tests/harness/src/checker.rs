//! Judges a history: what clients tried and what they were told, against what the mailboxes hold in the end.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

/// One message that a client tried to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Sender.
    pub from: String,
    /// Recipient.
    pub to: String,
    /// Which connection; the order within one counts.
    pub connection: usize,
    /// Place among the sends of that connection.
    pub sequence: u64,
    /// Its key.
    pub key: String,
    /// Its body, unlike every other.
    pub body: String,
    /// The id that the node acknowledged it with.
    pub acknowledged: Option<u64>,
}

/// A message as a mailbox holds it in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Its id.
    pub id: u64,
    /// Sender.
    pub from: String,
    /// Body.
    pub body: String,
}

impl Received {
    /// From the `messages` of `inbox` or `sync`.
    pub fn all(messages: &[Value]) -> Vec<Received> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let read = |m: &Value| Received {
            id: m["id"].as_u64().unwrap_or_default(),
            from: text(&m["from"]),
            body: text(&m["body"]),
        };
        messages.iter().map(read).collect()
    }
}

/// Everything that was tried.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// In no particular order.
    pub attempts: Vec<Attempt>,
}

impl History {
    /// How many were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.attempts.iter().filter(|attempt| attempt.acknowledged.is_some()).count()
    }

    /// Checks the mailbox of one recipient: nothing acknowledged lost, nothing twice, nothing invented, ids as
    /// acknowledged, and each connection's messages in the order sent.
    ///
    /// # Errors
    /// Every violation, for people.
    pub fn check(&self, recipient: &str, mailbox: &[Received]) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        let mut held: HashMap<&str, Vec<u64>> = HashMap::new();
        for message in mailbox {
            held.entry(&message.body).or_default().push(message.id);
        }
        let expected: HashMap<&str, &Attempt> =
            self.attempts.iter().filter(|a| a.to == recipient).map(|a| (a.body.as_str(), a)).collect();
        for message in mailbox {
            match expected.get(message.body.as_str()) {
                None => wrong.push(format!("{message:?} was never sent")),
                Some(attempt) if attempt.from != message.from => {
                    wrong.push(format!("{message:?} was sent by {}", attempt.from));
                }
                Some(_) => {}
            }
        }
        for (body, attempt) in &expected {
            let ids = held.get(body).map_or(&[][..], Vec::as_slice);
            match (attempt.acknowledged, ids) {
                (_, [_, _, ..]) => wrong.push(format!("{body:?} is there {} times: {ids:?}", ids.len())),
                (Some(id), []) => wrong.push(format!("{body:?} was acknowledged as {id} and is lost")),
                (Some(id), [other]) if id != *other => {
                    wrong.push(format!("{body:?} was acknowledged as {id} and is {other}"));
                }
                _ => {}
            }
        }
        wrong.extend(Self::disorder(&expected, &held));
        wrong.extend(mailbox.windows(2).filter(|pair| pair[0].id >= pair[1].id).map(|pair| format!("order: {pair:?}")));
        wrong.sort();
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Pairs of one connection whose ids are in another order than they were sent.
    fn disorder(expected: &HashMap<&str, &Attempt>, held: &HashMap<&str, Vec<u64>>) -> Vec<String> {
        let mut connections: HashMap<usize, BTreeMap<u64, u64>> = HashMap::new();
        for (body, attempt) in expected {
            if let Some(id) = held.get(body).and_then(|ids| ids.first()) {
                connections.entry(attempt.connection).or_default().insert(attempt.sequence, *id);
            }
        }
        let mut wrong = Vec::new();
        for (connection, sent) in connections {
            let sent: Vec<(u64, u64)> = sent.into_iter().collect();
            let swapped = sent.windows(2).filter(|pair| pair[0].1 >= pair[1].1);
            wrong.extend(swapped.map(|pair| {
                format!("connection {connection}: (sequence, id) {:?} came before {:?}", pair[1], pair[0])
            }));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::{Attempt, History, Received};

    fn attempt(sequence: u64, acknowledged: Option<u64>) -> Attempt {
        let body = format!("body {sequence}");
        let (from, to, key) = ("a".into(), "b".into(), format!("k{sequence}"));
        Attempt { from, to, connection: 0, sequence, key, body, acknowledged }
    }

    fn received(id: u64, sequence: u64) -> Received {
        Received { id, from: "a".into(), body: format!("body {sequence}") }
    }

    fn verdict(attempts: Vec<Attempt>, mailbox: &[Received]) -> Vec<String> {
        History { attempts }.check("b", mailbox).err().unwrap_or_default()
    }

    #[test]
    fn an_orderly_history_passes_with_and_without_the_unacknowledged() {
        let attempts = vec![attempt(1, Some(5)), attempt(2, None), attempt(3, Some(9))];
        assert!(verdict(attempts.clone(), &[received(5, 1), received(9, 3)]).is_empty());
        assert!(verdict(attempts, &[received(5, 1), received(7, 2), received(9, 3)]).is_empty());
    }

    #[test]
    fn each_kind_of_wrong_is_found() {
        let both = || vec![attempt(1, Some(5)), attempt(2, Some(6))];
        let cases: [(&[Received], &str); 5] = [
            (&[received(5, 1)], "is lost"),
            (&[received(5, 1), received(6, 2), received(7, 2)], "2 times"),
            (&[received(5, 1), received(6, 2), received(7, 3)], "never sent"),
            (&[received(5, 1), received(8, 2)], "and is 8"),
            (&[received(6, 1), received(5, 2)], "came before"),
        ];
        for (mailbox, says) in cases {
            let wrong = verdict(both(), mailbox);
            assert!(wrong.iter().any(|line| line.contains(says)), "{says}: {wrong:?}");
        }
    }
}
