//! Entries of consecutive messages, packed: a message takes about 150 bytes, its key included, and few allocations.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use super::{Entry, Side, pair};
use crate::state::hash::HashMap;

/// Ends a list.
const NONE: u32 = u32::MAX;

/// Messages are numbered from 0 here; as each takes more than 40 bytes, memory ends before the numbers do.
#[derive(Default)]
pub(super) struct Generation {
    /// All ids are greater.
    pub after: u64,
    /// The greatest id.
    pub last: u64,
    held: Vec<Held>,
    /// All keys, one behind the other.
    keys: String,
    by_key: HashTable<u32>,
    /// Ascending, to be bisected: whoever acknowledges the first of thousands must not pass by the others.
    boxes: HashMap<(u64, Side), Vec<u32>>,
    newest_of_pair: HashMap<(u64, u64), u32>,
}

struct Held {
    id: u64,
    sender: u64,
    recipient: u64,
    /// In `keys`; it begins where the one before it ends.
    key_end: usize,
    /// The next older message of the pair.
    earlier: u32,
}

impl Generation {
    /// Follows the message `after`.
    pub fn behind(after: u64) -> Generation {
        Generation { after, last: after, ..Generation::default() }
    }

    pub fn messages(&self) -> usize {
        self.held.len()
    }

    /// A message with a greater id than all before; `hasher` is the same for all of them.
    pub fn add(&mut self, entry: Entry<'_>, hasher: &RandomState) {
        let Entry { id, sender, recipient, key } = entry;
        // Proof: see the type.
        let number = u32::try_from(self.held.len()).expect("memory ends before numbers do");
        self.boxes.entry((sender, Side::Sent)).or_default().push(number);
        self.boxes.entry((recipient, Side::Received)).or_default().push(number);
        let earlier = self.newest_of_pair.insert(pair(sender, recipient), number).unwrap_or(NONE);
        self.keys.push_str(key);
        self.held.push(Held { id, sender, recipient, key_end: self.keys.len(), earlier });
        self.last = id;
        let Generation { by_key, held, keys, .. } = self;
        by_key.insert_unique(hasher.hash_one((sender, key)), number, |other| {
            hasher.hash_one((held[*other as usize].sender, key_of(held, keys, *other)))
        });
    }

    /// The message of a key, whose hash is known.
    pub fn by_key(&self, sender: u64, key: &str, hash: u64) -> Option<u64> {
        let is_it = |number: &u32| self.held[*number as usize].sender == sender && self.key(*number) == key;
        self.by_key.find(hash, is_it).map(|number| self.held[*number as usize].id)
    }

    /// Ids of a user's list behind `after`, ascending.
    pub fn list(&self, user: u64, side: Side, after: u64) -> impl Iterator<Item = u64> {
        let numbers = self.boxes.get(&(user, side)).map_or(&[][..], Vec::as_slice);
        let id = |number: &u32| self.held[*number as usize].id;
        let from = numbers.partition_point(|number| id(number) <= after);
        numbers[from..].iter().map(id)
    }

    /// Ids between two users, newest first.
    pub fn between(&self, pair: (u64, u64)) -> impl Iterator<Item = u64> {
        let mut next = self.newest_of_pair.get(&pair).copied().unwrap_or(NONE);
        std::iter::from_fn(move || {
            let held = self.held.get(next as usize)?;
            next = held.earlier;
            Some(held.id)
        })
    }

    /// Numbers of the messages, in the order of their keys. Quick where keys grow with the time.
    pub fn in_order_of_keys(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..NONE).take(self.held.len()).collect();
        numbers.sort_by_key(|number| (self.key(*number), self.held[*number as usize].sender));
        numbers
    }

    /// The message of a number, as it was added.
    pub fn entry(&self, number: u32) -> Entry<'_> {
        let Held { id, sender, recipient, .. } = self.held[number as usize];
        Entry { id, sender, recipient, key: self.key(number) }
    }

    /// All messages, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..NONE).take(self.held.len()).map(|number| self.entry(number))
    }

    fn key(&self, number: u32) -> &str {
        key_of(&self.held, &self.keys, number)
    }
}

fn key_of<'a>(held: &[Held], keys: &'a str, number: u32) -> &'a str {
    let number = number as usize;
    let begin = number.checked_sub(1).map_or(0, |before| held[before].key_end);
    &keys[begin..held[number].key_end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_found_by_each_of_its_ways() {
        let hasher = RandomState::default();
        let mut generation = Generation::behind(10);
        let keys: Vec<String> = (0..1_000_u64).map(|n| format!("{:03}", n * 7 % 1_000)).collect();
        for (n, key) in keys.iter().enumerate() {
            let id = 11 + n as u64;
            generation.add(Entry { id, sender: id % 3, recipient: id % 5, key }, &hasher);
        }
        assert_eq!((generation.after, generation.last, generation.messages()), (10, 1_010, 1_000));
        let found = |sender, key: &str| generation.by_key(sender, key, hasher.hash_one((sender, key)));
        for entry in generation.entries() {
            assert_eq!(found(entry.sender, entry.key), Some(entry.id));
            assert_eq!(found(entry.sender + 1, entry.key), None);
        }
        let backwards = |keep: &dyn Fn(u64) -> bool| (11..=1_010).rev().filter(|id| keep(*id)).collect::<Vec<u64>>();
        for user in 0..5 {
            for after in [0, 11, 500, 1_010] {
                let forwards = |keep: &dyn Fn(u64) -> bool| {
                    (11..=1_010).filter(|id| *id > after && keep(*id)).collect::<Vec<u64>>()
                };
                let sent: Vec<u64> = generation.list(user, Side::Sent, after).collect();
                assert_eq!(sent, forwards(&|id| id % 3 == user));
                let received: Vec<u64> = generation.list(user, Side::Received, after).collect();
                assert_eq!(received, forwards(&|id| id % 5 == user));
            }
            for other in user..5 {
                let between: Vec<u64> = generation.between((user, other)).collect();
                assert_eq!(between, backwards(&|id| pair(id % 3, id % 5) == (user, other)));
            }
        }
        let ordered: Vec<&str> =
            generation.in_order_of_keys().into_iter().map(|number| generation.entry(number).key).collect();
        assert!(ordered.is_sorted() && ordered.len() == keys.len());
    }
}
