//! Apply with cached rows against an apply that reads everything again.

use fastrand::Rng;

use super::*;

fn name(dice: &mut Rng) -> String {
    format!("user{}", dice.u64(..5))
}

fn body(dice: &mut Rng) -> (Option<u64>, Change, Option<Secrets>) {
    let actor = Some(1 + dice.u64(..8));
    let user = 1 + dice.u64(..6);
    let key = format!("k{}", dice.u64(..60));
    match dice.u64(..100) {
        0..55 => {
            let (to, body) = (name(dice), "x".repeat(1 + dice.u64(..3) as usize));
            (
                actor,
                Change::Send {
                    user,
                    to,
                    body,
                    key,
                },
                None,
            )
        }
        55..70 => (
            actor,
            Change::Ack {
                user,
                through: 1 + dice.u64(..40),
            },
            None,
        ),
        70..78 => {
            let body = Change::Register {
                name: name(dice),
                key,
                by_operator: false,
            };
            (None, body, Some(password("$hash")))
        }
        78..86 => {
            let secrets = Secrets {
                password_hash: None,
                token_hash: Some([dice.u64(..200) as u8; 32]),
            };
            (
                None,
                Change::Login {
                    user,
                    credential_version: 1,
                },
                Some(secrets),
            )
        }
        roll => rare_body(dice, roll, (actor, user), key),
    }
}

/// The changes that are proposed less often.
fn rare_body(
    dice: &mut Rng,
    roll: u64,
    (actor, user): (Option<u64>, u64),
    key: String,
) -> (Option<u64>, Change, Option<Secrets>) {
    match roll {
        86..88 => (actor, Change::Logout {}, None),
        88..90 => (None, Change::Lock { name: name(dice) }, None),
        90..92 => (None, Change::Unlock { name: name(dice) }, None),
        92..94 => (
            actor,
            Change::Delete {
                user,
                credential_version: None,
                key,
            },
            None,
        ),
        94..95 => (None, Change::FreeName { name: name(dice) }, None),
        95..96 => match dice.u64(..4) {
            0 => (
                None,
                Change::ResetPassword { name: name(dice) },
                Some(password("$other")),
            ),
            1 => (
                actor,
                Change::Password {
                    user,
                    credential_version: 1,
                    key,
                },
                Some(password("$other")),
            ),
            2 => (None, Change::Remove { name: name(dice) }, None),
            // Makes no sense, and is rolled back.
            _ => (None, Change::ResetPassword { name: name(dice) }, None),
        },
        96..97 => (None, Change::ForgetDelivered { at_most: 3 }, None),
        97..98 => (None, Change::ExpireSessions {}, None),
        _ => {
            let (messages, days) = (3 + dice.u64(..6) as u32, dice.u64(..2) as u32);
            let settings = Settings {
                queued_messages_per_user: messages,
                delivered_days: days,
                sessions_per_user: 2,
                ..Settings::default()
            };
            (None, Change::Settings(settings), None)
        }
    }
}

fn rows(conn: &Connection) -> Vec<String> {
    let mut all = Vec::new();
    for table in [
        "users",
        "retired_users",
        "messages",
        "send_keys",
        "account_keys",
        "sessions",
        "mailboxes",
        "replicated_state",
    ] {
        let mut statement = conn
            .prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2"))
            .unwrap();
        let columns = statement.column_count();
        let mut found = statement.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let values: Vec<String> = (0..columns)
                .map(|at| format!("{:?}", row.get_ref(at).unwrap()))
                .collect();
            all.push(format!("{table}: {}", values.join(" ")));
        }
    }
    all
}

#[test]
fn cached_rows_are_never_other_than_those_of_the_file() {
    const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
    for seed in 0..30 {
        let mut dice = Rng::with_seed(seed);
        let (mut cached, mut cold) = (World::new(), World::new());
        for batch in 0..40 {
            let tx = cached.conn.unchecked_transaction().unwrap();
            for entry in 0..1 + dice.u64(..8) {
                let (actor, body, secrets) = body(&mut dice);
                // Now and then so late that sessions expire and delivered messages may be forgotten.
                cold.at += if dice.u64(..50) == 0 { 20 * DAY_MS } else { 1 };
                let change = Arc::new(Envelope {
                    v: LOG_VERSION,
                    at: cold.at,
                    actor,
                    body,
                    secrets,
                });
                cold.machine.forget();
                let expected = cold.try_apply(LogPayload::Change(change.clone())).unwrap();
                cached.index += 1;
                let id = LogId {
                    term: 1,
                    leader: 65_537,
                    index: cached.index,
                };
                let row = LogRow {
                    id,
                    payload: LogPayload::Change(change.clone()),
                };
                let found = cached.machine.apply(&tx, &row).unwrap();
                assert_eq!(
                    found, expected,
                    "seed {seed}, batch {batch}, entry {entry}: {:?}",
                    change.body
                );
            }
            cached.machine.save(&tx).unwrap();
            tx.commit().unwrap();
            cached.merge(1 + dice.u64(..40) as usize);
            assert_eq!(
                rows(&cached.conn),
                rows(&cold.conn),
                "seed {seed}, batch {batch}"
            );
        }
    }
}
