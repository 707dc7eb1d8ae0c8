//! The time from a fault of the leader to the next acknowledged send, round after round, and the proof that nothing
//! acknowledged was lost or doubled on the way. What a time means is told at [`Fault::measures`].
//!
//! One sender sends one message after another to one recipient. In each round the fault hits the leader while the
//! sender is at it; then the leader is brought back, the recipient acknowledges what came (queues are bounded), and
//! the next round begins once all voters are in and have caught up. At the end the recipient's whole mailbox is read.
//!
//! - [`round`]: sends around one fault, and the time that counts (pure).
//! - [`delivery_log`]: what was acknowledged against what is there (pure).
//! - [`figures`]: percentiles of few values (pure).
//! - `users`: the sender and the recipient, through the client library.
//!
//! It knows neither processes nor signals: its caller gives and heals the faults ([`Stage`]).

use std::error::Error;
use std::future::Future;
use std::time::{Duration, UNIX_EPOCH};

use messagebase_client::ClientError;
use messagebase_config::Config;
use serde::Serialize;
use thiserror::Error;
use tokio::time::Instant;

pub mod delivery_log;
pub mod figures;
pub mod round;
mod users;

use self::delivery_log::{Attempt, DeliveryReport, Fate};
use self::figures::{Figures, ms};
use self::round::{RECOVERY_LIMIT, Round, Sending};
use self::users::Users;

/// The least bytes of a body: it begins with its number.
pub const BODY_MIN_BYTES: usize = delivery_log::NUMBER_DIGITS;
/// Messages of errors that are reported; the rest is counted.
const ERRORS_SHOWN: usize = 5;

/// What happens to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP; SIGCONT after the round.
    Hang,
    /// A graceful stop.
    Stop,
    /// Leadership is handed to the next voter.
    Transfer,
}

/// What the time of a round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// From just before the signal to the first acknowledgement that the struck leader can't have given.
    Recovery,
    /// The longest single send of those that were under way or began between the order and two seconds after it (or
    /// until it was carried out, if that took longer).
    LongestSend,
}

impl Fault {
    /// Kills and hangs are measured by the time to recovery; planned changes by the longest send, because there is
    /// nothing to recover from.
    pub fn measures(self) -> Measure {
        match self {
            Fault::Kill | Fault::Hang => Measure::Recovery,
            Fault::Stop | Fault::Transfer => Measure::LongestSend,
        }
    }
}

/// Where the sender is connected when the fault comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientOn {
    /// To the leader: it loses its own connection, too.
    Leader,
    /// To a follower, the one with the lowest number: its node forwards.
    Follower,
}

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// What happens to the leader.
    pub fault: Fault,
    /// Where the sender is.
    pub client_on: ClientOn,
    /// How often; at least 1.
    pub rounds: u32,
    /// Bytes of each body; from [`BODY_MIN_BYTES`] to the protocol's limit.
    pub body_bytes: usize,
}

/// A cluster at rest: all voters are in and have caught up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Who leads.
    pub leader: u16,
    /// In which term.
    pub term: u64,
    /// The other voters, ascending.
    pub followers: Vec<u16>,
}

impl Standing {
    /// The voter after the leader, by number and in a circle: where leadership is handed to.
    ///
    /// `None` without followers.
    pub fn next(&self) -> Option<u16> {
        self.followers
            .iter()
            .find(|node| **node > self.leader)
            .or(self.followers.first())
            .copied()
    }
}

/// When a fault was given.
#[derive(Debug, Clone, Copy)]
pub struct InjectedFault {
    /// Just before the signal, or before the node was asked.
    pub at: Instant,
    /// The signal was sent, or what was asked for was done.
    pub returned: Instant,
}

/// Gives faults and heals them. Dropping any of its futures must be safe: the run may be interrupted.
pub trait Stage {
    /// Why it could not.
    type Error: Error + Send + Sync + 'static;

    /// Waits until all voters are in and have caught up.
    fn at_rest(&self) -> impl Future<Output = Result<Standing, Self::Error>>;

    /// Gives the fault to the leader.
    fn strike(
        &self,
        fault: Fault,
        standing: &Standing,
    ) -> impl Future<Output = Result<InjectedFault, Self::Error>>;

    /// Begins to bring a struck node back; [`Stage::at_rest`] waits for it.
    fn heal(&self, fault: Fault, node: u16) -> impl Future<Output = Result<(), Self::Error>>;

    /// Hears how a round went.
    fn heard(&self, round: &Round);
}

/// Why there is no result.
#[derive(Debug, Error)]
pub enum FailoverError<E: Error + Send + Sync + 'static> {
    /// The stage failed.
    #[error(transparent)]
    Stage(E),
    /// The client failed where it had no fault to bear.
    #[error("failed to {what}")]
    Client {
        /// What it was doing.
        what: &'static str,
        /// Why.
        source: ClientError,
    },
    /// The sender could not be placed where the plan wants it.
    #[error("the sender was to be on node {wanted} and came to node {got}")]
    Misplaced {
        /// The plan's node.
        wanted: u16,
        /// Where it is.
        got: u16,
    },
    /// Nobody can take over.
    #[error("node {leader} is the only voter")]
    Alone {
        /// The leader.
        leader: u16,
    },
    /// Nothing was acknowledged for too long.
    #[error("round {round}: no send was acknowledged by another leader within {} s of the fault; the last error: {last}", RECOVERY_LIMIT.as_secs())]
    NoRecovery {
        /// Which round.
        round: u32,
        /// What the client said last.
        last: String,
    },
}

/// The result. Its names are part of the outside contract; times are in milliseconds.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What happened to the leader.
    pub fault: Fault,
    /// Where the sender was.
    pub client_on: ClientOn,
    /// How often.
    pub rounds: u32,
    /// Bytes of each body.
    pub body_bytes: usize,
    /// What a time is.
    pub measure: Measure,
    /// The times, summed up.
    #[serde(flatten)]
    pub figures: Figures,
    /// The times as they came, one a round.
    pub times_ms: Vec<f64>,
    /// The median of the sends that no fault touched, for comparison.
    pub undisturbed_send_median_ms: f64,
    /// Failovers that the client reported to its user.
    pub failovers: u64,
    /// Sends that ended with an error instead of an acknowledgement.
    pub errors: u64,
    /// The first of those errors.
    pub error_messages: Vec<String>,
    /// The mailbox against the acknowledgements.
    #[serde(flatten)]
    pub verdict: DeliveryReport,
    /// Each round.
    pub detail: Vec<Detail>,
}

impl Report {
    /// Whether every send was acknowledged, and every acknowledged one is there, once and in order.
    pub fn is_clean(&self) -> bool {
        self.errors == 0 && self.verdict.is_clean()
    }
}

/// A round in the report.
#[derive(Debug, Serialize)]
pub struct Detail {
    /// The node that was struck.
    pub struck: u16,
    /// When, in Unix milliseconds, to find it in the nodes' logs.
    pub struck_at: u64,
    /// Who led afterwards.
    pub leader: u16,
    /// Terms that it took.
    pub terms: u64,
    /// The round's time.
    pub time_ms: f64,
    /// What the client told its user about it: from noticing the loss to being served again; of the longest, if
    /// there were several.
    pub client_failover_ms: Option<f64>,
}

/// Measures.
///
/// # Errors
/// The cluster or the client failed outside of what is measured, or did not recover. A send that is lost is a result,
/// not an error.
pub async fn run<S: Stage>(
    config: &Config,
    plan: &Plan,
    stage: &S,
) -> Result<Report, FailoverError<S::Error>> {
    let mut standing = stage.at_rest().await.map_err(FailoverError::Stage)?;
    let mut users = Users::sign_up(config).await?;
    let mut sendings = Vec::new();
    let mut rounds = Vec::new();
    for number in 1..=plan.rounds {
        let alone = FailoverError::Alone {
            leader: standing.leader,
        };
        let node = match plan.client_on {
            ClientOn::Leader => standing.leader,
            ClientOn::Follower => *standing.followers.first().ok_or(alone)?,
        };
        users.seat_sender(node).await?;
        let mut round =
            round::play(number, plan, stage, &standing, &mut users, &mut sendings).await?;
        stage
            .heal(plan.fault, round.struck)
            .await
            .map_err(FailoverError::Stage)?;
        let then = stage.at_rest().await.map_err(FailoverError::Stage)?;
        round.leader = then.leader;
        round.terms = then.term.saturating_sub(standing.term);
        standing = then;
        users.empty_inbox().await?;
        stage.heard(&round);
        rounds.push(round);
    }
    let found = users.mailbox().await?;
    Ok(report(plan, &rounds, &sendings, &found))
}

fn report(
    plan: &Plan,
    rounds: &[Round],
    sendings: &[Sending],
    found: &[delivery_log::Found],
) -> Report {
    let attempts: Vec<Attempt> = sendings
        .iter()
        .map(|sending| Attempt {
            number: sending.number,
            fate: sending.fate(),
        })
        .collect();
    let times: Vec<Duration> = rounds.iter().map(|round| round.time).collect();
    let calm: Vec<Duration> = sendings
        .iter()
        .filter(|sending| sending.calm)
        .map(Sending::took)
        .collect();
    let detail = |round: &Round| Detail {
        struck: round.struck,
        struck_at: round
            .struck_at
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64),
        leader: round.leader,
        terms: round.terms,
        time_ms: ms(round.time),
        client_failover_ms: round.failovers.iter().max().copied().map(ms),
    };
    let failed: Vec<&Sending> = sendings
        .iter()
        .filter(|s| !matches!(s.fate(), Fate::Acknowledged { .. }))
        .collect();
    let said = failed
        .iter()
        .filter_map(|sending| sending.answer.as_ref().err().map(ToString::to_string));
    Report {
        fault: plan.fault,
        client_on: plan.client_on,
        rounds: plan.rounds,
        body_bytes: plan.body_bytes,
        measure: plan.fault.measures(),
        figures: Figures::of(&times),
        times_ms: times.iter().copied().map(ms).collect(),
        undisturbed_send_median_ms: Figures::of(&calm).median_ms,
        failovers: rounds
            .iter()
            .map(|round| round.failovers.len() as u64)
            .sum(),
        errors: failed.len() as u64,
        error_messages: said.take(ERRORS_SHOWN).collect(),
        verdict: delivery_log::check(&attempts, found),
        detail: rounds.iter().map(detail).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leadership_goes_round_in_a_circle() {
        let standing = |leader, followers: &[u16]| Standing {
            leader,
            term: 1,
            followers: followers.to_vec(),
        };
        assert_eq!(standing(1, &[2, 3]).next(), Some(2));
        assert_eq!(standing(2, &[1, 3]).next(), Some(3));
        assert_eq!(standing(3, &[1, 2]).next(), Some(1));
        assert_eq!(standing(3, &[]).next(), None);
    }
}
