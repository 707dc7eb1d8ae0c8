//! Where a client goes when it lost its node. Pure: the answers of all nodes in, one decision out. [`crate::failover`]
//! asks and dials.
//!
//! Majorities count the voters that the nodes report, not the lines of the configuration.

use std::collections::BTreeSet;

use messagebase_protocol::json::Status;
use messagebase_protocol::quorum::majority;

/// What to do with a round of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// A majority of the voters names this live node as the leader: go there.
    Take(u16),
    /// No live leader, but a majority to make one: ask this node, the most up-to-date, to campaign.
    Campaign(u16),
    /// Fewer voters answered than a majority: nobody can lead.
    NoQuorum {
        /// Voters that answered.
        alive: usize,
        /// A majority.
        needed: usize,
    },
    /// Nodes answered, but none belongs to a cluster yet.
    NotFormed {
        /// Nodes that answered.
        answered: usize,
    },
    /// Nobody answered.
    NoNode,
}

impl Decision {
    /// Greater is better for the user; decides between clusters.
    fn promise(self) -> u8 {
        match self {
            Decision::Take(_) => 4,
            Decision::Campaign(_) => 3,
            Decision::NoQuorum { .. } => 2,
            Decision::NotFormed { .. } => 1,
            Decision::NoNode => 0,
        }
    }
}

/// Decides on one answer (or none) per address. A node that is reached under two addresses counts once.
pub fn decide(answers: &[Option<Status>]) -> Decision {
    let answered: Vec<&Status> = answers.iter().flatten().collect();
    if answered.is_empty() {
        return Decision::NoNode;
    }
    // Nodes of a restored cluster and of the one it replaces may answer side by side; they don't vote together.
    let clusters: BTreeSet<Option<&str>> = answered
        .iter()
        .map(|status| status.cluster_id.as_deref())
        .collect();
    clusters
        .into_iter()
        .map(|cluster| match cluster {
            None => Decision::NotFormed {
                answered: answered.len(),
            },
            Some(_) => decide_within(
                answered
                    .iter()
                    .copied()
                    .filter(|s| s.cluster_id.as_deref() == cluster)
                    .collect(),
            ),
        })
        .max_by_key(|decision| decision.promise())
        .unwrap_or(Decision::NoNode)
}

/// Whether the user is better off elsewhere than on `node`, which has not answered a request for a while. `answers`: what
/// all nodes said when they were asked afresh, that one included.
pub fn is_better_elsewhere(node: u16, answers: &[Option<Status>]) -> bool {
    let own = answers.iter().flatten().find(|status| status.node == node);
    match decide(answers) {
        // A node that follows the leader of the majority does its work; one that leads or follows another does not.
        Decision::Take(leader) => own.is_none_or(|own| own.replica.leader != Some(leader)),
        // There is a majority to make a leader. A node that is part of it keeps the request until there is one.
        Decision::Campaign(_) => own.is_none(),
        Decision::NoQuorum { .. } | Decision::NotFormed { .. } | Decision::NoNode => false,
    }
}

fn decide_within(mut nodes: Vec<&Status>) -> Decision {
    nodes.sort_by_key(|status| (status.node, status.replica.last_log));
    nodes.dedup_by_key(|status| status.node);
    // The node that applied most knows the membership best.
    let voters: BTreeSet<u16> = nodes
        .iter()
        .max_by_key(|status| (status.replica.applied, status.replica.last_log))
        .map(|status| {
            status
                .replica
                .members
                .iter()
                .filter(|m| m.voter)
                .map(|m| m.node)
                .collect()
        })
        .unwrap_or_default();
    if voters.is_empty() {
        return Decision::NotFormed {
            answered: nodes.len(),
        };
    }
    let alive: Vec<&Status> = nodes
        .into_iter()
        .filter(|status| voters.contains(&status.node))
        .collect();
    let needed = majority(voters.len());
    if alive.len() < needed {
        return Decision::NoQuorum {
            alive: alive.len(),
            needed,
        };
    }
    let named = |leader: u16| {
        alive
            .iter()
            .filter(|status| status.replica.leader == Some(leader))
            .count()
    };
    let live_leader = alive
        .iter()
        .find(|s| s.replica.leader == Some(s.node) && named(s.node) >= needed);
    if let Some(leader) = live_leader {
        return Decision::Take(leader.node);
    }
    match alive
        .iter()
        .max_by_key(|status| (status.replica.last_log, status.node))
    {
        Some(best) => Decision::Campaign(best.node),
        None => Decision::NoQuorum { alive: 0, needed },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use messagebase_protocol::json::{LogPosition, MemberInfo, ReplicaView};
    use messagebase_protocol::role::NodeRole;

    use super::*;

    /// A follower of a three-node cluster at log position (1, 1, 10) that knows no leader.
    pub(crate) fn status(node: u16) -> Status {
        Status {
            node,
            cluster: "test".into(),
            cluster_id: Some("c1".into()),
            version: "0".into(),
            replica: ReplicaView {
                role: NodeRole::Follower,
                term: 1,
                leader: None,
                last_log: Some(LogPosition {
                    term: 1,
                    leader: 1,
                    index: 10,
                }),
                committed: Some(10),
                applied: Some(10),
                members: members(3),
                ready: true,
            },
            uptime_ms: 1,
        }
    }

    fn members(count: u16) -> Vec<MemberInfo> {
        (1..=count)
            .map(|node| MemberInfo {
                node,
                client: format!("127.0.0.1:{node}"),
                voter: true,
            })
            .collect()
    }

    /// [`status`] with changes.
    fn with(node: u16, change: impl FnOnce(&mut ReplicaView)) -> Option<Status> {
        let mut status = status(node);
        change(&mut status.replica);
        Some(status)
    }

    fn follows(node: u16, leader: u16) -> Option<Status> {
        with(node, |replica| replica.leader = Some(leader))
    }

    fn at(node: u16, term: u64, leader: u16, index: u64) -> Option<Status> {
        let last_log = LogPosition {
            term,
            leader,
            index,
        };
        with(node, |replica| replica.last_log = Some(last_log))
    }

    #[test]
    fn a_live_leader_that_a_majority_names_is_taken() {
        assert_eq!(
            decide(&[follows(1, 1), follows(2, 1), follows(3, 1)]),
            Decision::Take(1)
        );
        assert_eq!(
            decide(&[None, follows(2, 3), follows(3, 3)]),
            Decision::Take(3)
        );
    }

    #[test]
    fn a_dead_leader_is_not_taken_however_many_name_it() {
        assert_eq!(
            decide(&[None, follows(2, 1), follows(3, 1)]),
            Decision::Campaign(3)
        );
    }

    #[test]
    fn a_leader_that_only_names_itself_is_not_taken() {
        // Cut off from the others, which have not chosen yet.
        assert_eq!(
            decide(&[follows(1, 1), Some(status(2)), Some(status(3))]),
            Decision::Campaign(3)
        );
    }

    #[test]
    fn the_longest_log_campaigns_by_term_then_leader_then_index_then_node() {
        assert_eq!(
            decide(&[None, at(2, 1, 1, 11), at(3, 1, 1, 10)]),
            Decision::Campaign(2)
        );
        assert_eq!(
            decide(&[None, at(2, 2, 1, 5), at(3, 1, 3, 99)]),
            Decision::Campaign(2)
        );
        assert_eq!(
            decide(&[None, at(2, 2, 3, 5), at(3, 2, 1, 99)]),
            Decision::Campaign(2)
        );
        assert_eq!(
            decide(&[None, at(2, 1, 1, 10), at(3, 1, 1, 10)]),
            Decision::Campaign(3)
        );
    }

    #[test]
    fn an_empty_log_loses_against_any() {
        let empty = with(3, |replica| replica.last_log = None);
        assert_eq!(
            decide(&[None, at(2, 1, 1, 1), empty]),
            Decision::Campaign(2)
        );
    }

    #[test]
    fn fewer_voters_than_a_majority() {
        assert_eq!(
            decide(&[None, None, follows(3, 1)]),
            Decision::NoQuorum {
                alive: 1,
                needed: 2
            }
        );
        let five = |node| with(node, |replica| replica.members = members(5));
        assert_eq!(
            decide(&[five(1), five(2), None]),
            Decision::NoQuorum {
                alive: 2,
                needed: 3
            }
        );
    }

    #[test]
    fn voters_are_counted_as_reported_not_as_configured() {
        // The file lists one node, the cluster has three.
        assert_eq!(
            decide(&[follows(1, 1)]),
            Decision::NoQuorum {
                alive: 1,
                needed: 2
            }
        );
        // The file lists three, the cluster has one.
        let alone = with(1, |replica| {
            replica.leader = Some(1);
            replica.members = members(1);
        });
        assert_eq!(decide(&[alone, None, None]), Decision::Take(1));
    }

    #[test]
    fn learners_neither_count_nor_campaign() {
        let mut with_learner = members(3);
        with_learner[2].voter = false;
        let of = |node, index| {
            let members = with_learner.clone();
            let last_log = Some(LogPosition {
                term: 1,
                leader: 1,
                index,
            });
            with(node, |replica| {
                replica.members = members;
                replica.last_log = last_log;
            })
        };
        assert_eq!(
            decide(&[of(1, 10), of(2, 11), of(3, 99)]),
            Decision::Campaign(2)
        );
        assert_eq!(
            decide(&[of(1, 10), None, of(3, 10)]),
            Decision::NoQuorum {
                alive: 1,
                needed: 2
            }
        );
    }

    #[test]
    fn the_freshest_membership_counts() {
        let old = with(1, |replica| {
            replica.members = members(1);
            replica.applied = Some(1);
        });
        let new = with(2, |replica| replica.applied = Some(10));
        assert_eq!(decide(&[old, new]), Decision::Campaign(2));
    }

    #[test]
    fn blank_nodes_are_no_cluster() {
        let blank = |node| {
            Some(Status {
                cluster_id: None,
                replica: ReplicaView {
                    members: vec![],
                    last_log: None,
                    ..status(node).replica
                },
                ..status(node)
            })
        };
        assert_eq!(
            decide(&[blank(1), blank(2), None]),
            Decision::NotFormed { answered: 2 }
        );
        // A wiped node beside two that are well.
        assert_eq!(
            decide(&[blank(1), follows(2, 2), follows(3, 2)]),
            Decision::Take(2)
        );
    }

    #[test]
    fn two_clusters_do_not_vote_together() {
        let other = |status: Option<Status>| {
            status.map(|s| Status {
                cluster_id: Some("c2".into()),
                ..s
            })
        };
        assert_eq!(
            decide(&[follows(1, 1), other(follows(2, 1)), None]),
            Decision::NoQuorum {
                alive: 1,
                needed: 2
            }
        );
        let mut restored = other(follows(1, 1));
        restored.as_mut().unwrap().replica.members = members(1);
        assert_eq!(decide(&[restored, follows(2, 1), None]), Decision::Take(1));
    }

    #[test]
    fn one_node_under_two_addresses_is_one_voter() {
        assert_eq!(
            decide(&[follows(1, 1), follows(1, 1)]),
            Decision::NoQuorum {
                alive: 1,
                needed: 2
            }
        );
    }

    #[test]
    fn a_hung_node_is_left_and_a_busy_one_is_not() {
        // Node 1 hangs as leader: before and after the others have elected; as follower.
        assert!(is_better_elsewhere(
            1,
            &[None, follows(2, 1), follows(3, 1)]
        ));
        assert!(is_better_elsewhere(
            1,
            &[None, follows(2, 3), follows(3, 3)]
        ));
        assert!(is_better_elsewhere(
            2,
            &[follows(1, 1), None, follows(3, 1)]
        ));
        // It answers, if late: also while its leader is gone and another one not yet there.
        assert!(!is_better_elsewhere(
            1,
            &[follows(1, 1), follows(2, 1), follows(3, 1)]
        ));
        assert!(!is_better_elsewhere(
            2,
            &[None, follows(2, 1), follows(3, 1)]
        ));
        assert!(!is_better_elsewhere(
            2,
            &[None, Some(status(2)), Some(status(3))]
        ));
        // It leads a minority.
        assert!(is_better_elsewhere(
            1,
            &[follows(1, 1), follows(2, 3), follows(3, 3)]
        ));
        // Nowhere is better without a majority.
        assert!(!is_better_elsewhere(1, &[None, follows(2, 1), None]));
        assert!(!is_better_elsewhere(1, &[None, None, None]));
    }

    #[test]
    fn nobody() {
        assert_eq!(decide(&[None, None]), Decision::NoNode);
        assert_eq!(decide(&[]), Decision::NoNode);
    }
}
