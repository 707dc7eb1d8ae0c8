//! Entries of consecutive messages, packed: a message takes about 150 bytes, its key included, and few allocations.

use std::hash::BuildHasher;
use std::ops::RangeInclusive;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use super::{Entry, List};
use crate::state::hash::HashMap;

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
    lists: HashMap<List, Vec<u32>>,
    /// The tables may hold some of these messages already: what a merge wrote that a crash cut off.
    pub begun: bool,
}

struct Held {
    id: u64,
    sender: u64,
    recipient: u64,
    /// In `keys`; it begins where the one before it ends.
    key_end: usize,
}

impl Generation {
    /// Follows the message `after`.
    pub fn behind(after: u64) -> Generation {
        Generation {
            after,
            last: after,
            ..Generation::default()
        }
    }

    /// As [`Generation::behind`], for what is read from the file.
    pub fn read_behind(after: u64) -> Generation {
        Generation {
            begun: true,
            ..Generation::behind(after)
        }
    }

    /// Its room, to be used again: room that grows piece by piece is copied and hashed again on its way, and pages that are
    /// fresh from the system cost a fault each.
    pub fn emptied(mut self) -> Generation {
        self.held.clear();
        self.keys.clear();
        self.by_key.clear();
        self.lists.clear();
        let Generation {
            held,
            keys,
            by_key,
            lists,
            ..
        } = self;
        Generation {
            after: 0,
            last: 0,
            held,
            keys,
            by_key,
            lists,
            begun: false,
        }
    }

    pub fn messages(&self) -> usize {
        self.held.len()
    }

    /// A message with a greater id than all before; `hasher` is the same for all of them.
    pub fn add(&mut self, entry: Entry<'_>, hasher: &RandomState) {
        let Entry {
            id,
            sender,
            recipient,
            key,
        } = entry;
        // Proof: see the type.
        let number = u32::try_from(self.held.len()).expect("memory ends before numbers do");
        for list in List::of(entry) {
            self.lists.entry(list).or_default().push(number);
        }
        self.keys.push_str(key);
        self.held.push(Held {
            id,
            sender,
            recipient,
            key_end: self.keys.len(),
        });
        self.last = id;
        let Generation {
            by_key, held, keys, ..
        } = self;
        by_key.insert_unique(hasher.hash_one((sender, key)), number, |other| {
            hasher.hash_one((held[*other as usize].sender, key_of(held, keys, *other)))
        });
    }

    /// The message of a key, whose hash is known.
    pub fn by_key(&self, sender: u64, key: &str, hash: u64) -> Option<u64> {
        let is_it =
            |number: &u32| self.held[*number as usize].sender == sender && self.key(*number) == key;
        self.by_key
            .find(hash, is_it)
            .map(|number| self.held[*number as usize].id)
    }

    /// Those ids of a list that are in the range, ascending.
    pub fn list(&self, list: List, range: RangeInclusive<u64>) -> impl Iterator<Item = u64> {
        let numbers = self.lists.get(&list).map_or(&[][..], Vec::as_slice);
        let id = |number: &u32| self.held[*number as usize].id;
        let from = numbers.partition_point(|number| id(number) < *range.start());
        let to = from + numbers[from..].partition_point(|number| id(number) <= *range.end());
        numbers[from..to].iter().map(id)
    }

    /// Ids less than `before` of what one user sent to another, newest first.
    pub fn sent_to(&self, from: u64, to: u64, before: u64) -> impl Iterator<Item = u64> {
        let numbers = |list: List| self.lists.get(&list).map_or(&[][..], Vec::as_slice);
        let (sent, received) = (numbers(List::from(from)), numbers(List::to(to)));
        let shorter = if sent.len() < received.len() {
            sent
        } else {
            received
        };
        let until = shorter.partition_point(|number| self.held[*number as usize].id < before);
        let held = shorter[..until]
            .iter()
            .rev()
            .map(|number| &self.held[*number as usize]);
        held.filter(move |held| held.sender == from && held.recipient == to)
            .map(|held| held.id)
    }

    /// Both lists of all messages, each with its messages' numbers, in the order of their table.
    pub fn in_order_of_lists(&self) -> Vec<(List, u32)> {
        let mut lists: Vec<(&List, &Vec<u32>)> = self.lists.iter().collect();
        lists.sort_unstable();
        lists
            .into_iter()
            .flat_map(|(list, numbers)| numbers.iter().map(|number| (*list, *number)))
            .collect()
    }

    /// Numbers of the messages, in the order of their keys. Quick where keys grow with the time.
    pub fn in_order_of_keys(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..u32::MAX).take(self.held.len()).collect();
        numbers.sort_by_key(|number| (self.key(*number), self.held[*number as usize].sender));
        numbers
    }

    /// The message of a number, as it was added.
    pub fn entry(&self, number: u32) -> Entry<'_> {
        let Held {
            id,
            sender,
            recipient,
            ..
        } = self.held[number as usize];
        Entry {
            id,
            sender,
            recipient,
            key: self.key(number),
        }
    }

    fn key(&self, number: u32) -> &str {
        key_of(&self.held, &self.keys, number)
    }
}

fn key_of<'a>(held: &[Held], keys: &'a str, number: u32) -> &'a str {
    let number = number as usize;
    let begin = number
        .checked_sub(1)
        .map_or(0, |before| held[before].key_end);
    &keys[begin..held[number].key_end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_found_by_each_of_its_ways() {
        let hasher = RandomState::default();
        let mut generation = Generation::behind(10);
        let keys: Vec<String> = (0..1_000_u64)
            .map(|n| format!("{:03}", n * 7 % 1_000))
            .collect();
        for (n, key) in keys.iter().enumerate() {
            let id = 11 + n as u64;
            generation.add(
                Entry {
                    id,
                    sender: id % 3,
                    recipient: id % 5,
                    key,
                },
                &hasher,
            );
        }
        assert_eq!(
            (generation.after, generation.last, generation.messages()),
            (10, 1_010, 1_000)
        );
        let found =
            |sender, key: &str| generation.by_key(sender, key, hasher.hash_one((sender, key)));
        for number in 0..1_000 {
            let entry = generation.entry(number);
            assert_eq!(found(entry.sender, entry.key), Some(entry.id));
            assert_eq!(found(entry.sender + 1, entry.key), None);
        }
        let expected = |range: &RangeInclusive<u64>, belongs: &dyn Fn(u64) -> bool| {
            (11..=1_010)
                .filter(|id| range.contains(id) && belongs(*id))
                .collect::<Vec<u64>>()
        };
        for user in 0..5 {
            for range in [
                0..=0,
                0..=u64::MAX,
                11..=1_010,
                12..=500,
                1_010..=1_010,
                1_011..=u64::MAX,
            ] {
                let sent: Vec<u64> = generation.list(List::from(user), range.clone()).collect();
                assert_eq!(
                    sent,
                    expected(&range, &|id| id % 3 == user),
                    "from {user} in {range:?}"
                );
                let received: Vec<u64> = generation.list(List::to(user), range.clone()).collect();
                assert_eq!(
                    received,
                    expected(&range, &|id| id % 5 == user),
                    "to {user} in {range:?}"
                );
            }
            for (other, before) in
                (0..5).flat_map(|other| [11, 500, u64::MAX].map(|before| (other, before)))
            {
                let mut sent: Vec<u64> = generation.sent_to(user, other, before).collect();
                sent.reverse();
                let expected = expected(&(0..=before - 1), &|id| id % 3 == user && id % 5 == other);
                assert_eq!(sent, expected, "from {user} to {other} before {before}");
            }
        }
        let listed = generation.in_order_of_lists();
        assert!(listed.is_sorted() && listed.len() == 2_000);
        let ordered: Vec<&str> = generation
            .in_order_of_keys()
            .into_iter()
            .map(|number| generation.entry(number).key)
            .collect();
        assert!(ordered.is_sorted() && ordered.len() == keys.len());
    }
}
