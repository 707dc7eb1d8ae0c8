//! One round of looking for a node: ask all, decide ([`crate::election`]), campaign if need be, go there, take the
//! session up again. `driver` decides whether and when there is another round.

use std::time::Duration;

use messagebase_protocol::code::Code;
use messagebase_protocol::json::{Campaign, Consistency, Op, Resumed, Status};
use messagebase_protocol::limits::{CAMPAIGN_DEADLINE, WRITE_DEADLINE};

use crate::connection::CallError;
use crate::dial::{
    Directory, Endpoint, Reached, Slot, Transport, Unreached, ask_status, nobody, probe, probe_all,
};
use crate::election::{Decision, decide, is_better_elsewhere};
use crate::error::Unavailable;

/// Added to a node's own deadline for the way there and back.
const ROUND_TRIP: Duration = Duration::from_millis(500);

/// Which node is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// No node was lost: this node if it is ready, or the first ready one of the directory.
    Any {
        /// Preferred.
        node: Option<u16>,
    },
    /// A node was lost: the leader, after an election if there is none.
    Leader,
}

/// The session to resume.
#[derive(Clone, Default)]
pub struct PreviousSession {
    /// The cluster it was with.
    pub cluster_id: Option<String>,
    /// Its token.
    pub token: Option<String>,
}

/// The result of resuming a session.
#[derive(Debug)]
pub enum Session {
    /// There was no session to resume.
    None,
    /// The session goes on.
    Resumed(Resumed),
    /// The token is not good any more, for this reason.
    Dead(Code),
    /// The cluster is another one: the token was not shown to it.
    OtherCluster,
}

/// A node to work with.
#[derive(Debug)]
pub struct Entered {
    /// Its connection; logged in if `session` says so.
    pub reached: Reached,
    /// What became of the session.
    pub session: Session,
}

/// Knows the addresses and how to dial them.
#[derive(Clone)]
pub struct Finder {
    /// Opens connections.
    pub transport: Transport,
    /// The known addresses.
    pub directory: Directory,
}

impl Finder {
    /// One round.
    ///
    /// # Errors
    /// What stands in the way; try again later.
    pub async fn round(
        &mut self,
        target: Target,
        previous: &PreviousSession,
    ) -> Result<Entered, Unavailable> {
        let reached = match target {
            Target::Any { node } => match self.any(node).await {
                Some(reached) => reached,
                None => self.leader().await?,
            },
            Target::Leader => self.leader().await?,
        };
        self.directory.learn(&reached.status);
        enter(reached, previous).await
    }

    /// Asks all nodes about one that has not answered a request for a while: whether the user is better off elsewhere.
    pub async fn is_better_elsewhere(&self, node: u16) -> bool {
        let own: Vec<usize> = self
            .directory
            .endpoints()
            .iter()
            .enumerate()
            .filter(|(_, e)| e.node == node)
            .map(|(at, _)| at)
            .collect();
        // The probe waits for this node as long as for any straggler: its own answer counts.
        let heard = |slots: &[Slot]| {
            own.iter().any(|at| slots[*at].reached().is_some())
                && !matches!(decide(&statuses(slots)), Decision::NoQuorum { .. })
        };
        is_better_elsewhere(
            node,
            &statuses(&probe_all(&self.transport, &self.directory, heard).await),
        )
    }

    /// What every address answers, for showing.
    pub async fn survey(&self) -> Vec<(Endpoint, Result<Status, Unreached>)> {
        let slots = probe_all(&self.transport, &self.directory, |_| false).await;
        let statuses = slots.into_iter().map(|slot| match slot {
            Slot::Reached(reached) => Ok(reached.status),
            Slot::Failed(unreached) => Err(unreached),
            Slot::Pending => Err(Unreached::silent()),
        });
        self.directory
            .endpoints()
            .iter()
            .cloned()
            .zip(statuses)
            .collect()
    }

    async fn any(&self, prefer: Option<u16>) -> Option<Reached> {
        let mut directory = self.directory.endpoints().to_vec();
        // Stable: the preferred node first, the others in the file's order.
        directory.sort_by_key(|endpoint| Some(endpoint.node) != prefer);
        let directory = Directory::from_endpoints(directory);
        let slots = probe_all(&self.transport, &directory, |slots| {
            first_ready(slots).is_some()
        })
        .await;
        // Those that are still silent now are not worth waiting for.
        let at = first_ready(&slots).or_else(|| slots.iter().position(is_ready))?;
        take(slots, at)
    }

    async fn leader(&self) -> Result<Reached, Unavailable> {
        let taken = |slots: &[Slot]| matches!(decide(&statuses(slots)), Decision::Take(_));
        let slots = probe_all(&self.transport, &self.directory, taken).await;
        let position = |slots: &[Slot], node| {
            slots.iter().position(|slot| {
                slot.reached()
                    .is_some_and(|reached| reached.status.node == node)
            })
        };
        match decide(&statuses(&slots)) {
            Decision::Take(node) => position(&slots, node)
                .and_then(|at| take(slots, at))
                .ok_or(Unavailable::Electing),
            Decision::Campaign(node) => {
                let at = position(&slots, node).ok_or(Unavailable::Electing)?;
                let winner = campaign(slots[at].reached().ok_or(Unavailable::Electing)?).await?;
                let reached = match position(&slots, winner) {
                    Some(at) => take(slots, at),
                    None => match self.dial(winner).await {
                        Some(reached) => Some(reached),
                        // The winner is out of this client's reach; the node that knows it forwards to it.
                        None => take(slots, at),
                    },
                };
                let mut reached = reached.ok_or(Unavailable::Electing)?;
                // Its status from before the election is out of date.
                reached.status = ask_status(&reached.connection)
                    .await
                    .map_err(|_| Unavailable::Electing)?;
                Ok(reached)
            }
            Decision::NoQuorum { alive, needed } => Err(Unavailable::NoQuorum { alive, needed }),
            Decision::NotFormed { answered } => Err(Unavailable::NotFormed { answered }),
            Decision::NoNode => {
                let silent = Unreached::silent();
                let unreached = slots.iter().map(|slot| {
                    if let Slot::Failed(why) = slot {
                        why
                    } else {
                        &silent
                    }
                });
                Err(nobody(self.directory.endpoints().iter().zip(unreached)))
            }
        }
    }

    async fn dial(&self, node: u16) -> Option<Reached> {
        let endpoint = self
            .directory
            .endpoints()
            .iter()
            .find(|endpoint| endpoint.node == node)?;
        probe(&self.transport, endpoint).await.ok()
    }
}

/// Asks a node to campaign, which ends when there is a leader. Returns the leader's number.
async fn campaign(reached: &Reached) -> Result<u16, Unavailable> {
    let answer = reached
        .connection
        .call::<Campaign>(Op::Campaign {}, CAMPAIGN_DEADLINE + ROUND_TRIP)
        .await;
    match answer {
        Ok(Campaign { leader }) => Ok(leader),
        // The leader is well, only this client could not reach it: the node that says so forwards.
        Err(CallError::Refused(failure)) if failure.code == Code::LeaderAlive => {
            Ok(reached.status.node)
        }
        Err(error) => {
            tracing::debug!(
                node = reached.status.node,
                ?error,
                "a campaign did not succeed"
            );
            Err(Unavailable::Electing)
        }
    }
}

async fn enter(reached: Reached, previous: &PreviousSession) -> Result<Entered, Unavailable> {
    let other =
        matches!((&previous.cluster_id, &reached.status.cluster_id), (Some(a), Some(b)) if a != b);
    if other {
        return Ok(Entered {
            reached,
            session: Session::OtherCluster,
        });
    }
    let Some(token) = previous.token.clone() else {
        return Ok(Entered {
            reached,
            session: Session::None,
        });
    };
    let resume = Op::Resume {
        token,
        consistency: Consistency::Linear,
    };
    let session = match reached
        .connection
        .call::<Resumed>(resume, WRITE_DEADLINE + ROUND_TRIP)
        .await
    {
        Ok(resumed) => Session::Resumed(resumed),
        Err(CallError::Refused(failure)) => match failure.code {
            code
            @ (Code::BadCredentials | Code::Locked | Code::NotPermitted | Code::BadRequest) => {
                Session::Dead(code)
            }
            _ => return Err(Unavailable::Electing),
        },
        Err(_) => return Err(Unavailable::Electing),
    };
    Ok(Entered { reached, session })
}

fn statuses(slots: &[Slot]) -> Vec<Option<Status>> {
    slots
        .iter()
        .map(|slot| slot.reached().map(|reached| reached.status.clone()))
        .collect()
}

fn is_ready(slot: &Slot) -> bool {
    slot.reached()
        .is_some_and(|reached| reached.status.replica.ready)
}

/// The first ready node, if everyone before it has answered or failed.
fn first_ready(slots: &[Slot]) -> Option<usize> {
    let at = slots
        .iter()
        .position(|slot| is_ready(slot) || matches!(slot, Slot::Pending))?;
    is_ready(&slots[at]).then_some(at)
}

fn take(slots: Vec<Slot>, at: usize) -> Option<Reached> {
    match slots.into_iter().nth(at)? {
        Slot::Reached(reached) => Some(*reached),
        Slot::Pending | Slot::Failed(_) => None,
    }
}
