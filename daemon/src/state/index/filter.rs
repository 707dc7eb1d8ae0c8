//! Which keys were ever used. Nearly every send brings a new one, and to learn that from the tables takes searches in
//! trees that grow with all that was ever sent: most of their pages are cold when they are large. Keys are permanent, so
//! nothing is ever taken out.
//!
//! Bloom filters (Bloom, 1970) whose bits for one key lie in one cache line (Putze, Sanders and Singler, 2007), in
//! layers that double, because nobody knows how many keys there will be (Almeida et al., 2007). Never replicated nor
//! stored: it is filled from the tables in the background after a start.

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
/// Together 64 MiB, for 33 million keys. With more of them the tables are asked.
const LAYERS_MAX: usize = 9;

/// Where keys are, each with the query for what follows (?1 key, ?2 sender) in the table's order.
const TABLES: [&str; 2] = [
    "SELECT sender_id, key FROM message_keys WHERE (key, sender_id) > (?1, ?2) ORDER BY key, sender_id LIMIT ?3",
    "SELECT sender_id, key FROM send_keys WHERE (sender_id, key) > (?2, ?1) ORDER BY sender_id, key LIMIT ?3",
];

/// How far the tables were read.
#[derive(Clone)]
enum Filled {
    Through(Place),
    Whole,
    /// There are more keys than it may take.
    GivenUp,
}

/// A row of one of the tables, or before the first.
#[derive(Clone, Default)]
pub(super) struct Place {
    table: usize,
    sender: u64,
    key: Box<str>,
}

impl Place {
    /// The next rows' senders and keys; none at the table's end.
    pub fn read_on(&self, conn: &Connection, at_most: usize) -> Result<Vec<(u64, Box<str>)>> {
        let mut statement = conn.prepare_cached(TABLES[self.table])?;
        let row = |row: &Row<'_>| Ok((uint(row, 0)?, row.get_ref(1)?.as_str()?.into()));
        statement
            .query_map((&*self.key, int(self.sender), int(at_most as u64)), row)?
            .collect()
    }
}

/// See the file. Its users hash the keys, because they look in other places with the same hash; it must be a good one.
pub(super) struct KeyFilter {
    layers: Vec<Layer>,
    filled: Filled,
}

struct Layer {
    blocks: Vec<[u64; BLOCK_WORDS]>,
    room: usize,
}

impl Default for KeyFilter {
    /// Knows nothing yet.
    fn default() -> Self {
        KeyFilter {
            layers: Vec::new(),
            filled: Filled::Through(Place::default()),
        }
    }
}

impl KeyFilter {
    /// Takes note of a key that was read in a table, or changes from one to the other: it may have come before.
    pub fn add(&mut self, hash: u64) {
        if !self.layers.iter().rev().any(|layer| layer.may_hold(hash)) {
            self.add_new(hash);
        }
    }

    /// Takes note of a key that is written to a table. One that came before only takes room; to look for it takes longer
    /// than all else, a line of each layer that is in no cache.
    pub fn add_new(&mut self, hash: u64) {
        if matches!(self.filled, Filled::GivenUp) {
            return;
        }
        if self.layers.last().is_none_or(|layer| layer.room == 0) {
            if self.layers.len() == LAYERS_MAX {
                *self = KeyFilter {
                    layers: Vec::new(),
                    filled: Filled::GivenUp,
                };
                return;
            }
            self.layers
                .push(Layer::with_room(FIRST_LAYER_KEYS << self.layers.len()));
        }
        if let Some(layer) = self.layers.last_mut() {
            layer.add(hash);
        }
    }

    /// False: no table holds the key.
    pub fn may_hold(&self, hash: u64) -> bool {
        !matches!(self.filled, Filled::Whole)
            || self.layers.iter().rev().any(|layer| layer.may_hold(hash))
    }

    /// Where the tables are to be read on; `None` when there is no need.
    pub fn unread_behind(&self) -> Option<Place> {
        match &self.filled {
            Filled::Through(through) => Some(through.clone()),
            Filled::Whole | Filled::GivenUp => None,
        }
    }

    /// Takes what was read there.
    pub fn take(&mut self, keys: Vec<(u64, Box<str>)>, hasher: &RandomState) {
        keys.iter()
            .for_each(|(sender, key)| self.add(hasher.hash_one((*sender, &**key))));
        let Filled::Through(Place { table, .. }) = self.filled else {
            return;
        };
        self.filled = match keys.into_iter().next_back() {
            Some((sender, key)) => Filled::Through(Place { table, sender, key }),
            None if table + 1 < TABLES.len() => Filled::Through(Place {
                table: table + 1,
                ..Place::default()
            }),
            None => Filled::Whole,
        };
    }
}

impl Layer {
    fn with_room(keys: usize) -> Layer {
        Layer {
            blocks: vec![[0; BLOCK_WORDS]; keys * BITS_PER_KEY / BLOCK_BITS],
            room: keys,
        }
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

    struct Tried {
        filter: KeyFilter,
        hasher: RandomState,
    }

    impl Tried {
        fn new() -> Tried {
            Tried {
                filter: KeyFilter::default(),
                hasher: RandomState::default(),
            }
        }

        fn add(&mut self, sender: u64, key: &str) {
            self.filter.add(self.hasher.hash_one((sender, key)));
        }

        fn may_hold(&self, sender: u64, key: &str) -> bool {
            self.filter.may_hold(self.hasher.hash_one((sender, key)))
        }

        /// False when there was nothing left to read.
        fn fill(&mut self, conn: &Connection, at_most: usize) -> bool {
            let Some(place) = self.filter.unread_behind() else {
                return false;
            };
            self.filter
                .take(place.read_on(conn, at_most).unwrap(), &self.hasher);
            true
        }

        fn filled(count: u64) -> Tried {
            let mut tried = Tried::new();
            keys(count).for_each(|(sender, key)| tried.add(sender, &key));
            while tried.fill(&tables(""), 1) {}
            tried
        }
    }

    fn tables(rows: &str) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&format!(
            "CREATE TABLE message_keys (key TEXT, sender_id INTEGER, PRIMARY KEY (key, sender_id)) WITHOUT ROWID;
             CREATE TABLE send_keys (sender_id INTEGER, key TEXT, PRIMARY KEY (sender_id, key)) WITHOUT ROWID; {rows}"
        ))
        .unwrap();
        conn
    }

    #[test]
    fn what_was_added_is_never_denied_through_several_layers() {
        const KEYS: u64 = 5 * FIRST_LAYER_KEYS as u64;
        let tried = Tried::filled(KEYS);
        assert_eq!(tried.filter.layers.len(), 3);
        for (sender, key) in keys(KEYS) {
            assert!(tried.may_hold(sender, &key), "{sender} {key}");
        }
    }

    #[test]
    fn a_key_that_came_before_takes_no_room_unless_it_is_said_to_be_new() {
        let mut tried = Tried::filled(10);
        let room = |tried: &Tried| tried.filter.layers[0].room;
        let before = room(&tried);
        tried.add(3, "key 3");
        assert_eq!(room(&tried), before);
        tried
            .filter
            .add_new(tried.hasher.hash_one((3_u64, "key 3")));
        assert_eq!(room(&tried), before - 1);
    }

    #[test]
    fn few_others_are_looked_up_in_vain() {
        const ASKED: u64 = 100_000;
        let tried = Tried::filled(FIRST_LAYER_KEYS as u64);
        let in_vain = (0..ASKED)
            .filter(|n| tried.may_hold(8, &format!("key {n}")))
            .count();
        assert!(in_vain < 500, "{in_vain} of {ASKED}");
    }

    #[test]
    fn a_filter_that_is_not_filled_denies_nothing() {
        let conn = tables(
            "INSERT INTO message_keys VALUES ('a', 1), ('b', 1), ('', 2), ('a', 2);
             INSERT INTO send_keys VALUES (1, 'old'), (2, 'old'), (2, 'older');",
        );
        let mut tried = Tried::new();
        let mut pieces = 0;
        while tried.fill(&conn, 1) {
            pieces += 1;
            assert!(
                pieces == 9 || tried.may_hold(3, "never"),
                "after {pieces} pieces"
            );
        }
        assert_eq!(pieces, 9, "a row each, and one a table that finds no more");
        for (sender, key) in [
            (1, "a"),
            (1, "b"),
            (2, ""),
            (2, "a"),
            (1, "old"),
            (2, "old"),
            (2, "older"),
        ] {
            assert!(tried.may_hold(sender, key), "{sender} {key}");
        }
        assert!(!tried.may_hold(3, "never"));
    }

    #[test]
    fn a_filter_that_would_grow_too_large_gives_up_and_denies_nothing() {
        let mut tried = Tried::filled(1);
        while tried.filter.layers.len() < LAYERS_MAX {
            tried.filter.layers.push(Layer {
                room: 0,
                ..Layer::with_room(BLOCK_BITS)
            });
        }
        tried.add(1, "one too many");
        assert!(tried.may_hold(3, "never") && tried.filter.layers.is_empty());
        tried.add(1, "and another");
        assert!(tried.filter.layers.is_empty() && !tried.fill(&tables(""), 1));
    }
}
