//! Reads back, through the front door, what was acknowledged: each message is there, once, under the id that its
//! sender was told.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use messagebase_protocol::json::{Consistency, MessageRecord, Op, Records};
use messagebase_protocol::limits::PAGE_MAX;
use serde::Serialize;

use super::buffered::buffered;
use super::drive::Receipt;
use super::load_users::{ClusterAccess, LoadUsers, User, ask};
use super::messagebase::serial_of;
use super::{LoadError, Say};

/// Mailboxes read at a time.
const READERS: usize = 4;

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// Sends that were acknowledged, all of them found exactly once.
    pub acknowledged: u64,
    /// Messages that are there though their acknowledgement did not arrive before the kill: allowed, once each.
    pub unanswered: u64,
}

/// Reads all senders' messages.
///
/// # Errors
/// `Disproved`, or the nodes can't be read.
pub async fn read_back(users: &LoadUsers, say: Say<'_>) -> Result<Proof, LoadError> {
    let deed = |at, user| of_one(users.access().clone(), at, user);
    let tell = |read| say(&format!("reading back: the messages of {read} senders"));
    let found = buffered(users.people().iter().cloned(), READERS, deed, tell).await?;
    Ok(found.into_iter().fold(Proof::default(), |all, one| Proof {
        acknowledged: all.acknowledged + one.acknowledged,
        unanswered: all.unanswered + one.unanswered,
    }))
}

async fn of_one(access: ClusterAccess, at: usize, user: Arc<User>) -> Result<Proof, LoadError> {
    let connection = access.resume(at, &user).await?;
    let mut records = Vec::new();
    let mut after = 0;
    loop {
        let op = Op::Sync {
            after,
            limit: Some(PAGE_MAX),
            consistency: Consistency::Linear,
        };
        let page: Records = ask(&connection, op).await?;
        let Some(last) = page.messages.last() else {
            break;
        };
        after = last.id;
        let more = page.more;
        records.extend(page.messages.into_iter().map(brief));
        if !more {
            break;
        }
    }
    let receipts = match user.receipts.lock() {
        Ok(receipts) => receipts.clone(),
        Err(poisoned) => poisoned.into_inner().clone(),
    };
    prove(&user.name, &receipts, &records).map_err(LoadError::Disproved)
}

/// Id, sender and body; bodies can be long, their label is all that is looked at.
fn brief(record: MessageRecord) -> (u64, String) {
    const LABEL_MAX: usize = 64;
    (record.id, record.body.chars().take(LABEL_MAX).collect())
}

fn prove(user: &str, receipts: &[Receipt], records: &[(u64, String)]) -> Result<Proof, String> {
    let mut found: HashMap<u64, u64> = HashMap::with_capacity(records.len());
    for (id, body) in records {
        let serial = serial_of(body, user)
            .ok_or_else(|| format!("message {id} of {user} was sent by nobody"))?;
        match found.entry(serial) {
            Entry::Vacant(place) => place.insert(*id),
            Entry::Occupied(first) => {
                return Err(format!(
                    "send {serial} of {user} is there twice: as {} and as {id}",
                    first.get()
                ));
            }
        };
    }
    for receipt in receipts {
        match found.remove(&receipt.serial) {
            Some(id) if id == receipt.id => {}
            Some(id) => {
                let (serial, told) = (receipt.serial, receipt.id);
                return Err(format!(
                    "send {serial} of {user} was acknowledged as {told} and is there as {id}"
                ));
            }
            None => {
                return Err(format!(
                    "send {} of {user} was acknowledged and is not there",
                    receipt.serial
                ));
            }
        }
    }
    Ok(Proof {
        acknowledged: receipts.len() as u64,
        unanswered: found.len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::super::messagebase::body;
    use super::*;

    fn there(messages: &[(u64, u64)]) -> Vec<(u64, String)> {
        messages
            .iter()
            .map(|(id, serial)| (*id, body("ann", *serial, 32)))
            .collect()
    }

    fn acknowledged(sends: &[(u64, u64)]) -> Vec<Receipt> {
        sends
            .iter()
            .map(|(id, serial)| Receipt {
                serial: *serial,
                id: *id,
            })
            .collect()
    }

    #[test]
    fn what_was_acknowledged_is_there_once_and_more_may_be() {
        let proof = prove(
            "ann",
            &acknowledged(&[(10, 0), (12, 1)]),
            &there(&[(10, 0), (12, 1), (13, 2)]),
        );
        assert_eq!(
            proof,
            Ok(Proof {
                acknowledged: 2,
                unanswered: 1
            })
        );
    }

    #[test]
    fn a_lost_a_doubled_a_renamed_and_a_strange_message_disprove() {
        let told = acknowledged(&[(10, 0)]);
        assert!(
            prove("ann", &told, &there(&[]))
                .unwrap_err()
                .contains("not there")
        );
        assert!(
            prove("ann", &told, &there(&[(10, 0), (11, 0)]))
                .unwrap_err()
                .contains("twice")
        );
        assert!(
            prove("ann", &told, &there(&[(9, 0)]))
                .unwrap_err()
                .contains("there as 9")
        );
        assert!(
            prove("ann", &[], &[(7, "hello".into())])
                .unwrap_err()
                .contains("nobody")
        );
    }
}
