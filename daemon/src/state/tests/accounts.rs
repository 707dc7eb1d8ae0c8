//! Register, password, delete, and what operators do to accounts.

use messagebase_protocol::json::ClosingReason;

use super::*;

fn ended(session: u64, reason: ClosingReason) -> Effect {
    Effect::SessionEnded { session, reason }
}

#[test]
fn a_registration_repeats_its_first_answer_and_takes_the_name_in_any_case() {
    let mut w = World::new();
    let first = w.register_as("Ann", "k1", false);
    assert_eq!(
        first,
        Outcome::Registered {
            user: 1,
            name: "Ann".into()
        }
    );
    assert_eq!(w.register_as("ANN", "k1", false), first);
    assert_eq!(
        w.register_as("ann", "k2", false),
        refused(Refusal::NameTaken)
    );
    assert_eq!(
        w.register_as("Bob", "", true),
        Outcome::Registered {
            user: 2,
            name: "Bob".into()
        }
    );
    assert_eq!(
        w.register_as("Bob", "", true),
        refused(Refusal::NameTaken),
        "an empty key is no key"
    );
}

#[test]
fn closed_registration_is_for_operators_and_for_repetitions() {
    let mut w = World::new();
    w.register("Ann");
    w.settings(|s| s.registration_open = false);
    assert_eq!(
        w.register_as("Bob", "k", false),
        refused(Refusal::NotPermitted)
    );
    assert!(matches!(
        w.register_as("Bob", "k", true),
        Outcome::Registered { .. }
    ));
    assert!(matches!(
        w.register_as("Ann", "key of Ann", false),
        Outcome::Registered { user: 1, .. }
    ));
}

#[test]
fn a_new_password_ends_the_other_sessions_and_outdates_logins() {
    let mut w = World::new();
    let ann = w.register("Ann");
    let (one, two) = (w.login(ann, 1), w.login(ann, 2));
    let change = |version| Change::Password {
        user: ann,
        credential_version: version,
        key: "k".into(),
    };
    assert_eq!(
        w.full(Some(one), change(9), Some(password("$x"))).outcome,
        refused(Refusal::BadCredentials)
    );
    let applied = w.full(Some(one), change(1), Some(password("$new")));
    assert_eq!(applied.outcome, Outcome::Done);
    assert_eq!(applied.effects, [ended(two, ClosingReason::Logout)]);
    let account = read::user_by_id(&w.conn, ann).unwrap().unwrap();
    assert_eq!(
        (account.password_hash.as_str(), account.credential_version),
        ("$new", 2)
    );
    assert_eq!(
        w.try_login(ann, 1, 3).outcome,
        refused(Refusal::BadCredentials)
    );
    // The repetition: from a session that is gone, and without another effect.
    let again = w.full(Some(two), change(1), Some(password("$other")));
    assert_eq!((again.outcome, again.effects.len()), (Outcome::Done, 0));
    assert_eq!(
        read::user_by_id(&w.conn, ann)
            .unwrap()
            .unwrap()
            .credential_version,
        2
    );
}

#[test]
fn actors_must_be_alive_and_own_what_they_change() {
    let mut w = World::new();
    let ((ann, ann_session), (bob, _)) = w.ann_and_bob();
    let changes = |user| {
        [
            Change::Password {
                user,
                credential_version: 1,
                key: "k".into(),
            },
            Change::Delete {
                user,
                credential_version: None,
                key: "k".into(),
            },
            Change::Send {
                user,
                to: "Ann".into(),
                body: "hi".into(),
                key: "k".into(),
            },
            Change::Ack { user, through: 1 },
        ]
    };
    for change in changes(bob) {
        assert_eq!(
            w.by(ann_session, change).outcome,
            refused(Refusal::NotPermitted)
        );
    }
    for change in changes(ann) {
        assert_eq!(
            w.by(99, change.clone()).outcome,
            refused(Refusal::NotLoggedIn)
        );
        assert_eq!(w.op(change).outcome, refused(Refusal::NotLoggedIn));
    }
    w.at += 31 * 24 * 60 * 60 * 1_000;
    for change in changes(ann) {
        assert_eq!(
            w.by(ann_session, change).outcome,
            refused(Refusal::NotLoggedIn),
            "expired by the clock"
        );
    }
}

#[test]
fn a_deleted_account_keeps_its_name_and_its_past_and_loses_its_queue() {
    let mut w = World::new();
    let (ann, bob) = w.ann_and_bob();
    w.send(ann, "Bob", "queued to bob", "a1");
    w.send(bob, "Ann", "from bob", "b1");
    let delete = |version| Change::Delete {
        user: bob.0,
        credential_version: version,
        key: "d".into(),
    };
    assert_eq!(
        w.by(bob.1, delete(Some(9))).outcome,
        refused(Refusal::BadCredentials)
    );
    let applied = w.by(bob.1, delete(Some(1)));
    assert_eq!(applied.outcome, Outcome::Done);
    assert_eq!(applied.effects, [ended(bob.1, ClosingReason::Deleted)]);
    assert_eq!(
        w.by(bob.1, delete(Some(1))).outcome,
        Outcome::Done,
        "repeated without a session"
    );
    assert!(read::deleted_by_key(&w.conn, "bob", "d").unwrap());
    assert!(!read::deleted_by_key(&w.conn, "bob", "other").unwrap());
    assert!(!read::deleted_by_key(&w.conn, "ann", "d").unwrap());

    assert_eq!(w.count("SELECT count(*) FROM users WHERE name = 'Bob'"), 0);
    assert_eq!(w.count("SELECT count(*) FROM messages"), 1);
    assert_eq!(w.count("SELECT count(*) FROM mailboxes"), 1);
    assert_eq!(
        read::inbox_page(&w.conn, &w.memtable, ann.0, 0, 9)
            .unwrap()
            .items[0]
            .from,
        "Bob"
    );
    assert_eq!(
        w.register_as("bob", "new", false),
        refused(Refusal::NameTaken)
    );
    assert_eq!(
        w.send(ann, "Bob", "hi", "a2").outcome,
        refused(Refusal::NoSuchUser)
    );
    assert!(matches!(
        w.register_as("Bob", "key of Bob", false),
        Outcome::Registered { user: 2, .. }
    ));
}

#[test]
fn a_freed_name_makes_a_new_account_with_a_new_id() {
    let mut w = World::new();
    let (ann, bob) = w.ann_and_bob();
    w.send(ann, "Bob", "hi", "a1");
    let free = |name: &str| Change::FreeName { name: name.into() };
    assert_eq!(w.op(free("Bob")).outcome, refused(Refusal::NameInUse));
    assert_eq!(w.op(free("Nobody")).outcome, refused(Refusal::NoSuchUser));
    assert_eq!(
        w.op(Change::Remove { name: "BOB".into() }).outcome,
        Outcome::Done
    );
    assert_eq!(w.op(free("bob")).outcome, Outcome::Done);
    assert_eq!(w.op(free("bob")).outcome, Outcome::Done, "already free");
    assert!(matches!(
        w.register_as("Bob", "n", false),
        Outcome::Registered { user: 3, .. }
    ));
    // The key of a message to the first Bob: the first answer, and nobody to wake.
    let repeated = w.send(ann, "Bob", "hi", "a1").outcome;
    assert!(
        matches!(
            repeated,
            Outcome::Sent {
                id: 1,
                duplicate: true,
                recipient: None,
                ..
            }
        ),
        "{repeated:?}"
    );
    // A second deletion of the name reserves it again.
    assert_eq!(
        w.op(Change::Remove { name: "Bob".into() }).outcome,
        Outcome::Done
    );
    assert_eq!(
        w.register_as("Bob", "m", false),
        refused(Refusal::NameTaken)
    );
    assert_ne!(bob.0, 3);
}

#[test]
fn a_locked_account_is_out_but_still_receives() {
    let mut w = World::new();
    let (ann, bob) = w.ann_and_bob();
    let lock = || Change::Lock { name: "bob".into() };
    let applied = w.op(lock());
    assert_eq!(
        (applied.outcome, applied.effects),
        (Outcome::Done, vec![ended(bob.1, ClosingReason::Locked)])
    );
    let since = w.count("SELECT locked_at FROM users WHERE name = 'Bob'");
    assert_eq!(w.op(lock()).outcome, Outcome::Done);
    assert_eq!(
        w.count("SELECT locked_at FROM users WHERE name = 'Bob'"),
        since
    );
    assert_eq!(w.try_login(bob.0, 1, 9).outcome, refused(Refusal::Locked));
    assert_eq!(
        w.try_login(bob.0, 5, 9).outcome,
        refused(Refusal::BadCredentials)
    );
    assert!(matches!(
        w.send(ann, "Bob", "hi", "k").outcome,
        Outcome::Sent {
            duplicate: false,
            ..
        }
    ));
    assert_eq!(
        w.op(Change::Unlock { name: "Bob".into() }).outcome,
        Outcome::Done
    );
    w.login(bob.0, 9);
    assert_eq!(
        w.op(Change::Lock { name: "x".into() }).outcome,
        refused(Refusal::NoSuchUser)
    );
    assert_eq!(
        w.op(Change::Unlock { name: "x".into() }).outcome,
        refused(Refusal::NoSuchUser)
    );
    assert_eq!(
        w.op(Change::Remove { name: "x".into() }).outcome,
        refused(Refusal::NoSuchUser)
    );
}

#[test]
fn an_operators_password_ends_all_sessions() {
    let mut w = World::new();
    let ((ann, session), _) = w.ann_and_bob();
    let reset = |name: &str| Change::ResetPassword { name: name.into() };
    let applied = w.full(None, reset("ann"), Some(password("$op")));
    assert_eq!(
        (applied.outcome, applied.effects),
        (Outcome::Done, vec![ended(session, ClosingReason::Logout)])
    );
    let account = read::user_by_name(&w.conn, "ann").unwrap().unwrap();
    assert_eq!(
        (
            account.id,
            account.password_hash.as_str(),
            account.credential_version
        ),
        (ann, "$op", 2)
    );
    assert_eq!(
        w.full(None, reset("x"), Some(password("$op"))).outcome,
        refused(Refusal::NoSuchUser)
    );
}
