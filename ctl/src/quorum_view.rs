//! What the answers of several nodes mean together: who leads, and whether there is a quorum. Pure: a survey in, a
//! view of the quorum out.

use messagebase_protocol::peer::{MemberRow, NodeReport};
use messagebase_protocol::quorum::majority;
use messagebase_protocol::role::NodeRole;

/// What is known of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuorumView {
    /// The node that leads with a majority behind it.
    pub leader: Option<u16>,
    /// Whether a majority of the voters answers and agrees on that leader.
    pub quorum: bool,
    /// Voters of the membership that was judged by; 0: no node that answered knows one.
    pub voters: usize,
    /// How many of them answered and follow the leader (without a leader: how many answered).
    pub agreeing: usize,
}

/// Judges by the membership that the nodes report, not by the configuration.
///
/// The leader itself must be among those that answer: followers name a dead one until they noticed.
pub fn quorum_view(reports: &[&NodeReport]) -> QuorumView {
    let claims = reports
        .iter()
        .filter(|report| report.role == NodeRole::Leader)
        .max_by_key(|report| report.term);
    let Some(leader) = claims else {
        let voters = newest_members(reports)
            .iter()
            .filter(|member| member.voter)
            .count();
        let agreeing = reports
            .iter()
            .filter(|report| is_voter(newest_members(reports), report))
            .count();
        return QuorumView {
            leader: None,
            quorum: false,
            voters,
            agreeing,
        };
    };
    let agrees = |report: &NodeReport| {
        is_voter(&leader.members, report)
            && report.term == leader.term
            && report.leader == Some(leader.node)
    };
    let voters = leader.members.iter().filter(|member| member.voter).count();
    let agreeing = reports.iter().filter(|report| agrees(report)).count();
    let quorum = agreeing >= majority(voters);
    QuorumView {
        leader: quorum.then_some(leader.node),
        quorum,
        voters,
        agreeing,
    }
}

/// A waiting node has no vote, whatever the membership says of its number.
fn is_voter(members: &[MemberRow], report: &NodeReport) -> bool {
    report.role != NodeRole::Waiting
        && members
            .iter()
            .any(|member| member.node == report.node && member.voter)
}

/// The membership of the node that is furthest in the log.
pub fn newest_members<'a>(reports: &[&'a NodeReport]) -> &'a [MemberRow] {
    let known = reports.iter().filter(|report| !report.members.is_empty());
    known
        .max_by_key(|report| (report.term, report.committed, report.applied))
        .map_or(&[], |report| &report.members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::report;

    fn view(reports: &[NodeReport]) -> (Option<u16>, bool) {
        let view = quorum_view(&reports.iter().collect::<Vec<_>>());
        (view.leader, view.quorum)
    }

    #[test]
    fn a_majority_that_agrees_is_a_quorum() {
        let all = [1, 2, 3];
        let two = [
            report(1, NodeRole::Leader, 4, Some(1), &all),
            report(2, NodeRole::Follower, 4, Some(1), &all),
        ];
        assert_eq!(view(&two), (Some(1), true));
        assert_eq!(view(&two[..1]), (None, false), "a leader alone of three");
        assert_eq!(
            view(&two[1..]),
            (None, false),
            "a follower that names a dead leader"
        );
        assert_eq!(view(&[]), (None, false));
    }

    #[test]
    fn an_old_leader_that_was_cut_off_does_not_count() {
        let all = [1, 2, 3];
        let split = [
            report(1, NodeRole::Leader, 4, Some(1), &all),
            report(2, NodeRole::Leader, 5, Some(2), &all),
            report(3, NodeRole::Follower, 5, Some(2), &all),
        ];
        assert_eq!(view(&split), (Some(2), true));
        let undecided = [
            report(1, NodeRole::Leader, 4, Some(1), &all),
            report(2, NodeRole::Candidate, 5, None, &all),
            report(3, NodeRole::Candidate, 6, None, &all),
        ];
        assert_eq!(view(&undecided), (None, false));
    }

    #[test]
    fn members_as_reported_decide_and_learners_and_waiting_nodes_do_not_count() {
        let two_of_five = [1, 2, 3, 4, 5];
        let few = [
            report(1, NodeRole::Leader, 4, Some(1), &two_of_five),
            report(2, NodeRole::Follower, 4, Some(1), &two_of_five),
        ];
        assert_eq!(
            view(&few),
            (None, false),
            "two of five, however many the file names"
        );
        let mut learner = [
            report(1, NodeRole::Leader, 4, Some(1), &[1, 2]),
            report(3, NodeRole::Learner, 4, Some(1), &[1, 2]),
        ];
        assert_eq!(view(&learner), (None, false));
        learner[1] = report(2, NodeRole::Waiting, 4, Some(1), &[1, 2]);
        assert_eq!(view(&learner), (None, false));
        assert_eq!(
            view(&[report(7, NodeRole::Leader, 1, Some(7), &[7])]),
            (Some(7), true)
        );
    }
}
