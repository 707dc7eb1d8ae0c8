//! The index against what `messages` itself says, through merges, crashes and rows that go.

use rusqlite::Connection;

use super::{Index, IndexedMessage, List, Memtable, Merge, MergeSchedule, remove};
use crate::state::integers::{int, uint};

const USERS: u64 = 5;
/// A merge is due with every message.
const SCHEDULE: MergeSchedule = MergeSchedule { at: 1, phase: 0 };

struct World {
    conn: Connection,
    memtable: Memtable,
    merge: Option<Merge>,
    next_id: u64,
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
        self.memtable.add(IndexedMessage {
            id,
            sender,
            recipient,
        });
    }

    fn forget(&mut self, id: u64) {
        let found = self.conn.query_row(
            "DELETE FROM messages WHERE id = ?1 RETURNING sender_id, recipient_id",
            [int(id)],
            |row| {
                Ok(IndexedMessage {
                    id,
                    sender: uint(row, 0)?,
                    recipient: uint(row, 1)?,
                })
            },
        );
        if let Ok(message) = found {
            remove(&self.conn, &self.memtable, message).unwrap();
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
    }
}

impl World {
    /// Once all is merged: each list has its messages, and no others.
    fn check_rows(&self, what: &str) {
        let rows = |sql: &str| -> Vec<[i64; 4]> {
            let mut statement = self.conn.prepare(sql).unwrap();
            let found = statement.query_map([], |row| {
                Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
            });
            found.unwrap().map(Result::unwrap).collect()
        };
        let listed = rows("SELECT user_id, side, id, other FROM message_lists ORDER BY 1, 2, 3");
        let expected = rows(
            "SELECT recipient_id, 0, id, sender_id FROM messages
             UNION ALL SELECT sender_id, 1, id, recipient_id FROM messages ORDER BY 1, 2, 3",
        );
        assert_eq!(listed, expected, "{what}");
    }
}

#[test]
fn whatever_happens_the_index_finds_what_is_there() {
    for seed in 0..40 {
        let mut world = World::new();
        let mut random = fastrand::Rng::with_seed(seed);
        for step in 0..120 {
            let roll = random.u64(..100);
            let (a, b) = (random.u64(1..=USERS), random.u64(1..=USERS));
            match roll {
                0..60 => world.send(a, b),
                60..70 => world.forget(random.u64(..world.next_id)),
                70..95 => {
                    world.merge(random.usize(1..10));
                }
                _ => world.crash(),
            }
            if step % 10 == 9 {
                let after = random.u64(..world.next_id);
                world.check(after, &format!("seed {seed}, step {step}"));
            }
        }
        while world.merge(1_000) {}
        world.check(0, &format!("seed {seed}, all merged"));
        world.check_rows(&format!("seed {seed}"));
    }
}

#[test]
fn nodes_merge_in_turns() {
    let merged_at = |node: u64| {
        let memtable = Memtable::new(MergeSchedule::of_node(node, 300));
        let mut merged = Vec::new();
        for id in 1..=3_000 {
            memtable.add(IndexedMessage {
                id,
                sender: 1,
                recipient: 2,
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
fn no_two_messages_of_a_sender_have_the_same_key() {
    let world = World::new();
    let insert = |id: u64, sender: u64| {
        world.conn.execute(
            "INSERT INTO messages (id, sender_id, recipient_id, body, sent_at, key) VALUES (?1, ?2, 9, '', 0, 'k')",
            (int(id), int(sender)),
        )
    };
    insert(1, 1).unwrap();
    insert(2, 2).unwrap();
    let error = insert(3, 1).unwrap_err();
    assert_eq!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::ConstraintViolation)
    );
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
