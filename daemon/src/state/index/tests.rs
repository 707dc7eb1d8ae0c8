//! The index against what `messages` itself says, through merges, crashes and rows that go.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::lists::ROW_MESSAGES_MAX;
use super::{Entry, Index, KeyUse, List, Memtable, Merge, MergeSchedule, by_key, remove};
use crate::state::sql::{int, uint};

const USERS: u64 = 5;
/// A merge is due with every message.
const SCHEDULE: MergeSchedule = MergeSchedule { at: 1, phase: 0 };

struct World {
    conn: Connection,
    memtable: Memtable,
    merge: Option<Merge>,
    next_id: u64,
}

/// SplitMix64 (Steele et al., 2014).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn schema(conn: &Connection) {
    conn.execute_batch(include_str!("../../../../migrations/0001_first.sql"))
        .unwrap();
}

impl World {
    fn new() -> World {
        let conn = Connection::open_in_memory().unwrap();
        schema(&conn);
        World {
            conn,
            memtable: Memtable::new(SCHEDULE),
            merge: None,
            next_id: 1,
        }
    }

    fn send(&mut self, sender: u64, recipient: u64) {
        let id = self.next_id;
        self.next_id += 1;
        let key = format!("k{id}");
        self.conn
            .execute(
                "INSERT INTO messages (id, sender_id, recipient_id, body, sent_at, key) VALUES (?1, ?2, ?3, '', 0, ?4)",
                (int(id), int(sender), int(recipient), &key),
            )
            .unwrap();
        self.memtable.add(Entry {
            id,
            sender,
            recipient,
            key: &key,
        });
    }

    fn forget(&mut self, id: u64) {
        let found = self.conn.query_row(
            "DELETE FROM messages WHERE id = ?1 RETURNING sender_id, recipient_id, key",
            [int(id)],
            |row| Ok((uint(row, 0)?, uint(row, 1)?, row.get::<_, String>(2)?)),
        );
        if let Ok((sender, recipient, key)) = found {
            const KEPT: &str = "INSERT INTO send_keys (sender_id, key, digest, message_id, sent_at) VALUES (?1, ?2, x'', ?3, 0)";
            self.conn
                .execute(KEPT, (int(sender), &key, int(id)))
                .unwrap();
            remove(
                &self.conn,
                &self.memtable,
                Entry {
                    id,
                    sender,
                    recipient,
                    key: &key,
                },
            )
            .unwrap();
        }
    }

    /// False when nothing was left to merge.
    fn merge(&mut self, rows: usize) -> bool {
        let Some(mut merge) = self.merge.take().or_else(|| Merge::begin(&self.memtable)) else {
            return false;
        };
        if merge.piece(&self.conn, &self.memtable, rows).unwrap() {
            merge.committed(&self.memtable);
        } else {
            self.merge = Some(merge);
        }
        true
    }

    /// All that was in memory is lost.
    fn crash(&mut self) {
        self.merge = None;
        self.memtable = Memtable::load(&self.conn, SCHEDULE).unwrap();
    }

    fn ids(&self, condition: &str) -> Vec<u64> {
        let mut statement = self
            .conn
            .prepare(&format!("SELECT id FROM messages WHERE {condition}"))
            .unwrap();
        statement
            .query_map([], |row| uint(row, 0))
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }

    fn there(&self, ids: Vec<u64>) -> Vec<u64> {
        ids.into_iter()
            .filter(|id| !self.ids(&format!("id = {id}")).is_empty())
            .collect()
    }

    fn check(&self, after: u64, what: &str) {
        let index = Index::of(&self.conn, &self.memtable).unwrap();
        for user in 1..=USERS {
            for (list, column) in [
                (List::to(user), "recipient_id"),
                (List::from(user), "sender_id"),
            ] {
                let listed = self.there(index.list(list, after, u64::MAX, usize::MAX).unwrap());
                let expected = self.ids(&format!("{column} = {user} AND id > {after} ORDER BY id"));
                assert_eq!(listed, expected, "{what}: {list:?} after {after}");
                let half = after / 2;
                let between = self.there(index.list(list, half, after, usize::MAX).unwrap());
                let expected = self.ids(&format!(
                    "{column} = {user} AND id > {half} AND id <= {after} ORDER BY id"
                ));
                assert_eq!(between, expected, "{what}: {list:?} from {half} to {after}");
                let first = index.list(list, after, u64::MAX, 2).unwrap();
                assert!(first.len() <= 2 && first.is_sorted(), "{what}: {first:?}");
            }
            for other in 1..=USERS {
                let listed = self.there(index.between(user, other, after, usize::MAX).unwrap());
                let expected = self.ids(&format!(
                    "((sender_id = {user} AND recipient_id = {other}) OR (sender_id = {other} AND recipient_id = {user}))
                     AND id < {after} ORDER BY id DESC"
                ));
                assert_eq!(
                    listed, expected,
                    "{what}: between {user} and {other} before {after}"
                );
            }
        }
        for id in self.ids("true") {
            let owner: i64 = self
                .conn
                .query_row(
                    "SELECT sender_id FROM messages WHERE id = ?1",
                    [int(id)],
                    |r| r.get(0),
                )
                .unwrap();
            let found = by_key(
                &self.conn,
                &self.memtable,
                owner.unsigned_abs(),
                &format!("k{id}"),
            )
            .unwrap();
            assert_eq!(found, KeyUse::Message(id), "{what}: key of {id}");
        }
        let mut statement = self
            .conn
            .prepare("SELECT sender_id, key FROM send_keys")
            .unwrap();
        let kept = statement
            .query_map([], |row| Ok((uint(row, 0)?, row.get::<_, String>(1)?)))
            .unwrap();
        for (sender, key) in kept.map(Result::unwrap) {
            let found = by_key(&self.conn, &self.memtable, sender, &key).unwrap();
            assert_ne!(found, KeyUse::Never, "{what}: {key} outlives its message");
        }
        let never = by_key(&self.conn, &self.memtable, 1, "never used").unwrap();
        assert!(!matches!(never, KeyUse::Message(_)), "{what}: {never:?}");
    }
}

impl World {
    /// Once all is merged: each list has its messages, once, in rows that don't overlap.
    fn check_rows(&self, what: &str) {
        const ROWS: &str =
            "SELECT user_id, side, last_id, ids, others FROM message_lists ORDER BY 1, 2, 3";
        let mut statement = self.conn.prepare(ROWS).unwrap();
        let mut listed: BTreeMap<[i64; 2], Vec<(u64, i64)>> = BTreeMap::new();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let list = listed
                .entry([0, 1].map(|n| row.get(n).unwrap()))
                .or_default();
            let ids: Vec<u64> = serde_json::from_str(&row.get::<_, String>(3).unwrap()).unwrap();
            let others: Vec<i64> = serde_json::from_str(&row.get::<_, String>(4).unwrap()).unwrap();
            assert!(
                !ids.is_empty() && ids.len() <= ROW_MESSAGES_MAX && ids.len() == others.len(),
                "{what}: {ids:?}"
            );
            assert!(
                ids.last() <= Some(&uint(row, 2).unwrap()),
                "{what}: {ids:?}"
            );
            list.extend(ids.into_iter().zip(others));
        }
        let mut expected: BTreeMap<[i64; 2], Vec<(u64, i64)>> = BTreeMap::new();
        let mut statement = self
            .conn
            .prepare("SELECT id, sender_id, recipient_id FROM messages ORDER BY id")
            .unwrap();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let [id, from, to]: [i64; 3] = [0, 1, 2].map(|n| row.get(n).unwrap());
            for (list, other) in [([to, 0], from), ([from, 1], to)] {
                expected
                    .entry(list)
                    .or_default()
                    .push((id.unsigned_abs(), other));
            }
        }
        assert_eq!(listed, expected, "{what}");
    }
}

#[test]
fn whatever_happens_the_index_finds_what_is_there() {
    for seed in 0..40 {
        let mut world = World::new();
        let mut state = seed;
        for step in 0..120 {
            let roll = random(&mut state) % 100;
            let (a, b) = (
                random(&mut state) % USERS + 1,
                random(&mut state) % USERS + 1,
            );
            match roll {
                0..60 => world.send(a, b),
                60..70 => world.forget(random(&mut state) % world.next_id),
                70..90 => {
                    world.merge(1 + (random(&mut state) % 9) as usize);
                }
                90..95 => {
                    world
                        .memtable
                        .fill_filter(&world.conn, 1 + (random(&mut state) % 9) as usize)
                        .unwrap();
                }
                _ => world.crash(),
            }
            if step % 10 == 9 {
                let after = random(&mut state) % world.next_id;
                world.check(after, &format!("seed {seed}, step {step}"));
            }
        }
        while world.merge(1_000) {}
        world.check(0, &format!("seed {seed}, all merged"));
        let entries: i64 = world
            .conn
            .query_row("SELECT count(*) FROM message_keys", [], |row| row.get(0))
            .unwrap();
        assert_eq!(
            entries,
            world.ids("true").len() as i64,
            "seed {seed}: nothing stays of what went"
        );
        world.check_rows(&format!("seed {seed}"));
    }
}

#[test]
fn a_list_that_grows_by_one_message_a_merge_has_full_rows() {
    const FULL: u64 = 3;
    for crashes in [false, true] {
        let mut world = World::new();
        for _ in 0..FULL * ROW_MESSAGES_MAX as u64 {
            world.send(1, 2);
            if crashes {
                world.crash();
            }
            while world.merge(9) {}
        }
        let rows = world
            .conn
            .query_row("SELECT count(*) FROM message_lists", [], |row| uint(row, 0))
            .unwrap();
        assert_eq!(rows, 2 * FULL, "crashes: {crashes}");
        world.check_rows("all merged");
    }
}

#[test]
fn nodes_merge_in_turns() {
    let merged_at = |node: u64| {
        let memtable = Memtable::new(MergeSchedule::of_node(node, 300));
        let mut merged = Vec::new();
        for id in 1..=3_000 {
            memtable.add(Entry {
                id,
                sender: 1,
                recipient: 2,
                key: &id.to_string(),
            });
            if memtable.freeze().is_some() {
                merged.push(id);
                memtable.merged();
            }
        }
        merged
    };
    let nodes = [1, 2, 3].map(merged_at);
    assert!(
        nodes.iter().all(|merged| (9..=11).contains(&merged.len())),
        "{nodes:?}"
    );
    for id in &nodes[0][1..] {
        let apart = |other: &Vec<u64>| other.iter().all(|at| at.abs_diff(*id) >= 90);
        assert!(apart(&nodes[1]) && apart(&nodes[2]), "{nodes:?}");
    }
}

#[test]
fn two_messages_under_one_key_stop_the_merge() {
    let world = World::new();
    for id in 1..=20 {
        let key = format!("k{}", id % 19);
        world.memtable.add(Entry {
            id,
            sender: 1,
            recipient: 2,
            key: &key,
        });
    }
    let mut merge = Merge::begin(&world.memtable).unwrap();
    let error = merge.piece(&world.conn, &world.memtable, 100).unwrap_err();
    assert_eq!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseCorrupt)
    );
}

/// Another error would be taken for that of the entry which reads the list, and this node alone would roll it back.
#[test]
fn a_damaged_list_is_an_error_of_the_file() {
    for damage in ["ids = 'x'", "others = '[1, 2]'"] {
        let mut world = World::new();
        world.send(1, 2);
        while world.merge(9) {}
        world
            .conn
            .execute_batch(&format!("UPDATE message_lists SET {damage}"))
            .unwrap();
        let error = List::to(2).remove(&world.conn, 1).unwrap_err();
        assert_eq!(
            error.sqlite_error_code(),
            Some(rusqlite::ErrorCode::DatabaseCorrupt),
            "{damage}: {error}"
        );
    }
}

#[test]
fn a_removal_that_is_taken_back_loses_nothing() {
    let mut world = World::new();
    world.send(1, 2);
    world.conn.execute_batch("SAVEPOINT entry").unwrap();
    world.forget(1);
    world
        .conn
        .execute_batch("ROLLBACK TO entry; RELEASE entry")
        .unwrap();
    while world.merge(1) {}
    world.check(0, "after the merge");
    world.crash();
    world.check(0, "after a crash");
}

#[test]
fn a_read_that_began_before_a_merge_sees_all_and_before_two_is_sent_away() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Connection::open(dir.path().join("db")).unwrap();
    let mut world = World {
        conn: open(),
        ..World::new()
    };
    world
        .conn
        .execute_batch("PRAGMA journal_mode = WAL")
        .unwrap();
    schema(&world.conn);
    world.send(1, 2);
    let reader = open();
    let read = reader.unchecked_transaction().unwrap();
    let memtable = world.memtable.clone();
    let index = Index::of(&read, &memtable).unwrap();
    let received = || index.list(List::to(2), 0, u64::MAX, 9);
    while world.merge(9) {}
    world.send(1, 2);
    assert_eq!(
        received().unwrap(),
        [1, 2],
        "the second one's row is not visible yet"
    );
    while world.merge(9) {}
    let error = received().unwrap_err();
    assert_eq!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseBusy)
    );
    assert_eq!(
        Index::of(&world.conn, &world.memtable)
            .unwrap()
            .list(List::to(2), 0, u64::MAX, 9)
            .unwrap(),
        [1, 2]
    );
}
