//! What the library reports unasked: messages and news of the cluster. It prints none of it.

use std::time::Duration;

use messagebase_protocol::json::{ClosingReason, Message};

use crate::error::Unavailable;

/// Something a program may want to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// A message to this user: each id once, in ascending order, none left out.
    Message(Message),
    /// A message this user sent in another session.
    SentElsewhere(Message),
    /// Messages to `by` up to this id were delivered.
    Delivered {
        /// Greatest delivered id among the messages this user sent.
        through: u64,
        /// The recipient.
        by: String,
    },
    /// News of the cluster or the session.
    Notice(Notice),
}

/// News of the cluster or the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The client lost its node and goes on with another.
    Failover {
        /// The node that was lost.
        lost: u16,
        /// Where the client is now.
        won: u16,
        /// The cluster's leader, which may be another node than `won`.
        leader: Option<u16>,
        /// The Raft term there.
        term: u64,
        /// From noticing the loss to being served again.
        took: Duration,
    },
    /// The cluster can't be used; reported once for each reason. The client keeps trying.
    Unavailable {
        /// The node that is gone, if this began with one.
        lost: Option<u16>,
        /// What was found.
        why: Unavailable,
        /// Messages that wait in the outbox.
        waiting: usize,
    },
    /// The cluster is back after a [`Notice::Unavailable`].
    Back {
        /// Where the client is now.
        node: u16,
        /// The Raft term there.
        term: u64,
        /// How long it was away.
        took: Duration,
        /// Messages in the outbox that go out now.
        waiting: usize,
    },
    /// The session is over; log in again.
    Ended {
        /// Why.
        why: Ended,
    },
    /// The cluster was restored: token and cursors are dropped; the outbox is held until the user decides.
    NewCluster {
        /// Messages that are held until they are released or discarded.
        held: usize,
    },
    /// The owner of unsent messages logged out, or somebody else logged in: they were dropped.
    OutboxDropped {
        /// Who wrote them.
        owner: String,
        /// Messages.
        count: usize,
    },
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The node closed it: logged out elsewhere, locked or deleted.
    Closed(ClosingReason),
    /// The token is not (or no longer) good.
    TokenRefused,
    /// The cluster is another one than the token's.
    NewCluster,
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Notice::Failover {
                lost,
                won,
                leader,
                term,
                took,
            } => {
                let leads = match leader {
                    Some(leader) if leader == won => format!("it leads term {term}"),
                    Some(leader) => format!("n{leader} leads term {term}"),
                    None => format!("term {term}"),
                };
                let took = millis(*took);
                if lost == won {
                    write!(f, "node n{lost} was lost and is back, {leads}; took {took}")
                } else {
                    write!(f, "node n{lost} was lost; n{won} won, {leads}; took {took}")
                }
            }
            Notice::Unavailable { lost, why, waiting } => {
                if let Some(lost) = lost {
                    write!(f, "node n{lost} was lost; ")?;
                }
                write!(f, "{why}; trying again")?;
                if *waiting > 0 {
                    write!(f, " ({waiting} waiting in the outbox)")?;
                }
                Ok(())
            }
            Notice::Back {
                node,
                term,
                took,
                waiting,
            } => {
                write!(
                    f,
                    "the cluster is back: on n{node}, term {term}, after {}",
                    millis(*took)
                )?;
                if *waiting > 0 {
                    write!(f, "; sending {waiting} from the outbox")?;
                }
                Ok(())
            }
            Notice::Ended { why } => write!(f, "{why}"),
            Notice::OutboxDropped { owner, count } => {
                let messages = if *count == 1 {
                    "message was"
                } else {
                    "messages were"
                };
                write!(
                    f,
                    "{count} unsent {messages} dropped with the session of {owner}"
                )
            }
            Notice::NewCluster { held } => write!(
                f,
                "this is another cluster than before (restored?); {held} unsent messages are held: \
                 `/outbox send` sends them, `/outbox drop` forgets them"
            ),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Ended::Closed(ClosingReason::Locked) => {
                "the session is over: the account was locked by the operator"
            }
            Ended::Closed(ClosingReason::Deleted) => "the session is over: the account was deleted",
            Ended::Closed(_) => "the session is over: it was ended elsewhere",
            Ended::TokenRefused => "the session is over: log in again",
            Ended::NewCluster => "this is another cluster than before (restored?): log in again",
        })
    }
}

fn millis(took: Duration) -> String {
    if took < Duration::from_secs(10) {
        format!("{} ms", took.as_millis())
    } else {
        format!("{} s", took.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failover_is_one_line_with_loser_winner_term_and_time() {
        let notice = Notice::Failover {
            lost: 2,
            won: 3,
            leader: Some(3),
            term: 7,
            took: Duration::from_millis(42),
        };
        assert_eq!(
            notice.to_string(),
            "node n2 was lost; n3 won, it leads term 7; took 42 ms"
        );
    }
}
