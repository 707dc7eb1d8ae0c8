//! Which keys `message_keys` may hold. Nearly every send brings a key that was never used, and to learn that from the
//! table takes a search in a tree that grows with all that was ever sent: most of its pages are cold when it is large.
//!
//! Bloom filters (Bloom, 1970) whose bits for one key lie in one cache line (Putze, Sanders and Singler, 2007), in
//! layers that double, because nobody knows how many keys there will be (Almeida et al., 2007). Never replicated nor
//! stored: it is filled from the table in the background after a start.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use rusqlite::{Connection, Result, Row};

use crate::state::sql::{int, uint};

/// Bits for each key: of a full layer, about one key in 500 that was never used is looked up in vain.
const BITS_PER_KEY: usize = 16;
/// Bits that a key sets.
const BITS_SET: u32 = 6;
/// A cache line.
const BLOCK_BITS: usize = 512;
const WORD_BITS: usize = u64::BITS as usize;
const BLOCK_WORDS: usize = BLOCK_BITS / WORD_BITS;
/// Keys that the first layer takes: 128 KiB.
const FIRST_LAYER_KEYS: usize = 1 << 16;

/// How far the table was read.
enum Filled {
    /// Through this row; nothing yet, if there is none.
    Through(Option<Place>),
    /// To its end, when so many keys had been added.
    Whole(usize),
}

/// A row of the table.
#[derive(Clone, Default)]
pub(super) struct Place {
    sender: u64,
    key: Box<str>,
}

/// See the file.
pub(super) struct KeyFilter {
    hasher: RandomState,
    layers: Vec<Layer>,
    added: usize,
    filled: Filled,
}

struct Layer {
    blocks: Vec<[u64; BLOCK_WORDS]>,
    room: usize,
}

impl Default for KeyFilter {
    /// Knows nothing yet.
    fn default() -> Self {
        KeyFilter { hasher: RandomState::default(), layers: Vec::new(), added: 0, filled: Filled::Through(None) }
    }
}

impl KeyFilter {
    /// Takes note of a key that is written to the table, or was read there. It is not taken out when its message goes:
    /// once twice as many were added as the table held, the filter begins anew.
    pub fn add(&mut self, sender: u64, key: &str) {
        if matches!(self.filled, Filled::Whole(then) if self.added >= 2 * then + FIRST_LAYER_KEYS) {
            *self = KeyFilter::default();
        }
        let hash = self.hasher.hash_one((sender, key));
        if self.layers.last().is_none_or(|layer| layer.room == 0) {
            self.layers.push(Layer::with_room(FIRST_LAYER_KEYS << self.layers.len()));
        }
        if let Some(layer) = self.layers.last_mut() {
            layer.add(hash);
        }
        self.added += 1;
    }

    /// False: the table does not hold the key.
    pub fn may_hold(&self, sender: u64, key: &str) -> bool {
        if matches!(self.filled, Filled::Through(_)) {
            return true;
        }
        let hash = self.hasher.hash_one((sender, key));
        self.layers.iter().rev().any(|layer| layer.may_hold(hash))
    }

    /// Behind which row of the table it is to be read on; `None` once it was read to its end.
    pub fn unread_behind(&self) -> Option<Place> {
        match &self.filled {
            Filled::Through(through) => Some(through.clone().unwrap_or_default()),
            Filled::Whole(_) => None,
        }
    }

    /// Takes what [`rows_behind`] read there.
    pub fn take(&mut self, rows: Vec<Place>) {
        rows.iter().for_each(|Place { sender, key }| self.add(*sender, key));
        self.filled = match rows.into_iter().next_back() {
            Some(last) => Filled::Through(Some(last)),
            None => Filled::Whole(self.added),
        };
    }
}

/// The next rows of the table; none at its end.
pub(super) fn rows_behind(conn: &Connection, place: &Place, at_most: usize) -> Result<Vec<Place>> {
    let mut statement = conn.prepare_cached(
        "SELECT sender_id, key FROM message_keys WHERE (sender_id, key) > (?1, ?2) ORDER BY sender_id, key LIMIT ?3",
    )?;
    let row = |row: &Row<'_>| Ok(Place { sender: uint(row, 0)?, key: row.get_ref(1)?.as_str()?.into() });
    statement.query_map((int(place.sender), &*place.key, int(at_most as u64)), row)?.collect()
}

impl Layer {
    fn with_room(keys: usize) -> Layer {
        Layer { blocks: vec![[0; BLOCK_WORDS]; keys * BITS_PER_KEY / BLOCK_BITS], room: keys }
    }

    fn add(&mut self, hash: u64) {
        let at = self.block(hash);
        bits(hash).for_each(|bit| self.blocks[at][bit / WORD_BITS] |= 1 << (bit % WORD_BITS));
        self.room = self.room.saturating_sub(1);
    }

    fn may_hold(&self, hash: u64) -> bool {
        let block = &self.blocks[self.block(hash)];
        bits(hash).all(|bit| block[bit / WORD_BITS] & (1 << (bit % WORD_BITS)) != 0)
    }

    /// The number of blocks is a power of two, of which the hash's highest bits choose.
    fn block(&self, hash: u64) -> usize {
        hash.rotate_left(self.blocks.len().trailing_zeros()) as usize & (self.blocks.len() - 1)
    }
}

/// The places of a key's bits in its block: pieces of nine bits, mixed anew, because the highest bits choose the block.
fn bits(hash: u64) -> impl Iterator<Item = usize> {
    const PLACE_BITS: u32 = BLOCK_BITS.trailing_zeros();
    // An odd constant (2^64 by the golden ratio) spreads whatever bits the block has left.
    let mixed = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..BITS_SET).map(move |n| (mixed >> (n * PLACE_BITS)) as usize & (BLOCK_BITS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: u64) -> impl Iterator<Item = (u64, String)> {
        (0..count).map(|n| (n % 7, format!("key {n}")))
    }

    fn filled(count: u64) -> KeyFilter {
        let mut filter = KeyFilter::default();
        keys(count).for_each(|(sender, key)| filter.add(sender, &key));
        filter.take(Vec::new());
        filter
    }

    fn table(rows: &str) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&format!(
            "CREATE TABLE message_keys (sender_id INTEGER, key TEXT, message_id INTEGER, PRIMARY KEY (sender_id, key))
             WITHOUT ROWID; {rows}"
        ))
        .unwrap();
        conn
    }

    /// False when there was nothing left to read.
    fn fill(filter: &mut KeyFilter, conn: &Connection, at_most: usize) -> bool {
        let Some(place) = filter.unread_behind() else { return false };
        filter.take(rows_behind(conn, &place, at_most).unwrap());
        true
    }

    #[test]
    fn what_was_added_is_never_denied_through_several_layers() {
        const KEYS: u64 = 5 * FIRST_LAYER_KEYS as u64;
        let filter = filled(KEYS);
        assert_eq!(filter.layers.len(), 3);
        for (sender, key) in keys(KEYS) {
            assert!(filter.may_hold(sender, &key), "{sender} {key}");
        }
    }

    #[test]
    fn few_others_are_looked_up_in_vain() {
        const ASKED: u64 = 100_000;
        let filter = filled(FIRST_LAYER_KEYS as u64);
        let in_vain = (0..ASKED).filter(|n| filter.may_hold(8, &format!("key {n}"))).count();
        assert!(in_vain < 500, "{in_vain} of {ASKED}");
    }

    #[test]
    fn a_filter_that_is_not_filled_denies_nothing() {
        let conn = table("INSERT INTO message_keys VALUES (1, 'a', 1), (1, 'b', 2), (2, '', 3), (2, 'a', 4);");
        let mut filter = KeyFilter::default();
        let mut pieces = 0;
        while fill(&mut filter, &conn, 1) {
            pieces += 1;
            assert!(pieces > 4 || filter.may_hold(3, "never"), "after {pieces} rows");
        }
        assert_eq!(pieces, 5, "a row each, and one that finds no more");
        for (sender, key) in [(1, "a"), (1, "b"), (2, ""), (2, "a")] {
            assert!(filter.may_hold(sender, key), "{sender} {key}");
        }
        assert!(!filter.may_hold(3, "never"));
    }

    #[test]
    fn keys_that_went_do_not_stay_for_ever() {
        let conn = table("INSERT INTO message_keys VALUES (1, 'stays', 1);");
        let mut filter = KeyFilter::default();
        while fill(&mut filter, &conn, 10) {}
        let mut anew = 0;
        for n in 0..4 * FIRST_LAYER_KEYS {
            filter.add(2, &n.to_string());
            if filter.unread_behind().is_some() {
                anew += 1;
                assert!(filter.may_hold(3, "never"), "not filled: it denies nothing");
                while fill(&mut filter, &conn, 10) {}
            }
            assert!(filter.may_hold(1, "stays"), "after {n}");
        }
        assert_eq!(anew, 3);
        assert!(filter.layers.len() <= 2);
    }
}
