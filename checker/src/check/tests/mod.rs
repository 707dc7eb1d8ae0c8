//! Good and bad histories, by hand; and many good ones out of a small model of the service, each broken in every way.

mod accounts;
mod broken;
mod model;
mod scale;

use crate::{Answer, Call, Event, Message, Recorder, RecordingConnection, Reply, Violation};

/// The promises that were broken, each once, sorted.
fn promises(violations: &[Violation]) -> Vec<&'static str> {
    let mut promises: Vec<_> = violations.iter().map(|v| v.promise).collect();
    promises.sort_unstable();
    promises.dedup();
    promises
}

#[track_caller]
fn verdict(recorder: &Recorder, expected: &[&str]) {
    let violations = crate::check(&recorder.finish());
    assert_eq!(
        promises(&violations),
        expected,
        "{}",
        crate::report(&violations)
    );
}

/// Asks and is answered at once.
fn ask(connection: &mut RecordingConnection, user: &str, call: Call, answer: Answer) {
    let open = connection.invoke((!user.is_empty()).then_some(user), call);
    connection.complete(open, answer);
}

fn ok(reply: Reply) -> Answer {
    Answer::Ok(reply)
}

fn register(connection: &mut RecordingConnection, user: &str, password: &str) {
    let call = Call::Register {
        user: user.into(),
        password: password.into(),
        key: format!("register {user}"),
    };
    ask(
        connection,
        "",
        call,
        ok(Reply::Registered { user: user.into() }),
    );
}

fn login(connection: &mut RecordingConnection, user: &str, password: &str, token: &str) {
    let call = Call::Login {
        user: user.into(),
        password: password.into(),
    };
    ask(
        connection,
        "",
        call,
        ok(Reply::LoggedIn {
            user: user.into(),
            token: token.into(),
        }),
    );
}

fn send_call(to: &str, body: &str) -> Call {
    Call::Send {
        to: to.into(),
        body: body.into(),
        key: format!("key of {body}"),
    }
}

fn sent(id: u64) -> Answer {
    ok(Reply::Sent {
        id,
        sent_at: 1_000 + id,
        duplicate: false,
    })
}

fn message(id: u64, from: &str, to: &str, body: &str) -> Message {
    Message {
        id,
        from: from.into(),
        to: to.into(),
        body: body.into(),
        sent_at: 1_000 + id,
        delivered_at: None,
    }
}

fn page(messages: Vec<Message>) -> Answer {
    ok(Reply::Page {
        messages,
        more: false,
    })
}

/// Anna and ben, logged in.
fn two() -> (Recorder, RecordingConnection, RecordingConnection) {
    let recorder = Recorder::new();
    let (mut anna, mut ben) = (recorder.client().connect(1), recorder.client().connect(2));
    for (connection, user) in [(&mut anna, "anna"), (&mut ben, "ben")] {
        register(connection, user, "password 1");
        login(connection, user, "password 1", &format!("token of {user}"));
    }
    (recorder, anna, ben)
}

#[test]
fn an_unanswered_send_may_be_there_or_not_and_a_lost_one_is_told() {
    for there in [true, false] {
        let (recorder, mut anna, _) = two();
        let _open = anna.invoke(Some("anna"), send_call("ben", "x"));
        let held = if there {
            vec![message(1, "anna", "ben", "x")]
        } else {
            vec![]
        };
        recorder.mailbox("ben", recorder.moment(), held);
        verdict(&recorder, &[]);
    }
    let (recorder, mut anna, _) = two();
    ask(&mut anna, "anna", send_call("ben", "x"), sent(1));
    recorder.mailbox("ben", recorder.moment(), vec![]);
    verdict(&recorder, &["nothing lost"]);
}

#[test]
fn what_is_queued_to_a_deleted_account_may_go_and_what_was_delivered_may_not() {
    for acknowledged in [false, true] {
        let (recorder, mut anna, mut ben) = two();
        ask(&mut anna, "anna", send_call("ben", "x"), sent(1));
        if acknowledged {
            ask(&mut ben, "ben", Call::Ack { through: 1 }, ok(Reply::Done));
        }
        ask(
            &mut ben,
            "ben",
            Call::Delete {
                password: "password 1".into(),
                key: "d".into(),
            },
            ok(Reply::Done),
        );
        recorder.mailbox("anna", recorder.moment(), vec![]);
        verdict(
            &recorder,
            if acknowledged { &["nothing lost"] } else { &[] },
        );
    }
}

#[test]
fn an_inbox_read_shows_what_was_sent_before_until_it_is_acknowledged() {
    let inbox = || Call::Inbox {
        after: 0,
        limit: None,
        linear: true,
    };
    let hello = || message(1, "anna", "ben", "x");
    let (recorder, mut anna, mut ben) = two();
    ask(&mut anna, "anna", send_call("ben", "x"), sent(1));
    ask(&mut ben, "ben", inbox(), page(vec![hello()]));
    ask(&mut ben, "ben", Call::Ack { through: 1 }, ok(Reply::Done));
    ask(&mut ben, "ben", inbox(), page(vec![]));
    verdict(&recorder, &[]);
    ask(&mut ben, "ben", inbox(), page(vec![hello()]));
    verdict(&recorder, &["linear reads"]);

    let (recorder, mut anna, mut ben) = two();
    let early = ben.invoke(Some("ben"), inbox());
    ask(&mut anna, "anna", send_call("ben", "x"), sent(1));
    ben.complete(early, page(vec![]));
    verdict(&recorder, &[]);
    // An acknowledgement without an answer may have been carried out.
    let _open = ben.invoke(Some("ben"), Call::Ack { through: 1 });
    ask(&mut ben, "ben", inbox(), page(vec![]));
    verdict(&recorder, &[]);
}

#[test]
fn a_linear_read_sees_what_another_one_saw_and_a_local_one_need_not() {
    let sync = |linear| Call::Sync {
        after: 0,
        limit: None,
        linear,
    };
    let (recorder, mut anna, mut ben) = two();
    let _open = anna.invoke(Some("anna"), send_call("ben", "x"));
    ask(
        &mut ben,
        "ben",
        sync(true),
        page(vec![message(1, "anna", "ben", "x")]),
    );
    ask(&mut ben, "ben", sync(false), page(vec![]));
    verdict(&recorder, &[]);
    ask(&mut anna, "anna", sync(true), page(vec![]));
    verdict(&recorder, &["linear reads"]);
}

#[test]
fn history_pages_go_backwards() {
    let history = |before| Call::History {
        with: "Ben".into(),
        before,
        limit: Some(1),
        linear: true,
    };
    let first = || vec![message(1, "anna", "ben", "x")];
    let second = || vec![message(2, "anna", "ben", "y")];
    let (recorder, mut anna, _) = two();
    ask(&mut anna, "anna", send_call("ben", "x"), sent(1));
    ask(&mut anna, "anna", send_call("ben", "y"), sent(2));
    ask(
        &mut anna,
        "anna",
        history(None),
        ok(Reply::Page {
            messages: second(),
            more: true,
        }),
    );
    ask(&mut anna, "anna", history(Some(2)), page(first()));
    verdict(&recorder, &[]);
    ask(&mut anna, "anna", history(None), page(first()));
    verdict(&recorder, &["linear reads"]);
}

#[test]
fn a_repeated_key_gets_the_first_answer() {
    let (recorder, mut anna, _) = two();
    ask(&mut anna, "anna", send_call("ben", "x"), sent(1));
    ask(
        &mut anna,
        "anna",
        send_call("ben", "x"),
        ok(Reply::Sent {
            id: 1,
            sent_at: 1_001,
            duplicate: true,
        }),
    );
    verdict(&recorder, &[]);
    for (answer, promises) in [
        (sent(1), &["keys"][..]),
        (
            ok(Reply::Sent {
                id: 2,
                sent_at: 1_002,
                duplicate: true,
            }),
            &["keys"],
        ),
        (
            Answer::refused("no_such_user", "not_done"),
            &["keys", "refusals"],
        ),
    ] {
        let (recorder, mut anna, _) = two();
        ask(&mut anna, "anna", send_call("ben", "x"), sent(1));
        ask(&mut anna, "anna", send_call("ben", "x"), answer);
        verdict(&recorder, promises);
    }
}

#[test]
fn a_key_serves_one_message() {
    let (recorder, mut anna, _) = two();
    ask(&mut anna, "anna", send_call("ben", "x"), sent(1));
    let other = Call::Send {
        to: "ben".into(),
        body: "y".into(),
        key: "key of x".into(),
    };
    ask(
        &mut anna,
        "anna",
        other.clone(),
        Answer::refused("bad_request", "not_done"),
    );
    verdict(&recorder, &[]);
    ask(&mut anna, "anna", other, sent(2));
    verdict(&recorder, &["keys"]);
}

#[test]
fn what_was_refused_as_not_done_is_not_there() {
    let (recorder, mut anna, ben) = two();
    ask(
        &mut anna,
        "anna",
        send_call("ben", "x"),
        Answer::refused("busy", "not_done"),
    );
    ben.shown(Event::Message(message(1, "anna", "ben", "x")));
    verdict(&recorder, &["not_done"]);
    // Unless another attempt got no answer.
    let _open = anna.invoke(Some("anna"), send_call("ben", "x"));
    ben.shown(Event::Message(message(1, "anna", "ben", "x")));
    verdict(&recorder, &["events", "nothing invented"]);
}

#[test]
fn a_message_is_there_once_also_without_an_answer() {
    let (recorder, mut anna, _) = two();
    let _open = anna.invoke(Some("anna"), send_call("ben", "x"));
    let held = vec![
        message(1, "anna", "ben", "x"),
        message(2, "anna", "ben", "x"),
    ];
    recorder.mailbox("ben", recorder.moment(), held);
    verdict(&recorder, &["exactly once"]);
}

#[test]
fn one_connections_sends_keep_their_order_also_without_answers() {
    let held = |ids: [u64; 2]| {
        let mut held = vec![
            message(ids[0], "anna", "ben", "x"),
            message(ids[1], "anna", "ben", "y"),
        ];
        held.sort_by_key(|m| m.id);
        held
    };
    for (ids, promises) in [([1, 2], &[][..]), ([2, 1], &["connection order"])] {
        let (recorder, mut anna, _) = two();
        let first = anna.invoke(Some("anna"), send_call("ben", "x"));
        let _second = anna.invoke(Some("anna"), send_call("ben", "y"));
        anna.complete(first, sent(ids[0]));
        recorder.mailbox("ben", recorder.moment(), held(ids));
        verdict(&recorder, promises);
    }
    // The first may have been refused, because nobody of that name was registered yet, and was done by a repetition.
    for known_before in [true, false] {
        let (recorder, mut anna, mut other) = two();
        let register = Call::Register {
            user: "eve".into(),
            password: "secret-eve".into(),
            key: "e".into(),
        };
        let registered = ok(Reply::Registered { user: "eve".into() });
        if known_before {
            ask(&mut other, "nobody", register.clone(), registered.clone());
        }
        let _first = anna.invoke(Some("anna"), send_call("eve", "x"));
        let _second = anna.invoke(Some("anna"), send_call("ben", "y"));
        if !known_before {
            ask(&mut other, "nobody", register, registered);
        }
        recorder.mailbox(
            "eve",
            recorder.moment(),
            vec![message(2, "anna", "eve", "x")],
        );
        recorder.mailbox(
            "ben",
            recorder.moment(),
            vec![message(1, "anna", "ben", "y")],
        );
        verdict(
            &recorder,
            if known_before {
                &["connection order"]
            } else {
                &[]
            },
        );
    }
    // The second one went first over another connection: nobody promised anything.
    let (recorder, mut anna, _) = two();
    let mut other = recorder.client().connect(3);
    let _second = other.invoke(Some("anna"), send_call("ben", "y"));
    let _first = anna.invoke(Some("anna"), send_call("ben", "x"));
    let _again = anna.invoke(Some("anna"), send_call("ben", "y"));
    recorder.mailbox("ben", recorder.moment(), held([2, 1]));
    verdict(&recorder, &[]);
}

#[test]
fn ids_and_times_grow_in_real_time() {
    let (recorder, mut anna, mut ben) = two();
    ask(&mut anna, "anna", send_call("ben", "x"), sent(2));
    ask(&mut ben, "ben", send_call("anna", "y"), sent(1));
    verdict(&recorder, &["real-time order"]);
    let (recorder, mut anna, mut ben) = two();
    ask(
        &mut anna,
        "anna",
        send_call("ben", "x"),
        ok(Reply::Sent {
            id: 1,
            sent_at: 9,
            duplicate: false,
        }),
    );
    ask(
        &mut ben,
        "ben",
        send_call("anna", "y"),
        ok(Reply::Sent {
            id: 2,
            sent_at: 8,
            duplicate: false,
        }),
    );
    verdict(&recorder, &["times"]);
}

#[test]
fn events_have_no_gap_and_nothing_twice() {
    let run = |ids: &[u64]| {
        let (recorder, mut anna, ben) = two();
        for id in 1..=3 {
            ask(
                &mut anna,
                "anna",
                send_call("ben", &format!("{id}")),
                sent(id),
            );
        }
        ids.iter().for_each(|id| {
            ben.shown(Event::Message(message(
                *id,
                "anna",
                "ben",
                &format!("{id}"),
            )))
        });
        recorder
    };
    verdict(&run(&[1, 2, 3]), &[]);
    verdict(&run(&[1, 2]), &[]);
    verdict(&run(&[1, 3]), &["never neither"]);
    verdict(&run(&[1, 2, 2]), &["events"]);
    verdict(&run(&[2, 1]), &["events"]);
}

#[test]
fn what_came_before_the_resume_is_in_the_inbox_of_the_session() {
    for held in [true, false] {
        let (recorder, mut anna, _) = two();
        let _open = anna.invoke(Some("anna"), send_call("ben", "1"));
        let mut ben = recorder.client().connect(3);
        let resume = Call::Resume {
            token: "token of ben".into(),
            linear: true,
        };
        ask(
            &mut ben,
            "",
            resume,
            ok(Reply::Resumed {
                user: "ben".into(),
                linear: true,
            }),
        );
        let first = message(1, "anna", "ben", "1");
        let inbox = if held { vec![first.clone()] } else { vec![] };
        ask(
            &mut ben,
            "ben",
            Call::Inbox {
                after: 0,
                limit: None,
                linear: true,
            },
            page(inbox),
        );
        ask(&mut anna, "anna", send_call("ben", "2"), sent(2));
        ben.shown(Event::Message(message(2, "anna", "ben", "2")));
        recorder.mailbox(
            "ben",
            recorder.moment(),
            vec![first, message(2, "anna", "ben", "2")],
        );
        verdict(&recorder, if held { &[] } else { &["never neither"] });
    }
}

#[test]
fn a_client_that_kept_up_was_shown_everything() {
    for claimed_after in [0, 1] {
        let (recorder, mut anna, ben) = two();
        ask(&mut anna, "anna", send_call("ben", "1"), sent(1));
        ask(&mut anna, "anna", send_call("ben", "2"), sent(2));
        let mut again = recorder.client().connect(3);
        login(&mut again, "ben", "password 1", "second token");
        let read = Call::Sync {
            after: 1,
            limit: None,
            linear: true,
        };
        ask(
            &mut again,
            "ben",
            read,
            page(vec![message(2, "anna", "ben", "2")]),
        );
        again.kept_up("ben", claimed_after);
        drop(ben);
        verdict(
            &recorder,
            if claimed_after == 0 {
                &["never neither"]
            } else {
                &[]
            },
        );
    }
}

#[test]
fn events_are_for_those_whom_they_concern() {
    let (recorder, mut anna, _) = two();
    ask(&mut anna, "anna", send_call("ben", "1"), sent(1));
    anna.shown(Event::Delivered {
        through: 1,
        by: "ben".into(),
    });
    verdict(&recorder, &["events"]);
    let (recorder, mut anna, mut ben) = two();
    ask(&mut anna, "anna", send_call("ben", "1"), sent(1));
    ask(&mut ben, "ben", Call::Ack { through: 1 }, ok(Reply::Done));
    anna.shown(Event::Delivered {
        through: 1,
        by: "ben".into(),
    });
    verdict(&recorder, &[]);
}

#[test]
fn nodes_hold_the_same_rows_in_any_order() {
    let (recorder, ..) = two();
    recorder.rows(1, "users", vec!["anna".into(), "ben".into()]);
    recorder.rows(2, "users", vec!["ben".into(), "anna".into()]);
    verdict(&recorder, &[]);
    recorder.rows(3, "users", vec!["ben".into(), "ben".into()]);
    verdict(&recorder, &["replicas"]);
}
