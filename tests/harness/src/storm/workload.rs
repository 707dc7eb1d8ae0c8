//! What clients of a storm do all the time: which operation is next, by the client's own random generator. How it gets through is
//! [`crate::storm::storm_client`]'s.

use std::time::Duration;

use messagebase_checker::{Answer, Call, Reply};

use crate::client::PASSWORD;
use crate::storm::plan::Behavior;
use crate::storm::storm_client::{GaveUp, StormClient};

/// Sends that are written before the first answer is read.
const PIPELINED: std::ops::RangeInclusive<usize> = 2..=24;
/// What a client listens between two operations; bounds the load, so that a seed's history stays readable.
const THINKS_MS: std::ops::Range<u64> = 0..40;
const STEADY_THINKS_MS: std::ops::Range<u64> = 2..16;
/// Sends after which a steady client empties its mailbox.
const STEADY_ACKS_EVERY: u64 = 64;
/// Names that several clients want: the first one has them.
const CONTESTED: u32 = 12;
/// Bodies are seldom long.
const LONG_BODY: usize = 12_000;
const PAGE_MAX: u32 = 100;

impl StormClient {
    /// Works until the storm is over, and ends what is under way then.
    pub fn visit(&mut self, behavior: Behavior) {
        // Accounts are made before the storm begins: hashing passwords would be most of what a short one sees.
        let served = self.come_up();
        self.context.has_come();
        if served.is_err() {
            return self.context.wrong(format!(
                "a client of {} was not served before the storm",
                self.user
            ));
        }
        let mut rounds = 0_u64;
        while !self.context.is_over() {
            rounds += 1;
            let done = match behavior {
                Behavior::Roaming | Behavior::Shipped => self.anything(),
                Behavior::Steady => self.steady(rounds),
            };
            if done.is_err() {
                let what = format!(
                    "a client of {} was not served until patience ended, on a healed cluster",
                    self.user
                );
                self.context.wrong(what);
                return;
            }
            let thinks = if behavior == Behavior::Steady {
                STEADY_THINKS_MS
            } else {
                THINKS_MS
            };
            let thinks = Duration::from_millis(self.rng.u64(thinks));
            self.listen(thinks);
        }
    }

    fn steady(&mut self, round: u64) -> Result<(), GaveUp> {
        let send = self.a_send();
        self.insist(vec![send])?;
        if round.is_multiple_of(STEADY_ACKS_EVERY) {
            self.acknowledge()
        } else {
            Ok(())
        }
    }

    fn anything(&mut self) -> Result<(), GaveUp> {
        self.come_up()?;
        match self.rng.u8(0..100) {
            0..=24 => self.send_one(),
            25..=44 => self.send_many(),
            45..=51 => self.send_and_vanish(),
            52..=63 => self.acknowledge(),
            64..=78 => {
                let read = self.a_read();
                self.read(read);
                Ok(())
            }
            79..=82 => self.log_out(),
            83..=84 => self.change_password(),
            85..=89 => self.want_a_name(),
            90..=93 => self.come_and_go(),
            94..=97 => {
                self.hang_up();
                self.move_on();
                Ok(())
            }
            _ => {
                self.aside("campaign");
                Ok(())
            }
        }
    }

    // ---- sending ----

    fn a_send(&mut self) -> Call {
        let names = &self.context.names;
        let to = names[self.rng.usize(..names.len())].clone();
        self.a_send_to(to)
    }

    fn a_send_to(&mut self, to: String) -> Call {
        let key = self.key();
        let long = if self.rng.u8(0..50) == 0 {
            "x".repeat(self.rng.usize(..LONG_BODY))
        } else {
            String::new()
        };
        Call::Send {
            to,
            body: format!("{key}{long}"),
            key,
        }
    }

    fn send_one(&mut self) -> Result<(), GaveUp> {
        let send = match self.rng.u8(0..20) {
            0 => self.a_send_to("nobody".into()),
            1 => {
                let name = contested(self.rng.u32(..CONTESTED));
                self.a_send_to(name)
            }
            _ => self.a_send(),
        };
        self.insist(vec![send.clone()])?;
        if self.rng.u8(0..10) == 0 {
            // Days later, as far as the key is concerned.
            self.insist(vec![send])?;
        }
        Ok(())
    }

    fn some_sends(&mut self) -> Vec<Call> {
        (0..self.rng.usize(PIPELINED))
            .map(|_| self.a_send())
            .collect()
    }

    fn send_many(&mut self) -> Result<(), GaveUp> {
        let sends = self.some_sends();
        self.insist(sends).map(drop)
    }

    /// The connection goes before any answer is read. Three of four repeat elsewhere, the others never do.
    fn send_and_vanish(&mut self) -> Result<(), GaveUp> {
        let sends = self.some_sends();
        self.post_and_hang_up(&sends)?;
        if self.rng.u8(0..4) == 0 {
            self.become_another();
            return Ok(());
        }
        self.insist(sends).map(drop)
    }

    // ---- reading ----

    fn a_read(&mut self) -> Call {
        let linear = self.rng.u8(0..4) != 0;
        let limit = Some(self.rng.u32(1..=PAGE_MAX));
        let name = self.context.names[self.rng.usize(..self.context.names.len())].clone();
        match self.rng.u8(0..4) {
            0 => Call::Inbox {
                after: 0,
                limit,
                linear,
            },
            1 => Call::Sync {
                after: self.last.saturating_sub(self.rng.u64(0..50)),
                limit,
                linear,
            },
            2 => Call::History {
                with: name,
                before: None,
                limit,
                linear,
            },
            _ => Call::Users {
                pattern: self.rng.bool().then(|| "user-*".into()),
                after: None,
                limit,
                linear,
            },
        }
    }

    fn read(&mut self, call: Call) {
        if let Some(Answer::Ok(_)) = self.ask(call) {
            return;
        }
        // Refused for want of a quorum, or lost: another node may do better.
        self.hang_up();
        self.move_on();
    }

    /// Reads the inbox and acknowledges what is held without a gap.
    fn acknowledge(&mut self) -> Result<(), GaveUp> {
        self.come_up()?;
        self.read(Call::Inbox {
            after: 0,
            limit: Some(PAGE_MAX),
            linear: true,
        });
        if self.last_to_me > 0 {
            self.insist(vec![Call::Ack {
                through: self.last_to_me,
            }])?;
        }
        Ok(())
    }

    // ---- sessions and accounts ----

    fn log_out(&mut self) -> Result<(), GaveUp> {
        // Not repeated: when the answer is lost, the token lives or not, and the next resume says which.
        if let Some(Answer::Ok(_)) = self.ask(Call::Logout) {
            self.forget_session();
        } else {
            self.hang_up();
        }
        Ok(())
    }

    fn change_password(&mut self) -> Result<(), GaveUp> {
        let user = self.user.clone();
        let Some(old) = self.context.passwords(&user).first().cloned() else {
            return Ok(());
        };
        let key = self.key();
        let new = format!("a new one: {key}");
        // It may be the right one from now on, and is not the likeliest before the answer.
        self.context.may_have(&user, &new);
        self.context.may_have(&user, &old);
        let answers = self.insist(vec![Call::Password {
            old,
            new: new.clone(),
            key,
        }])?;
        if matches!(answers.first(), Some(Answer::Ok(_))) {
            self.context.may_have(&user, &new);
        }
        Ok(())
    }

    /// Registers a name that others want too.
    fn want_a_name(&mut self) -> Result<(), GaveUp> {
        let name = contested(self.rng.u32(..CONTESTED));
        let key = self.key();
        let call = Call::Register {
            user: name.clone(),
            password: PASSWORD.into(),
            key,
        };
        let answers = self.insist(vec![call])?;
        if let Some(Answer::Ok(Reply::Registered { .. })) = answers.first() {
            self.context.may_have(&name, PASSWORD);
        }
        Ok(())
    }

    /// An account that is made, used and deleted.
    fn come_and_go(&mut self) -> Result<(), GaveUp> {
        let name = self.key();
        let mut client = self.companion(&name);
        let sends: Vec<Call> = (0..3).map(|_| client.a_send()).collect();
        client.insist(sends)?;
        let mine = self.a_send_to(name.clone());
        self.insist(vec![mine])?;
        client.delete_account()?;
        self.context.forget(&name);
        let too_late = self.a_send_to(name);
        self.insist(vec![too_late]).map(drop)
    }
}

fn contested(n: u32) -> String {
    format!("wanted-{n}")
}
