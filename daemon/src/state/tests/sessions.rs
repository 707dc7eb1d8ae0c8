//! Login, logout, expiry, limits.

use messagebase_protocol::json::ClosingReason;

use super::*;

const DAY: u64 = 24 * 60 * 60 * 1_000;

#[test]
fn a_repeated_login_is_the_same_session() {
    let mut w = World::new();
    let ann = w.register("Ann");
    let first = w.try_login(ann, 1, 7).outcome;
    let Outcome::LoggedIn {
        session: 1,
        user,
        name,
        expires_at,
    } = &first
    else {
        panic!("{first:?}")
    };
    assert_eq!((*user, name.as_str()), (ann, "Ann"));
    assert_eq!(*expires_at, read::clock(&w.conn).unwrap() + 30 * DAY);
    assert_eq!(w.try_login(ann, 1, 7).outcome, first);
    let stored = read::session_by_token_hash(&w.conn, &[7; 32])
        .unwrap()
        .unwrap();
    assert_eq!(
        (stored.session, stored.user, stored.locked),
        (1, ann, false)
    );
    assert_eq!(read::session_by_id(&w.conn, 1).unwrap(), Some(stored));
    assert_eq!(
        read::session_by_token_hash(&w.conn, &[8; 32]).unwrap(),
        None
    );
}

#[test]
fn a_login_needs_an_account_with_the_verified_credentials() {
    let mut w = World::new();
    let ann = w.register("Ann");
    assert_eq!(
        w.try_login(ann, 2, 1).outcome,
        refused(Refusal::BadCredentials)
    );
    assert_eq!(
        w.try_login(99, 1, 1).outcome,
        refused(Refusal::BadCredentials)
    );
}

#[test]
fn one_session_too_many_ends_the_oldest() {
    let mut w = World::new();
    w.settings(|s| s.sessions_per_user = 2);
    let ann = w.register("Ann");
    let (one, two) = (w.login(ann, 1), w.login(ann, 2));
    let applied = w.try_login(ann, 1, 3);
    assert_eq!(
        applied.effects,
        [Effect::SessionEnded {
            session: one,
            reason: ClosingReason::Logout
        }]
    );
    w.settings(|s| s.sessions_per_user = 1);
    let ended: Vec<_> = w.try_login(ann, 1, 4).effects;
    let expected = [two, 3].map(|session| Effect::SessionEnded {
        session,
        reason: ClosingReason::Logout,
    });
    assert_eq!(ended, expected);
    w.settings(|s| s.sessions_per_user = 0);
    w.login(ann, 5);
    assert_eq!(
        w.count("SELECT count(*) FROM sessions"),
        1,
        "the newest always stays"
    );
}

#[test]
fn logout_ends_one_session_and_is_harmless_when_repeated() {
    let mut w = World::new();
    let ((_, session), (_, other)) = w.ann_and_bob();
    let applied = w.by(session, Change::Logout {});
    assert_eq!(applied.outcome, Outcome::Done);
    assert_eq!(
        applied.effects,
        [Effect::SessionEnded {
            session,
            reason: ClosingReason::Logout
        }]
    );
    let again = w.by(session, Change::Logout {});
    assert_eq!((again.outcome, again.effects.len()), (Outcome::Done, 0));
    assert_eq!(w.op(Change::Logout {}).outcome, Outcome::Done);
    assert!(read::session_by_id(&w.conn, other).unwrap().is_some());
}

#[test]
fn expired_sessions_end_by_the_states_clock() {
    let mut w = World::new();
    w.settings(|s| s.session_days = 1);
    let ann = w.register("Ann");
    let old = w.login(ann, 1);
    w.at += DAY / 2;
    let young = w.login(ann, 2);
    assert_eq!(w.op(Change::ExpireSessions {}).effects, []);
    w.at += DAY / 2;
    let applied = w.op(Change::ExpireSessions {});
    assert_eq!(
        applied.effects,
        [Effect::SessionEnded {
            session: old,
            reason: ClosingReason::Logout
        }]
    );
    assert_eq!(w.count("SELECT id FROM sessions") as u64, young);
}
