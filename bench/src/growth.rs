//! What a large state costs: the same questions and sends to two clusters in alternating rounds, one whose files hold
//! millions of messages, and one that holds no more than the messages of those who ask. Starts no nodes: its caller
//! does, after their files were filled.
//!
//! - [`fill`]: writes users and messages into the file of a node that does not run.
//! - [`readers`]: sessions of such users, which ask.

pub mod fill;
pub mod readers;

use serde::Serialize;

use crate::load::compare::{Ratios, side_by_side};
use crate::load::figures::Point;
use crate::load::load_users::{ClusterAccess, LoadUsers, RECIPIENTS};
use crate::load::messagebase::{Messagebase, Through};
use crate::load::{LoadError, Place, Say, Server, Shape, Timing};
use fill::Size;
use readers::{Question, Readers};

/// How it is measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Plan {
    /// What the large cluster holds.
    pub large: Size,
    /// What the small one holds: those who ask, and as many messages for each of them.
    pub small: Size,
    /// Questions under way at a time.
    pub questions: usize,
    /// Sends under way at a time, each on a connection of its own.
    pub sends: usize,
    /// Length of a message, bytes.
    pub body_bytes: usize,
    /// Of each round.
    #[serde(flatten)]
    pub timing: Timing,
    /// Rounds of each kind on each cluster.
    pub rounds: usize,
}

impl Plan {
    /// The small cluster's size for this number of users who ask.
    pub fn small(large: Size, askers: u32) -> Size {
        let askers = askers.min(large.users);
        Size {
            users: askers,
            messages: large.messages / large.users * askers,
        }
    }
}

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A question of those who ask.
    Ask(Question),
    /// A send of those who send.
    Send,
}

impl Request {
    /// Logins last: each begins a session, and a user who has too many loses the oldest, on which questions are asked.
    pub const ALL: [Request; 6] = [
        Request::Ask(Question::Inbox),
        Request::Ask(Question::Sync),
        Request::Ask(Question::History),
        Request::Ask(Question::Search),
        Request::Send,
        Request::Ask(Question::Login),
    ];

    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Request::Ask(question) => question.name(),
            Request::Send => "send",
        }
    }
}

/// One kind of request on both clusters.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Which.
    pub request: &'static str,
    /// On the large cluster.
    pub large: Point,
    /// On the small one.
    pub small: Point,
    /// The large cluster's medians divided by the small one's.
    pub ratios: Ratios,
}

/// A cluster with those who ask and those who send.
pub struct Site {
    askers: Readers,
    senders: Messagebase,
}

impl Site {
    /// Logs all of them in.
    ///
    /// # Errors
    /// A node refuses them, or the mailbox of an asker is not as it was filled.
    pub async fn visit(
        name: &'static str,
        access: &ClusterAccess,
        servers: &[Server],
        size: Size,
        plan: &Plan,
        say: Say<'_>,
    ) -> Result<Site, LoadError> {
        let askers =
            Readers::gather(name, access, servers.to_vec(), size, plan.small.users, say).await?;
        let users = LoadUsers::gather(access.clone(), RECIPIENTS, say).await?;
        let senders = Messagebase::new(
            users,
            servers.to_vec(),
            Through::Connection,
            plan.body_bytes,
        )
        .named(name);
        Ok(Site { askers, senders })
    }
}

/// Asks and sends.
///
/// # Errors
/// See [`LoadError`].
pub async fn measure(
    large: &mut Site,
    small: &mut Site,
    requests: &[Request],
    plan: &Plan,
    say: Say<'_>,
) -> Result<Vec<Line>, LoadError> {
    let mut lines = Vec::new();
    let shape = |connections| {
        [Shape {
            connections,
            outstanding: 1,
            place: Place::Leader,
        }]
    };
    let (timing, rounds) = (plan.timing, plan.rounds);
    for request in Request::ALL
        .into_iter()
        .filter(|request| requests.contains(request))
    {
        say(request.name());
        let pairs = match request {
            Request::Ask(question) => {
                let (large, small) = (
                    large.askers.turn_to(question),
                    small.askers.turn_to(question),
                );
                side_by_side(large, small, &shape(plan.questions), timing, rounds, say).await?
            }
            Request::Send => {
                let (large, small) = (&mut large.senders, &mut small.senders);
                side_by_side(large, small, &shape(plan.sends), timing, rounds, say).await?
            }
        };
        lines.extend(pairs.into_iter().map(|pair| Line {
            request: request.name(),
            large: pair.ours,
            small: pair.theirs,
            ratios: pair.ratios,
        }));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_cluster_holds_as_many_messages_a_user() {
        let large = Size {
            users: 1_000,
            messages: 50_000,
        };
        assert_eq!(
            Plan::small(large, 20),
            Size {
                users: 20,
                messages: 1_000
            }
        );
        assert_eq!(Plan::small(large, 5_000), large);
    }
}
