//! What apply holds from one entry to the next against an apply that reads everything anew.

use super::*;

/// SplitMix64 (Steele et al., 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }
}

fn name(dice: &mut Dice) -> String {
    format!("user{}", dice.roll(5))
}

fn body(dice: &mut Dice) -> (Option<u64>, Change, Option<Secrets>) {
    let actor = Some(1 + dice.roll(8));
    let user = 1 + dice.roll(6);
    let key = format!("k{}", dice.roll(60));
    match dice.roll(100) {
        0..55 => {
            let (to, body) = (name(dice), "x".repeat(1 + dice.roll(3) as usize));
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
                through: 1 + dice.roll(40),
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
                token_hash: Some([dice.roll(200) as u8; 32]),
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
        95..96 => match dice.roll(4) {
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
            // Makes no sense, and is taken back.
            _ => (None, Change::ResetPassword { name: name(dice) }, None),
        },
        96..97 => (None, Change::ForgetDelivered { at_most: 3 }, None),
        97..98 => (None, Change::ExpireSessions {}, None),
        _ => {
            let (messages, days) = (3 + dice.roll(6) as u32, dice.roll(2) as u32);
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
fn held_rows_never_say_anything_else_than_the_file() {
    const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
    for seed in 0..30 {
        let mut dice = Dice(seed);
        let (mut warm, mut cold) = (World::new(), World::new());
        for batch in 0..40 {
            let tx = warm.conn.unchecked_transaction().unwrap();
            for entry in 0..1 + dice.roll(8) {
                let (actor, body, secrets) = body(&mut dice);
                // Now and then so late that sessions expire and delivered messages may be forgotten.
                cold.at += if dice.roll(50) == 0 { 20 * DAY_MS } else { 1 };
                let change = Arc::new(Envelope {
                    v: LOG_VERSION,
                    at: cold.at,
                    actor,
                    body,
                    secrets,
                });
                cold.machine.forget();
                let expected = cold.try_apply(LogPayload::Change(change.clone())).unwrap();
                warm.index += 1;
                let id = LogId {
                    term: 1,
                    leader: 65_537,
                    index: warm.index,
                };
                let row = LogRow {
                    id,
                    payload: LogPayload::Change(change.clone()),
                };
                let found = warm.machine.apply(&tx, &row).unwrap();
                assert_eq!(
                    found, expected,
                    "seed {seed}, batch {batch}, entry {entry}: {:?}",
                    change.body
                );
            }
            warm.machine.save(&tx).unwrap();
            tx.commit().unwrap();
            warm.merge(1 + dice.roll(40) as usize);
            assert_eq!(
                rows(&warm.conn),
                rows(&cold.conn),
                "seed {seed}, batch {batch}"
            );
        }
    }
}
