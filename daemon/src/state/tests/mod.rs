//! Apply over in-memory SQLite: every change and every outcome. `World` is the one harness.

mod accounts;
mod messages;
mod reads;
mod row_cache;
mod sessions;

use std::sync::Arc;

use rusqlite::Connection;

use super::index::{Memtable, Merge, MergeSchedule};
use super::*;
use crate::change::{Change, Envelope, Refusal, Secrets, Settings};
use crate::entry::{LogId, LogPayload, LogRow};

/// So few messages that a test may merge them.
const MERGED_EARLY: usize = 3;

/// A database with the schema, and the log's next index.
pub(super) struct World {
    pub conn: Connection,
    pub memtable: Memtable,
    machine: Machine,
    merge: Option<Merge>,
    index: u64,
    /// The leader's stamp of the next change.
    pub at: u64,
}

pub(super) fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused(refusal)
}

impl World {
    pub fn new() -> World {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(include_str!("../../../../migrations/0001_first.sql"))
            .unwrap();
        let memtable = Memtable::new(MergeSchedule {
            at: MERGED_EARLY,
            phase: 0,
        });
        World {
            conn,
            machine: Machine::new(memtable.clone()),
            merge: None,
            memtable,
            index: 0,
            at: 1_000_000,
        }
    }

    pub fn row(&mut self, payload: LogPayload) -> LogRow {
        self.index += 1;
        LogRow {
            id: LogId {
                term: 1,
                leader: 65_537,
                index: self.index,
            },
            payload,
        }
    }

    /// Applies in a transaction of its own, as the writer does.
    pub fn try_apply(&mut self, payload: LogPayload) -> Result<Applied, ApplyError> {
        let row = self.row(payload);
        let tx = self.conn.unchecked_transaction().unwrap();
        let applied = self.machine.apply(&tx, &row)?;
        self.machine.save(&tx).unwrap();
        tx.commit().unwrap();
        Ok(applied)
    }

    pub fn full(&mut self, actor: Option<u64>, body: Change, secrets: Option<Secrets>) -> Applied {
        self.at += 1;
        let envelope = Envelope {
            v: LOG_VERSION,
            at: self.at,
            actor,
            body,
            secrets,
        };
        self.try_apply(LogPayload::Change(Arc::new(envelope)))
            .unwrap()
    }

    /// A change by a session.
    pub fn by(&mut self, session: u64, body: Change) -> Applied {
        self.full(Some(session), body, None)
    }

    /// A change by nobody: operator or leader.
    pub fn op(&mut self, body: Change) -> Applied {
        self.full(None, body, None)
    }

    pub fn register_as(&mut self, name: &str, key: &str, by_operator: bool) -> Outcome {
        let body = Change::Register {
            name: name.into(),
            key: key.into(),
            by_operator,
        };
        self.full(None, body, Some(password("$first"))).outcome
    }

    pub fn register(&mut self, name: &str) -> u64 {
        match self.register_as(name, &format!("key of {name}"), false) {
            Outcome::Registered { user, .. } => user,
            other => panic!("{other:?}"),
        }
    }

    pub fn login(&mut self, user: u64, token: u8) -> u64 {
        match self.try_login(user, 1, token).outcome {
            Outcome::LoggedIn { session, .. } => session,
            other => panic!("{other:?}"),
        }
    }

    pub fn try_login(&mut self, user: u64, credential_version: u64, token: u8) -> Applied {
        let secrets = Secrets {
            password_hash: None,
            token_hash: Some([token; 32]),
        };
        self.full(
            None,
            Change::Login {
                user,
                credential_version,
            },
            Some(secrets),
        )
    }

    /// Two users, each with one session: (user, session) of Ann, then of Bob.
    pub fn ann_and_bob(&mut self) -> ((u64, u64), (u64, u64)) {
        let (ann, bob) = (self.register("Ann"), self.register("Bob"));
        ((ann, self.login(ann, 1)), (bob, self.login(bob, 2)))
    }

    pub fn send(
        &mut self,
        (user, session): (u64, u64),
        to: &str,
        body: &str,
        key: &str,
    ) -> Applied {
        self.by(
            session,
            Change::Send {
                user,
                to: to.into(),
                body: body.into(),
                key: key.into(),
            },
        )
    }

    /// One piece of a merge, if one is due.
    pub fn merge(&mut self, rows: usize) -> bool {
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

    pub fn count(&self, sql: &str) -> i64 {
        self.conn.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    pub fn settings(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = read::settings(&self.conn).unwrap();
        change(&mut settings);
        assert_eq!(self.op(Change::Settings(settings)).outcome, Outcome::Done);
    }
}

pub(super) fn password(hash: &str) -> Secrets {
    Secrets {
        password_hash: Some(hash.into()),
        token_hash: None,
    }
}

#[test]
fn the_clock_only_grows_and_is_the_stored_time() {
    let mut w = World::new();
    w.at = 5_000;
    w.register("Ann");
    assert_eq!(w.count("SELECT created_at FROM users"), 5_001);
    w.at = 100;
    w.register("Bob");
    assert_eq!(
        w.count("SELECT created_at FROM users WHERE name = 'Bob'"),
        5_002
    );
    w.op(Change::Lock {
        name: "nobody".into(),
    });
    assert_eq!(
        read::clock(&w.conn).unwrap(),
        5_003,
        "a refused change moves it too"
    );
}

#[test]
fn blank_and_membership_entries_move_the_applied_id() {
    let mut w = World::new();
    assert_eq!(
        w.try_apply(LogPayload::Blank).unwrap().outcome,
        Outcome::Done
    );
    w.try_apply(LogPayload::Membership("{}".into())).unwrap();
    let counters = Counters::load(&w.conn).unwrap();
    let at = LogId {
        term: 1,
        leader: 65_537,
        index: 2,
    };
    assert_eq!(
        (counters.applied, counters.membership),
        (Some(at), Some((at, "{}".into())))
    );
}

#[test]
fn an_entry_is_never_applied_twice_nor_of_an_unknown_version() {
    let mut w = World::new();
    w.try_apply(LogPayload::Blank).unwrap();
    w.index = 0;
    assert!(matches!(
        w.try_apply(LogPayload::Blank),
        Err(ApplyError::OutOfOrder {
            index: 1,
            applied: 1
        })
    ));
    let newer = Envelope {
        v: 2,
        at: 1,
        actor: None,
        body: Change::Logout {},
        secrets: None,
    };
    let error = w.try_apply(LogPayload::Change(Arc::new(newer)));
    assert!(matches!(
        error,
        Err(ApplyError::UnknownVersion { index: 2, found: 2 })
    ));
}

#[test]
fn a_broken_rule_is_rolled_back_and_rejected_and_the_next_entry_goes_on() {
    let mut w = World::new();
    let (ann, bob) = (w.register("Ann"), w.register("Bob"));
    w.login(ann, 1);
    // The same token for somebody else: a constraint.
    assert_eq!(w.try_login(bob, 1, 1).outcome, Outcome::Rejected);
    // No hash where there must be one: the envelope contradicts itself.
    let body = Change::Register {
        name: "Zoe".into(),
        key: "k".into(),
        by_operator: false,
    };
    assert_eq!(w.op(body).outcome, Outcome::Rejected);
    assert_eq!(
        w.op(Change::Login {
            user: ann,
            credential_version: 1
        })
        .outcome,
        Outcome::Rejected
    );
    assert_eq!(
        w.op(Change::ResetPassword { name: "Ann".into() }).outcome,
        Outcome::Rejected
    );
    assert_eq!(w.register("Zoe"), 3, "the counter was given back");
    assert_eq!(w.login(bob, 2), 2, "the counter was given back");
}

#[test]
fn a_missing_table_stops_the_node_instead_of_making_it_differ() {
    let mut w = World::new();
    w.conn.execute_batch("DROP TABLE mailboxes").unwrap();
    let body = Change::Register {
        name: "Ann".into(),
        key: "k".into(),
        by_operator: false,
    };
    let envelope = Envelope {
        v: LOG_VERSION,
        at: 1,
        actor: None,
        body,
        secrets: Some(password("$h")),
    };
    let result = w.try_apply(LogPayload::Change(Arc::new(envelope)));
    assert!(
        matches!(result, Err(ApplyError::Sqlite { .. })),
        "{result:?}"
    );
}

#[test]
fn operators_changes_by_a_session_are_not_permitted() {
    let mut w = World::new();
    let ((_, session), _) = w.ann_and_bob();
    let name = || "Bob".to_owned();
    let changes = [
        Change::Lock { name: name() },
        Change::Unlock { name: name() },
        Change::ResetPassword { name: name() },
        Change::Remove { name: name() },
        Change::FreeName { name: name() },
        Change::Settings(Settings::default()),
        Change::ExpireSessions {},
        Change::ForgetDelivered { at_most: 1 },
    ];
    for change in changes {
        assert_eq!(
            w.by(session, change.clone()).outcome,
            refused(Refusal::NotPermitted),
            "{change:?}"
        );
    }
}
