//! One round: sends, one after another, before, during and after a fault; and which of their times counts.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use messagebase_client::ClientError;
use messagebase_protocol::code::Certainty;
use tokio::time::Instant;

use super::delivery_log::{Fate, body};
use super::users::Users;
use super::{ClientOn, FailoverError, InjectedFault, Measure, Plan, Stage, Standing};

/// The sender is at it for this long before the fault, so that every connection is warm and the fault comes at an
/// arbitrary moment of a send.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long after a planned change a send may be its victim.
const AFTERMATH: Duration = Duration::from_secs(2);
/// Acknowledged sends after the recovery, so that a second interruption would not go unseen.
const SENDS_AFTER: usize = 20;
/// How long a recovery may take before the round has failed.
pub const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// One message and what became of it.
#[derive(Debug)]
pub struct Sending {
    /// Counts the messages of the whole run.
    pub number: u64,
    /// The library was asked to send.
    pub began: Instant,
    /// It answered.
    pub ended: Instant,
    /// The node that the client was connected to when the answer came, if to any.
    pub node: Option<u16>,
    /// The message's id, or why there is none.
    pub answer: Result<u64, ClientError>,
    /// No fault was near.
    pub calm: bool,
}

impl Sending {
    /// How long it took.
    pub fn took(&self) -> Duration {
        self.ended.duration_since(self.began)
    }

    /// What the sender knows of the message.
    pub fn fate(&self) -> Fate {
        match &self.answer {
            Ok(id) => Fate::Acknowledged { id: *id },
            Err(error) if error.as_failure().certainty == Certainty::NotDone => Fate::NotDone,
            Err(_) => Fate::Unknown,
        }
    }
}

/// How a round went.
#[derive(Debug)]
pub struct Round {
    /// Counts from 1.
    pub number: u32,
    /// The node that was struck.
    pub struck: u16,
    /// Who leads after the round.
    pub leader: u16,
    /// Terms that passed in it.
    pub terms: u64,
    /// What is measured.
    pub time: Duration,
    /// The time of day of the fault, to find it in the nodes' logs.
    pub struck_at: SystemTime,
    /// What the client told its user: how long each failover took it.
    pub failovers: Vec<Duration>,
}

/// Plays a round; appends what was sent.
///
/// # Errors
/// The stage failed, or there was no recovery.
pub(super) async fn play<S: Stage>(
    number: u32,
    plan: &Plan,
    stage: &S,
    standing: &Standing,
    users: &mut Users<'_>,
    sendings: &mut Vec<Sending>,
) -> Result<Round, FailoverError<S::Error>> {
    let first = sendings.len();
    let mut strike = None;
    let mut striking = pin!(async {
        tokio::time::sleep(WARM_UP).await;
        stage.strike(plan.fault, standing).await
    });
    let timed = loop {
        let message = sendings.len() as u64;
        let text = body(message, plan.body_bytes);
        let began = Instant::now();
        let mut sending = pin!(users.send(&text));
        let (answer, node) = loop {
            tokio::select! {
                answered = &mut sending => break answered,
                struck = &mut striking, if strike.is_none() => strike = Some(struck.map_err(FailoverError::Stage)?),
            }
        };
        let ended = Instant::now();
        sendings.push(Sending {
            number: message,
            began,
            ended,
            node,
            answer,
            calm: strike.is_none(),
        });
        let Some(strike) = strike else { continue };
        match time_of(plan, strike, standing.leader, &sendings[first..]) {
            Some(time) => break (time, strike),
            None if strike.at.elapsed() > RECOVERY_LIMIT => {
                let last = sendings[first..]
                    .iter()
                    .rev()
                    .find_map(|sending| sending.answer.as_ref().err());
                let last = last.map_or_else(|| "none".into(), ToString::to_string);
                return Err(FailoverError::NoRecovery {
                    round: number,
                    last,
                });
            }
            None => {}
        }
    };
    let (time, strike) = timed;
    let struck_at = SystemTime::now() - strike.at.elapsed();
    let (struck, failovers) = (standing.leader, users.failovers());
    Ok(Round {
        number,
        struck,
        leader: struck,
        terms: 0,
        time,
        struck_at,
        failovers,
    })
}

/// The time that counts, once enough was sent to know it.
fn time_of(
    plan: &Plan,
    strike: InjectedFault,
    struck: u16,
    sendings: &[Sending],
) -> Option<Duration> {
    match plan.fault.measures() {
        Measure::Recovery => recovery(plan.client_on, strike, struck, sendings),
        Measure::LongestSend => longest_send(strike, sendings),
    }
}

/// To the first acknowledgement that the struck leader can't have given.
///
/// A sender that was connected to it must have got the answer from another node: what the struck one had written before
/// it died, and what still arrives from its socket, does not count. A sender on a follower can't see whose majority it
/// was, so only sends that began after the signal count; the one that was under way is left out, which makes the time
/// longer, never shorter.
fn recovery(
    client_on: ClientOn,
    strike: InjectedFault,
    struck: u16,
    sendings: &[Sending],
) -> Option<Duration> {
    let counts = |sending: &Sending| match client_on {
        ClientOn::Leader => {
            sending.ended > strike.at && sending.node.is_some_and(|node| node != struck)
        }
        ClientOn::Follower => sending.began >= strike.returned,
    };
    let mut good = sendings
        .iter()
        .filter(|sending| sending.answer.is_ok() && counts(sending));
    let first = good.next()?;
    (good.count() >= SENDS_AFTER).then(|| first.ended.duration_since(strike.at))
}

/// Of those under way at the order or begun while its effects may last. A send that failed counts with its time: it is
/// reported as an error besides.
fn longest_send(strike: InjectedFault, sendings: &[Sending]) -> Option<Duration> {
    let end = strike.returned.max(strike.at + AFTERMATH);
    sendings.last().filter(|last| last.ended >= end)?;
    let near = sendings
        .iter()
        .filter(|sending| sending.ended > strike.at && sending.began < end);
    near.map(Sending::took).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clock(Instant);

    impl Clock {
        fn at(&self, ms: u64) -> Instant {
            self.0 + Duration::from_millis(ms)
        }

        fn sending(&self, began: u64, ended: u64, node: Option<u16>) -> Sending {
            let (began, ended) = (self.at(began), self.at(ended));
            Sending {
                number: 0,
                began,
                ended,
                node,
                answer: Ok(1),
                calm: false,
            }
        }

        /// Enough of undisturbed ones, 1 ms each, on node 2.
        fn rest(&self, from: u64) -> Vec<Sending> {
            (from..)
                .take(SENDS_AFTER)
                .map(|ms| self.sending(ms, ms + 1, Some(2)))
                .collect()
        }

        fn strike(&self, at: u64, returned: u64) -> InjectedFault {
            InjectedFault {
                at: self.at(at),
                returned: self.at(returned),
            }
        }
    }

    #[test]
    fn an_answer_that_the_dead_leader_left_behind_is_no_recovery() {
        let clock = Clock(Instant::now());
        let strike = clock.strike(100, 100);
        let mut sendings = vec![
            clock.sending(90, 99, Some(1)),
            clock.sending(99, 101, Some(1)),
            clock.sending(101, 102, None),
            clock.sending(102, 130, Some(2)),
        ];
        assert_eq!(
            recovery(ClientOn::Leader, strike, 1, &sendings),
            None,
            "not enough sends afterwards"
        );
        sendings.extend(clock.rest(130));
        assert_eq!(
            recovery(ClientOn::Leader, strike, 1, &sendings),
            Some(Duration::from_millis(30))
        );
        sendings[3].answer = Err(ClientError::Closed);
        sendings.extend(clock.rest(150));
        assert_eq!(
            recovery(ClientOn::Leader, strike, 1, &sendings),
            Some(Duration::from_millis(31)),
            "acknowledged"
        );
    }

    #[test]
    fn on_a_follower_only_a_send_that_began_after_the_signal_counts() {
        let clock = Clock(Instant::now());
        let strike = clock.strike(100, 101);
        let mut sendings = vec![
            clock.sending(99, 120, Some(2)),
            clock.sending(120, 125, Some(2)),
        ];
        sendings.extend(clock.rest(125));
        assert_eq!(
            recovery(ClientOn::Follower, strike, 1, &sendings),
            Some(Duration::from_millis(25))
        );
    }

    #[test]
    fn the_longest_send_is_looked_for_until_the_aftermath_is_over() {
        let clock = Clock(Instant::now());
        let strike = clock.strike(100, 150);
        let mut sendings = vec![
            clock.sending(0, 99, Some(1)),
            clock.sending(99, 139, Some(1)),
            clock.sending(139, 149, Some(2)),
        ];
        assert_eq!(longest_send(strike, &sendings), None);
        sendings.push(clock.sending(2_099, 2_105, Some(2)));
        assert_eq!(
            longest_send(strike, &sendings),
            Some(Duration::from_millis(40))
        );
        let slow_order = clock.strike(100, 3_000);
        assert_eq!(
            longest_send(slow_order, &sendings),
            None,
            "it was not carried out yet"
        );
        sendings.push(clock.sending(2_900, 3_000, Some(2)));
        assert_eq!(
            longest_send(slow_order, &sendings),
            Some(Duration::from_millis(100))
        );
    }
}
