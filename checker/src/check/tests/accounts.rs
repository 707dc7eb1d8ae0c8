//! Names, passwords and sessions, by hand.

use super::{ask, login, ok, register, two, verdict};
use crate::{Answer, Call, Recorder, Reply};

fn change(new: &str) -> Call {
    Call::Password {
        old: "password 1".into(),
        new: new.into(),
        key: format!("to {new}"),
    }
}

fn resume(token: &str) -> Call {
    Call::Resume {
        token: token.into(),
        linear: true,
    }
}

fn resumed() -> Answer {
    ok(Reply::Resumed {
        user: "anna".into(),
        linear: true,
    })
}

fn delete() -> Call {
    Call::Delete {
        password: "password 1".into(),
        key: "d".into(),
    }
}

fn login_call(password: &str) -> Call {
    Call::Login {
        user: "anna".into(),
        password: password.into(),
    }
}

fn bad() -> Answer {
    Answer::refused("bad_credentials", "not_done")
}

#[test]
fn a_name_is_given_once_unless_it_was_freed() {
    for freed in [false, true] {
        let (recorder, mut anna, mut ben) = two();
        ask(&mut anna, "anna", delete(), ok(Reply::Done));
        if freed {
            ask(
                &mut ben,
                "",
                Call::Free {
                    user: "anna".into(),
                },
                ok(Reply::Done),
            );
        }
        let again = Call::Register {
            user: "Anna".into(),
            password: "password 2".into(),
            key: "other".into(),
        };
        ask(
            &mut ben,
            "",
            again,
            ok(Reply::Registered {
                user: "Anna".into(),
            }),
        );
        verdict(&recorder, if freed { &[] } else { &["names"] });
    }
}

#[test]
fn a_registration_is_repeatable_and_refused_with_a_reason() {
    let (recorder, mut anna, _) = two();
    register(&mut anna, "anna", "password 1");
    let taken = || Answer::refused("name_taken", "not_done");
    let other = Call::Register {
        user: "ANNA".into(),
        password: "password 2".into(),
        key: "other".into(),
    };
    ask(&mut anna, "", other, taken());
    verdict(&recorder, &[]);
    let fresh = Call::Register {
        user: "carl".into(),
        password: "password 2".into(),
        key: "carl".into(),
    };
    ask(&mut anna, "", fresh, taken());
    verdict(&recorder, &["refusals"]);
}

#[test]
fn the_last_acknowledged_password_counts() {
    let (recorder, mut anna, _) = two();
    ask(&mut anna, "anna", change("password 2"), ok(Reply::Done));
    ask(
        &mut recorder.client().connect(1),
        "",
        login_call("password 1"),
        bad(),
    );
    login(
        &mut recorder.client().connect(1),
        "anna",
        "password 2",
        "t2",
    );
    verdict(&recorder, &[]);
    login(
        &mut recorder.client().connect(1),
        "anna",
        "password 1",
        "t3",
    );
    verdict(&recorder, &["credentials"]);

    // Without an answer both may count.
    let (recorder, mut anna, _) = two();
    let _open = anna.invoke(Some("anna"), change("password 2"));
    login(
        &mut recorder.client().connect(1),
        "anna",
        "password 1",
        "t2",
    );
    login(
        &mut recorder.client().connect(1),
        "anna",
        "password 2",
        "t3",
    );
    verdict(&recorder, &[]);
}

#[test]
fn a_right_password_is_not_refused_and_a_deleted_account_not_let_in() {
    let (recorder, _, mut ben) = two();
    ask(&mut ben, "", login_call("password 1"), bad());
    verdict(&recorder, &["refusals"]);
    let (recorder, mut anna, mut ben) = two();
    ask(&mut anna, "anna", delete(), ok(Reply::Done));
    ask(&mut ben, "", login_call("password 1"), bad());
    verdict(&recorder, &[]);
    login(
        &mut recorder.client().connect(1),
        "anna",
        "password 1",
        "t2",
    );
    verdict(&recorder, &["credentials"]);
}

#[test]
fn a_token_works_until_its_session_ends() {
    let fresh = |recorder: &Recorder| recorder.client().connect(3);
    let (recorder, _, _) = two();
    ask(
        &mut fresh(&recorder),
        "",
        resume("token of anna"),
        resumed(),
    );
    verdict(&recorder, &[]);
    ask(&mut fresh(&recorder), "", resume("token of anna"), bad());
    verdict(&recorder, &["sessions"]);

    let enders: [(Call, bool); 3] = [
        (Call::Logout, true),
        (delete(), true),
        (change("password 2"), false),
    ];
    for (call, ends) in enders {
        let (recorder, mut anna, _) = two();
        ask(&mut anna, "anna", call, ok(Reply::Done));
        ask(
            &mut fresh(&recorder),
            "",
            resume("token of anna"),
            resumed(),
        );
        verdict(&recorder, if ends { &["sessions"] } else { &[] });
    }
    // A password change ends the other sessions.
    let (recorder, _, _) = two();
    let mut other = fresh(&recorder);
    login(&mut other, "anna", "password 1", "other");
    ask(&mut other, "anna", change("password 2"), ok(Reply::Done));
    ask(
        &mut fresh(&recorder),
        "",
        resume("token of anna"),
        resumed(),
    );
    verdict(&recorder, &["sessions"]);
}

#[test]
fn a_living_session_is_not_told_to_log_in() {
    let (recorder, mut anna, _) = two();
    let refused = || Answer::refused("not_logged_in", "not_done");
    ask(&mut anna, "anna", super::send_call("ben", "x"), refused());
    verdict(&recorder, &["sessions"]);
    let (recorder, mut anna, _) = two();
    ask(&mut anna, "anna", Call::Logout, Answer::Nothing);
    ask(&mut anna, "anna", super::send_call("ben", "x"), refused());
    verdict(&recorder, &[]);
}

#[test]
fn the_directory_shows_who_is_there() {
    let users = || Call::Users {
        pattern: None,
        after: None,
        limit: None,
        linear: true,
    };
    let names = |names: &[&str]| {
        ok(Reply::Users {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            more: false,
        })
    };
    for (listed, promises) in [
        (&["anna", "ben"][..], &[][..]),
        (&["anna"], &["linear reads"]),
        (&["anna", "ben", "eve"], &["linear reads"]),
        (&["anna", "ben", "ben"], &["exactly once"]),
    ] {
        let (recorder, mut anna, _) = two();
        ask(&mut anna, "anna", users(), names(listed));
        verdict(&recorder, promises);
    }
    let (recorder, mut anna, mut ben) = two();
    ask(&mut anna, "anna", delete(), ok(Reply::Done));
    ask(&mut ben, "ben", users(), names(&["anna", "ben"]));
    verdict(&recorder, &["linear reads"]);
}
