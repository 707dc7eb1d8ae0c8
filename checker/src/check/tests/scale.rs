//! A hundred thousand operations are judged while somebody waits. No time is asserted: what is not near-linear would
//! take minutes here and be noticed.

use super::{ask, message, page, register, send_call, sent};
use crate::{Answer, Call, Event, Recorder, Reply};

const MESSAGES: u64 = 60_000;
const PAGE: u64 = 100;

#[test]
fn a_hundred_thousand_operations_are_judged() {
    let recorder = Recorder::new();
    let (mut anna, mut ben) = (recorder.client().connect(1), recorder.client().connect(2));
    register(&mut anna, "anna", "password 1");
    register(&mut ben, "ben", "password 1");
    super::login(&mut ben, "ben", "password 1", "token");
    for id in 1..=MESSAGES {
        ask(&mut anna, "anna", send_call("ben", &text(id)), sent(id));
        ben.shown(Event::Message(message(id, "anna", "ben", &text(id))));
        let sync = |after| Call::Sync {
            after,
            limit: None,
            linear: true,
        };
        let inbox = Call::Inbox {
            after: 0,
            limit: None,
            linear: true,
        };
        match id % 20 {
            0 => ask(
                &mut ben,
                "ben",
                sync(id.saturating_sub(PAGE)),
                held(id.saturating_sub(PAGE), id, id - 10),
            ),
            10 => ask(
                &mut ben,
                "ben",
                Call::Ack { through: id },
                Answer::Ok(Reply::Done),
            ),
            5 => ask(&mut ben, "ben", inbox, held(id.saturating_sub(15), id, 0)),
            15 => ask(&mut ben, "ben", inbox, held(id - 5, id, 0)),
            _ => {}
        }
    }
    ben.kept_up("ben", 0);
    let violations = crate::check(&recorder.finish());
    assert!(violations.is_empty(), "{}", crate::report(&violations));
}

fn text(id: u64) -> String {
    format!("body {id}")
}

/// The messages over `after`; those up to `delivered` are.
fn held(after: u64, newest: u64, delivered: u64) -> Answer {
    let held = |id| {
        let delivered_at = (id <= delivered).then_some(5);
        crate::Message {
            delivered_at,
            ..message(id, "anna", "ben", &text(id))
        }
    };
    page((after + 1..=newest).map(held).collect())
}
