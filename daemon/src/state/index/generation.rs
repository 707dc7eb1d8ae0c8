//! Consecutive messages with the lists that hold them, packed: a message takes some 30 bytes, and few allocations.

use std::ops::RangeInclusive;

use super::lists::{IndexedMessage, List};
use crate::state::hash::HashMap;

/// Messages are numbered from 0 here; as each takes more than 24 bytes, memory ends before the numbers do.
#[derive(Default)]
pub(super) struct Generation {
    /// All ids are greater.
    pub after: u64,
    /// The greatest id.
    pub last: u64,
    held: Vec<IndexedMessage>,
    /// Ascending numbers, to be bisected: an acknowledgement of the first of thousands must not pass by the others.
    lists: HashMap<List, Vec<u32>>,
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

    /// Keeps the allocations, to be used again: a map that grows is copied and hashed again on its way, and fresh pages
    /// of the system cost a fault each.
    pub fn emptied(mut self) -> Generation {
        self.held.clear();
        self.lists.clear();
        Generation {
            after: 0,
            last: 0,
            ..self
        }
    }

    pub fn messages(&self) -> usize {
        self.held.len()
    }

    /// A message with a greater id than all before.
    pub fn add(&mut self, message: IndexedMessage) {
        #[allow(clippy::expect_used, reason = "proven")]
        // Proof: see the type.
        let number = u32::try_from(self.held.len()).expect("memory ends before numbers do");
        for list in List::of(message) {
            self.lists.entry(list).or_default().push(number);
        }
        self.held.push(message);
        self.last = message.id;
    }

    /// Those ids of a list that are in the range, ascending.
    pub fn list(&self, list: List, range: RangeInclusive<u64>) -> impl Iterator<Item = u64> {
        let numbers = self.numbers(list);
        let id = |number: &u32| self.held[*number as usize].id;
        let from = numbers.partition_point(|number| id(number) < *range.start());
        let to = from + numbers[from..].partition_point(|number| id(number) <= *range.end());
        numbers[from..to].iter().map(id)
    }

    /// Ids less than `before` of what one user sent to another, newest first.
    pub fn sent_to(&self, from: u64, to: u64, before: u64) -> impl Iterator<Item = u64> {
        let (sent, received) = (self.numbers(List::from(from)), self.numbers(List::to(to)));
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

    /// All messages in each of their two lists, in the order of the table.
    pub fn in_order_of_lists(&self) -> Vec<(List, IndexedMessage)> {
        let mut lists: Vec<(&List, &Vec<u32>)> = self.lists.iter().collect();
        lists.sort_unstable();
        let mut listed = Vec::with_capacity(2 * self.held.len());
        for (list, numbers) in lists {
            listed.extend(
                numbers
                    .iter()
                    .map(|number| (*list, self.held[*number as usize])),
            );
        }
        listed
    }

    fn numbers(&self, list: List) -> &[u32] {
        self.lists.get(&list).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids 11 to 1,010 in a generation behind 10.
    fn generation() -> Generation {
        let mut generation = Generation::behind(10);
        for id in 11..=1_010 {
            generation.add(IndexedMessage {
                id,
                sender: id % 3,
                recipient: id % 5,
            });
        }
        generation
    }

    fn expected(range: &RangeInclusive<u64>, belongs: &dyn Fn(u64) -> bool) -> Vec<u64> {
        (11..=1_010)
            .filter(|id| range.contains(id) && belongs(*id))
            .collect()
    }

    #[test]
    fn what_was_added_is_found_in_both_lists() {
        let generation = generation();
        assert_eq!(
            (generation.after, generation.last, generation.messages()),
            (10, 1_010, 1_000)
        );
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
        }
        let listed = generation.in_order_of_lists();
        let places: Vec<(List, u64)> = listed.iter().map(|(list, m)| (*list, m.id)).collect();
        assert!(places.is_sorted() && places.len() == 2_000);
    }

    #[test]
    fn what_one_user_sent_to_another_is_found() {
        let generation = generation();
        for user in 0..5 {
            for (other, before) in
                (0..5).flat_map(|other| [11, 500, u64::MAX].map(|before| (other, before)))
            {
                let mut sent: Vec<u64> = generation.sent_to(user, other, before).collect();
                sent.reverse();
                let expected = expected(&(0..=before - 1), &|id| id % 3 == user && id % 5 == other);
                assert_eq!(sent, expected, "from {user} to {other} before {before}");
            }
        }
    }
}
