//! Send, ack, forget; keys that outlive their messages.

use messagebase_protocol::json::Message;

use super::*;

fn sent_id(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Sent { id, .. } => *id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_is_stored_counted_and_told() {
    let mut w = World::new();
    let (ann, bob) = w.ann_and_bob();
    let applied = w.send(ann, "BOB", "hällo", "k");
    let sent_at = read::clock(&w.conn).unwrap();
    assert_eq!(
        applied.outcome,
        Outcome::Sent {
            id: 1,
            sent_at,
            duplicate: false,
            recipient: Some(bob.0)
        }
    );
    let message = Message {
        id: 1,
        from: "Ann".into(),
        to: "Bob".into(),
        body: "hällo".into(),
        sent_at,
    };
    let [
        Effect::Message {
            sender,
            recipient,
            sending_session,
            message: told,
        },
    ] = applied.effects.as_slice()
    else {
        panic!("{:?}", applied.effects);
    };
    assert_eq!(
        (*sender, *recipient, *sending_session),
        (ann.0, bob.0, Some(ann.1))
    );
    assert_eq!(told.to_message(), message);
    assert_eq!(
        w.count("SELECT queued_bytes FROM mailboxes WHERE user_id = 2"),
        6
    );
    assert_eq!(read::queued_count(&w.conn, bob.0).unwrap(), 1);
    assert_eq!(
        w.send(ann, "nobody", "x", "k2").outcome,
        refused(Refusal::NoSuchUser)
    );
}

#[test]
fn a_key_answers_the_same_for_ever_and_only_to_the_same() {
    let mut w = World::new();
    let (ann, bob) = w.ann_and_bob();
    let first = w.send(ann, "Bob", "hi", "k").outcome;
    let same = match first.clone() {
        Outcome::Sent {
            id,
            sent_at,
            recipient,
            ..
        } => Outcome::Sent {
            id,
            sent_at,
            recipient,
            duplicate: true,
        },
        other => other,
    };
    let again = w.send(ann, "bob", "hi", "k");
    assert_eq!((again.outcome, again.effects.len()), (same.clone(), 0));
    assert_eq!(
        w.send(ann, "Bob", "ho", "k").outcome,
        refused(Refusal::KeyReused)
    );
    assert_eq!(
        w.send(ann, "Ann", "hi", "k").outcome,
        refused(Refusal::KeyReused)
    );
    assert_eq!(
        sent_id(&w.send(bob, "Ann", "hi", "k").outcome),
        2,
        "keys are scoped to the sender"
    );
    // Looked up before the session is: a repetition after a failover may come when it has ended.
    w.by(ann.1, Change::Logout {});
    assert_eq!(w.send(ann, "Bob", "hi", "k").outcome, same);
    assert_eq!(
        w.send(ann, "Bob", "hi", "new").outcome,
        refused(Refusal::NotLoggedIn)
    );
    // The recipient deleted: queued row gone, key kept.
    w.op(Change::Remove { name: "Bob".into() });
    assert_eq!(w.count("SELECT count(*) FROM send_keys"), 1);
    let gone = w.send(ann, "Bob", "hi", "k").outcome;
    assert!(
        matches!(
            gone,
            Outcome::Sent {
                id: 1,
                duplicate: true,
                recipient: None,
                ..
            }
        ),
        "{gone:?}"
    );
    assert_eq!(
        w.send(ann, "Bob", "ho", "k").outcome,
        refused(Refusal::KeyReused)
    );
}

#[test]
fn a_delivered_message_to_a_deleted_account_still_answers_its_key() {
    let mut w = World::new();
    let (ann, bob) = w.ann_and_bob();
    w.send(ann, "Bob", "hi", "k");
    w.by(
        bob.1,
        Change::Ack {
            user: bob.0,
            through: 1,
        },
    );
    w.op(Change::Remove { name: "Bob".into() });
    let again = w.send(ann, "Bob", "hi", "k").outcome;
    assert!(
        matches!(
            again,
            Outcome::Sent {
                id: 1,
                duplicate: true,
                recipient: None,
                ..
            }
        ),
        "{again:?}"
    );
}

#[test]
fn a_full_queue_refuses_and_an_ack_makes_room() {
    let mut w = World::new();
    let (ann, bob) = w.ann_and_bob();
    w.settings(|s| {
        s.queued_messages_per_user = 2;
        s.queued_bytes_per_user = 10;
    });
    w.send(ann, "Bob", "1234", "a");
    assert_eq!(
        w.send(ann, "Bob", "1234567", "b").outcome,
        refused(Refusal::QueueFull),
        "bytes"
    );
    w.send(ann, "Bob", "123456", "c");
    assert_eq!(
        w.send(ann, "Bob", "", "d").outcome,
        refused(Refusal::QueueFull),
        "messages"
    );
    let through = w.count("SELECT max(id) FROM messages") as u64;
    w.by(
        bob.1,
        Change::Ack {
            user: bob.0,
            through,
        },
    );
    assert_eq!(
        w.count("SELECT queued_messages + queued_bytes FROM mailboxes WHERE user_id = 2"),
        0
    );
    assert_eq!(
        sent_id(&w.send(ann, "Bob", "1234567", "b").outcome),
        through + 1,
        "refused sends take no id"
    );
}

#[test]
fn an_ack_delivers_everything_up_to_it_and_tells_each_sender_once() {
    let mut w = World::new();
    let (ann, bob) = w.ann_and_bob();
    w.send(ann, "Bob", "1", "a1");
    w.send(bob, "Bob", "2", "b1");
    w.send(ann, "Bob", "3", "a2");
    w.send(ann, "Bob", "4", "a3");
    w.send(bob, "Ann", "5", "b2");
    let ack = |through| Change::Ack {
        user: bob.0,
        through,
    };
    assert_eq!(
        w.by(bob.1, ack(5)).outcome,
        refused(Refusal::NoSuchMessage),
        "not to Bob"
    );
    assert_eq!(
        w.by(bob.1, ack(u64::MAX)).outcome,
        refused(Refusal::NoSuchMessage)
    );
    let applied = w.by(bob.1, ack(3));
    let told = |sender, through| Effect::Delivered {
        sender,
        through,
        by: "Bob".into(),
    };
    assert_eq!(
        (applied.outcome, applied.effects),
        (Outcome::Done, vec![told(ann.0, 3), told(bob.0, 2)])
    );
    assert_eq!(
        w.count("SELECT count(*) FROM messages WHERE delivered_at IS NOT NULL"),
        3
    );
    let again = w.by(bob.1, ack(1));
    assert_eq!((again.outcome, again.effects.len()), (Outcome::Done, 0));
    assert_eq!(read::queued_count(&w.conn, bob.0).unwrap(), 1);
}

#[test]
fn delivered_messages_are_forgotten_after_their_days_and_their_keys_are_not() {
    let mut w = World::new();
    let (ann, bob) = w.ann_and_bob();
    for n in 0..3 {
        w.send(ann, "Bob", "hi", &format!("k{n}"));
    }
    w.by(
        bob.1,
        Change::Ack {
            user: bob.0,
            through: 2,
        },
    );
    let forget = || Change::ForgetDelivered { at_most: 1 };
    w.at += 3 * 24 * 60 * 60 * 1_000;
    w.op(forget());
    assert_eq!(
        w.count("SELECT count(*) FROM messages"),
        3,
        "0 days: for ever"
    );
    w.settings(|s| s.delivered_days = 2);
    w.op(forget());
    assert_eq!(w.count("SELECT min(id) FROM messages"), 2, "at most one");
    w.op(forget());
    w.op(forget());
    assert_eq!(
        w.count("SELECT min(id) FROM messages"),
        3,
        "what is queued stays"
    );
    let again = w.send(ann, "Bob", "hi", "k0").outcome;
    let Outcome::Sent {
        id: 1,
        duplicate: true,
        recipient,
        ..
    } = again
    else {
        panic!("{again:?}")
    };
    assert_eq!(recipient, Some(bob.0));
    assert_eq!(
        w.send(ann, "Bob", "other", "k0").outcome,
        refused(Refusal::KeyReused)
    );
    assert_eq!(
        sent_id(&w.send(ann, "Bob", "hi", "k9").outcome),
        4,
        "ids are not used again"
    );
}

#[test]
fn queries_of_apply_use_the_index_made_for_them() {
    let w = World::new();
    let plan = |sql: &str| -> String {
        let mut statement = w
            .conn
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        let rows = statement
            .query_map([], |row| row.get::<_, String>(3))
            .unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    };
    assert!(
        plan("SELECT id FROM messages WHERE delivered_at < 9 ORDER BY delivered_at, id LIMIT 5")
            .contains("messages_delivered")
    );
    for sql in [
        "SELECT * FROM queued_messages WHERE id > 5 LIMIT 3",
        "SELECT * FROM mailbox WHERE user = 'ben' ORDER BY id",
        "SELECT * FROM mailbox WHERE user = 'anna' AND other = 'ben' ORDER BY id",
    ] {
        let view = plan(sql);
        for table in ["users", "retired_users", "messages", "u", "l", "m", "n"] {
            let whole = format!("SCAN {table}");
            let read_whole = |step: &str| step == whole || step.starts_with(&format!("{whole} "));
            assert!(
                !view.split("; ").any(read_whole) && !view.contains("AUTOMATIC"),
                "{table} is read whole: {view}"
            );
        }
    }
}

#[test]
fn the_view_mailbox_has_all_messages_of_a_user_merged_or_not() {
    let mut w = World::new();
    let (ann, bob) = w.ann_and_bob();
    let zoe = w.register("Zoe");
    let zoe = (zoe, w.login(zoe, 3));
    let mut number = 0;
    let mut send = |w: &mut World, from, to: &str| {
        number += 1;
        w.send(from, to, &format!("body {number}"), &format!("k{number}"));
    };
    send(&mut w, ann, "Bob");
    send(&mut w, bob, "Ann");
    send(&mut w, zoe, "Bob");
    send(&mut w, bob, "Bob");
    w.by(
        bob.1,
        Change::Ack {
            user: bob.0,
            through: 3,
        },
    );
    let all =
        "SELECT json_group_array(json_array(side, id, other, body, delivered_at IS NULL)) FROM
               (SELECT * FROM mailbox WHERE user = 'bob' ORDER BY id, side)";
    let expected = r#"[["received",1,"ann","body 1",0],["sent",2,"ann","body 2",1],["received",3,"zoe","body 3",0],["received",4,"bob","body 4",1],["sent",4,"bob","body 4",1]]"#;
    let text =
        |w: &World, sql: &str| -> String { w.conn.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(text(&w, all), expected);
    let between = "SELECT group_concat(id) FROM (SELECT id FROM mailbox WHERE user = 'ann' AND other = 'bob' ORDER BY id)";
    assert_eq!(text(&w, between), "1,2");

    while w.merge(1) {
        assert_eq!(text(&w, all), expected, "while it is merged");
    }
    send(&mut w, zoe, "Ann");
    w.op(Change::Remove { name: "Zoe".into() });
    assert_eq!(text(&w, all), expected, "after zoe is gone");
    assert_eq!(
        text(
            &w,
            "SELECT group_concat(other) FROM mailbox WHERE user = 'zoe'"
        ),
        "bob,ann"
    );
}
