//! What openraft is parameterized with, and the conversions between its types and the store's. The store's side is the
//! file format; openraft's own serde forms are written nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use openraft::impls::{InlineBatch, OneshotResponder, leader_id_adv};
use openraft::{AsyncRuntime, EntryPayload, OptionalSend, RaftTypeConfig};
use serde::{Deserialize, Serialize};

use crate::change::{Envelope, Outcome};
use crate::entry::{LogId, LogPayload, LogRow};
use crate::store::StoreError;

/// A Raft id is `generation · RAFT_ID_GENERATION + node number`; a generation is never used twice.
pub const RAFT_ID_GENERATION: u64 = 65_536;

/// The Raft id of a node in its n-th life.
pub fn raft_id(generation: u64, node: u16) -> u64 {
    generation * RAFT_ID_GENERATION + u64::from(node)
}

/// The number of the node that a Raft id belongs to.
pub fn node_of(raft_id: u64) -> u16 {
    // The remainder is below 65,536 by construction.
    (raft_id % RAFT_ID_GENERATION) as u16
}

/// What the membership says about a node. Part of the log format: fields are only added, with a default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub node: u16,
    /// Where clients dial it.
    pub client: String,
    /// Where nodes dial it.
    pub peer: String,
    /// A learner that the leader makes a voter once it has caught up.
    #[serde(default)]
    pub promote: bool,
}

/// An envelope on its way through Raft; shared, because the tail, every replication and apply hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Command(pub Arc<Envelope>);

impl fmt::Display for Command {
    /// Nothing of the change: openraft prints entries at debug level, and they hold message bodies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "change v{}", self.0.v)
    }
}

pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub(crate) type RaftLogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Payload = EntryPayload<Command, u64, Node>;
pub(crate) type Entry = openraft::Entry<LeaderId, Payload>;
pub(crate) type RaftMembership = openraft::Membership<u64, Node>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, Node>;

/// The type configuration over an async runtime.
pub(crate) struct Types<R>(PhantomData<fn() -> R>);

// By hand: a derive would ask the runtime for the same traits.
impl<R> Clone for Types<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for Types<R> {}
impl<R> Default for Types<R> {
    fn default() -> Self {
        Types(PhantomData)
    }
}
impl<R> fmt::Debug for Types<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}
impl<R> PartialEq for Types<R> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<R> Eq for Types<R> {}
impl<R> PartialOrd for Types<R> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<R> Ord for Types<R> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<R: AsyncRuntime> RaftTypeConfig for Types<R> {
    type D = Command;
    type R = Outcome;
    type NodeId = u64;
    type Node = Node;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = R;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// The vote as it stands in the file.
#[derive(Serialize, Deserialize)]
struct VoteJson {
    term: u64,
    leader: u64,
    committed: bool,
}

/// The membership as it stands in the log and the state.
#[derive(Serialize, Deserialize)]
struct MembershipJson {
    /// One set of voters, two while a change is under way.
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, Node>,
}

pub(crate) fn to_log_id(id: RaftLogId) -> LogId {
    LogId {
        term: id.leader_id.term,
        leader: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn from_log_id(id: LogId) -> RaftLogId {
    RaftLogId {
        leader_id: LeaderId {
            term: id.term,
            node_id: id.leader,
        },
        index: id.index,
    }
}

pub(crate) fn vote_to_json(vote: &Vote) -> String {
    let json = VoteJson {
        term: vote.leader_id.term,
        leader: vote.leader_id.node_id,
        committed: vote.committed,
    };
    // Three plain fields always serialize.
    serde_json::to_string(&json).unwrap_or_default()
}

pub(crate) fn vote_from_json(json: &str) -> io::Result<Vote> {
    let vote: VoteJson = serde_json::from_str(json).map_err(|e| damaged("vote", &e))?;
    let leader_id = LeaderId {
        term: vote.term,
        node_id: vote.leader,
    };
    Ok(Vote {
        leader_id,
        committed: vote.committed,
    })
}

pub(crate) fn membership_to_json(membership: &RaftMembership) -> String {
    let json = MembershipJson {
        configs: membership.get_joint_config().clone(),
        nodes: membership
            .nodes()
            .map(|(id, node)| (*id, node.clone()))
            .collect(),
    };
    // Sets of numbers and a map with integer keys always serialize.
    serde_json::to_string(&json).unwrap_or_default()
}

pub(crate) fn membership_from_json(json: &str) -> io::Result<RaftMembership> {
    let parsed: MembershipJson =
        serde_json::from_str(json).map_err(|e| damaged("membership", &e))?;
    if parsed.configs.is_empty() && parsed.nodes.is_empty() {
        return Ok(RaftMembership::default());
    }
    RaftMembership::new(parsed.configs, parsed.nodes).map_err(|e| damaged("membership", &e))
}

/// Vote and membership, as they stand in the file, of a node that begins as the only voter behind entries up to
/// `last_term`. The vote is its own for the next term, so that it is above every entry's.
pub fn alone(raft_id: u64, node: Node, last_term: u64) -> (String, String) {
    let leader_id = LeaderId {
        term: last_term + 1,
        node_id: raft_id,
    };
    let membership = MembershipJson {
        configs: vec![[raft_id].into()],
        nodes: [(raft_id, node)].into(),
    };
    // As in `membership_to_json`.
    let membership = serde_json::to_string(&membership).unwrap_or_default();
    (
        vote_to_json(&Vote {
            leader_id,
            committed: false,
        }),
        membership,
    )
}

pub(crate) fn stored_membership(stored: Option<(LogId, Arc<str>)>) -> io::Result<StoredMembership> {
    match stored {
        None => Ok(StoredMembership::default()),
        Some((id, json)) => Ok(StoredMembership::new(
            Some(from_log_id(id)),
            membership_from_json(&json)?,
        )),
    }
}

pub(crate) fn entry_to_row(entry: Entry) -> LogRow {
    let payload = match entry.payload {
        EntryPayload::Blank => LogPayload::Blank,
        EntryPayload::Normal(command) => LogPayload::Change(command.0),
        EntryPayload::Membership(membership) => {
            LogPayload::Membership(membership_to_json(&membership).into())
        }
    };
    LogRow {
        id: to_log_id(entry.log_id),
        payload,
    }
}

pub(crate) fn row_to_entry(row: LogRow) -> io::Result<Entry> {
    let payload = match row.payload {
        LogPayload::Blank => EntryPayload::Blank,
        LogPayload::Change(envelope) => EntryPayload::Normal(Command(envelope)),
        LogPayload::Membership(json) => EntryPayload::Membership(membership_from_json(&json)?),
    };
    Ok(Entry {
        log_id: from_log_id(row.id),
        payload,
    })
}

pub(crate) fn store_failed(error: StoreError) -> io::Error {
    io::Error::other(error)
}

fn damaged(what: &str, why: &dyn fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the stored {what} can't be read: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raft_ids_name_their_node() {
        assert_eq!(raft_id(1, 3), 65_539);
        assert_eq!(node_of(raft_id(7, 65_535)), 65_535);
    }

    #[test]
    fn vote_and_membership_keep_their_form_in_the_file() {
        let vote = Vote {
            leader_id: LeaderId {
                term: 7,
                node_id: 65_538,
            },
            committed: true,
        };
        let json = vote_to_json(&vote);
        assert_eq!(json, r#"{"term":7,"leader":65538,"committed":true}"#);
        assert_eq!(vote_from_json(&json).unwrap(), vote);

        let node = Node {
            node: 1,
            client: "h:1".into(),
            peer: "h:2".into(),
            promote: false,
        };
        let membership =
            RaftMembership::new(vec![[65_537].into()], BTreeMap::from([(65_537, node)])).unwrap();
        let json = membership_to_json(&membership);
        assert_eq!(
            json,
            r#"{"configs":[[65537]],"nodes":{"65537":{"node":1,"client":"h:1","peer":"h:2","promote":false}}}"#
        );
        assert_eq!(membership_from_json(&json).unwrap(), membership);
    }

    #[test]
    fn the_empty_membership_survives() {
        let json = membership_to_json(&RaftMembership::default());
        assert_eq!(
            membership_from_json(&json).unwrap(),
            RaftMembership::default()
        );
    }

    #[test]
    fn a_damaged_vote_is_an_error_that_says_so() {
        assert!(
            vote_from_json("{}")
                .unwrap_err()
                .to_string()
                .contains("stored vote")
        );
    }
}
