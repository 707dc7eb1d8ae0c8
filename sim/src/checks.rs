//! The invariants: cheap, looked at after every step of every node, never wrong at any instant of any run.
//!
//! - A vote on disk only grows, over crashes too.
//! - A leader id (term, node) is led by one node in one lifetime.
//! - Equal log ids mean equal prefixes: each entry on a disk has a running hash over all before it.
//! - An entry that was made durable is there after a crash.
//! - Committed prefixes are equal; a committed entry is never cut, and is in the log of every later leader.
//! - Nothing is applied that is not committed, and nothing twice or out of order.
//! - Clocks only grow; equal applied indexes mean equal rows (sampled).
//!
//! What is on a node's disk is known from the writer's acknowledgements, see `disk`.

use std::collections::BTreeMap;
use std::hash::Hasher;

use messagebase_daemon::entry::{LogId, LogRow};
use messagebase_daemon::raft::RaftMetrics;
use messagebase_daemon::store::RaftState;

/// Violations kept; the first one is what matters.
const VIOLATIONS_MAX: usize = 16;

/// A vote: term, whom for, whether a quorum gave it. Ordered as Raft orders votes.
pub type Vote = (u64, u64, bool);

/// A term and the Raft id of who leads in it.
type LeaderId = (u64, u64);

#[derive(serde::Deserialize)]
struct StoredVote {
    term: u64,
    leader: u64,
    committed: bool,
}

/// What is known to be on one node's disk.
#[derive(Default)]
struct Shadow {
    vote: Vote,
    /// By index: which entry, and the running hash up to it.
    log: BTreeMap<u64, (LogId, u64)>,
    purged: Option<LogId>,
    applied: Option<LogId>,
    clock: u64,
    glance: Option<RaftMetrics>,
}

/// The state of all invariants of one run.
#[derive(Default)]
pub struct Checks {
    violations: Vec<String>,
    nodes: BTreeMap<u64, Shadow>,
    /// Running hash of every entry that was ever durable anywhere.
    chains: BTreeMap<LogId, u64>,
    /// Committed entries, and under which leader's vote that was first seen.
    committed: BTreeMap<u64, (LogId, LeaderId)>,
    /// Who led under a leader id, in which lifetime.
    leaders: BTreeMap<LeaderId, u64>,
    digests: BTreeMap<u64, String>,
}

impl Checks {
    /// What was broken, first things first.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// A promise was broken.
    pub fn violated(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }

    /// How many leader ids were led under.
    pub fn leaderships(&self) -> usize {
        self.leaders.len()
    }

    /// Greatest index that is known as committed.
    pub fn committed(&self) -> Option<u64> {
        self.committed.keys().next_back().copied()
    }

    fn node(&mut self, id: u64) -> &mut Shadow {
        self.nodes.entry(id).or_default()
    }

    /// The node's vote is on its disk.
    pub fn voted(&mut self, id: u64, json: &str) {
        let Some(vote) = self.read_vote(id, json) else {
            return;
        };
        let node = self.node(id);
        let before = std::mem::replace(&mut node.vote, vote);
        if vote < before {
            self.violated(format!(
                "node {id:#x}: its stored vote went back from {before:?} to {vote:?}"
            ));
        }
    }

    fn read_vote(&mut self, id: u64, json: &str) -> Option<Vote> {
        match serde_json::from_str::<StoredVote>(json) {
            Ok(vote) => Some((vote.term, vote.leader, vote.committed)),
            Err(error) => {
                self.violated(format!(
                    "node {id:#x}: its stored vote can't be read: {error}"
                ));
                None
            }
        }
    }

    /// Entries are on the node's disk.
    pub fn appended(&mut self, id: u64, rows: &[LogRow]) {
        let Some(first) = rows.first().map(|row| row.id.index) else {
            return;
        };
        self.cut(id, first);
        let shadow = self.node(id);
        let before = match first.checked_sub(1) {
            None => Some(0),
            Some(before) => {
                let purged = shadow.purged.filter(|purged| purged.index == before);
                let known = shadow.log.get(&before).map(|(_, chain)| *chain);
                known.or_else(|| purged.and_then(|purged| self.chains.get(&purged).copied()))
            }
        };
        let Some(mut chain) = before else {
            self.violated(format!(
                "node {id:#x}: its log has a hole before entry {first}"
            ));
            return;
        };
        for row in rows {
            chain = chained(chain, row);
            let known = *self.chains.entry(row.id).or_insert(chain);
            if known != chain {
                self.violated(format!(
                    "node {id:#x}: what is up to {:?} differs from another node's",
                    row.id
                ));
            }
            self.node(id).log.insert(row.id.index, (row.id, chain));
        }
    }

    /// Entries with a greater index are gone from the node's disk.
    pub fn truncated(&mut self, id: u64, keep_through: Option<u64>) {
        self.cut(id, keep_through.map_or(0, |index| index + 1));
    }

    fn cut(&mut self, id: u64, from: u64) {
        let cut = self.node(id).log.split_off(&from);
        for (index, (entry, _)) in cut {
            if self
                .committed
                .get(&index)
                .is_some_and(|(committed, _)| *committed == entry)
            {
                self.violated(format!("node {id:#x}: cut the committed entry {entry:?}"));
            }
        }
    }

    /// Entries up to this one are gone from the node's disk.
    pub fn purged(&mut self, id: u64, through: LogId) {
        let node = self.node(id);
        node.log = node.log.split_off(&(through.index + 1));
        node.purged = node.purged.max(Some(through));
    }

    /// A snapshot replaced the node's state.
    pub fn installed(&mut self, id: u64, last: LogId) {
        self.committed_at(id, last);
        let node = self.node(id);
        if node
            .applied
            .is_some_and(|applied| applied.index >= last.index)
        {
            return;
        }
        node.applied = Some(last);
        if node
            .log
            .get(&last.index)
            .is_none_or(|(entry, _)| *entry != last)
        {
            self.cut(id, last.index + 1);
        }
        self.purged(id, last);
    }

    /// The node is about to apply these.
    pub fn applying(&mut self, id: u64, entries: &[LogId]) {
        for entry in entries {
            self.committed_at(id, *entry);
        }
    }

    /// The node's state says that this is applied, and shows that time.
    pub fn applied(&mut self, id: u64, applied: Option<LogId>, clock: u64) {
        let node = self.node(id);
        let (before, clock_before) = (node.applied, node.clock);
        (node.applied, node.clock) = (applied, clock);
        if applied.map(|a| a.index) < before.map(|a| a.index) {
            self.violated(format!(
                "node {id:#x}: applied went back from {before:?} to {applied:?}"
            ));
        }
        if clock < clock_before {
            self.violated(format!(
                "node {id:#x}: its clock went back from {clock_before} to {clock}"
            ));
        }
        if let Some(applied) = applied
            && self
                .committed
                .get(&applied.index)
                .is_none_or(|(entry, _)| *entry != applied)
        {
            self.violated(format!(
                "node {id:#x}: applied {applied:?}, which is not committed"
            ));
        }
    }

    /// The node's rows after applying `index`.
    pub fn digested(&mut self, id: u64, index: u64, digest: String) {
        let known = self.digests.entry(index).or_insert_with(|| digest.clone());
        if *known != digest {
            let message = format!(
                "node {id:#x}: its rows at {index} differ from another node's: {digest} and {known}"
            );
            self.violated(message);
        }
    }

    fn committed_at(&mut self, id: u64, entry: LogId) {
        let under = self.node(id).glance.map_or((u64::MAX, u64::MAX), |glance| {
            (glance.term, glance.vote_for)
        });
        let (known, first_under) = self.committed.entry(entry.index).or_insert((entry, under));
        *first_under = (*first_under).min(under);
        if *known != entry {
            let message = format!("node {id:#x}: holds {entry:?} as committed, others {known:?}");
            self.violated(message);
        }
    }

    /// What the node knows after a step. Returns an entry that has to be in its log, when it began to lead.
    pub fn glanced(&mut self, id: u64, lifetime: u64, glance: RaftMetrics) -> Option<LogId> {
        let before = self.node(id).glance.replace(glance);
        if before == Some(glance) {
            return None;
        }
        if glance.applied.map(|a| a.index) > glance.committed.map(|c| c.index) {
            self.violated(format!(
                "node {id:#x}: applied more than is committed: {glance:?}"
            ));
        }
        if let Some(committed) = glance.committed {
            self.committed_at(id, committed);
        }
        if !glance.leads || !glance.vote_committed {
            return None;
        }
        let leader = (glance.term, glance.vote_for);
        if glance.vote_for != id {
            self.violated(format!(
                "node {id:#x}: leads under another's vote {leader:?}"
            ));
        }
        if let Some(other) = self.leaders.insert(leader, lifetime) {
            if other != lifetime {
                self.violated(format!(
                    "node {id:#x}: leads under {leader:?} in a second lifetime"
                ));
            }
            return None;
        }
        self.committed
            .values()
            .rev()
            .find(|(_, under)| *under < leader)
            .map(|(entry, _)| *entry)
    }

    /// A node comes back: what was durable must be there. `rows` is its whole log.
    pub fn reopened(&mut self, id: u64, state: &RaftState, rows: &[LogRow]) {
        let vote = state
            .vote
            .as_deref()
            .and_then(|json| self.read_vote(id, json))
            .unwrap_or_default();
        let Shadow {
            vote: promised,
            applied,
            ..
        } = *self.node(id);
        if vote < promised {
            self.violated(format!(
                "node {id:#x}: forgot its vote {promised:?} in a crash, it has {vote:?}"
            ));
        }
        if state.applied.map(|a| a.index) < applied.map(|a| a.index) {
            self.violated(format!(
                "node {id:#x}: applied {applied:?} before a crash, {:?} after it",
                state.applied
            ));
        }
        let file: BTreeMap<u64, &LogRow> = rows.iter().map(|row| (row.id.index, row)).collect();
        let begin = state.purged.map_or(0, |purged| purged.index + 1);
        let log = std::mem::take(&mut self.node(id).log);
        for (index, (entry, _)) in log.iter().filter(|(index, _)| **index >= begin) {
            if file.get(index).is_none_or(|row| row.id != *entry) {
                let found = file.get(index).map(|row| row.id);
                self.violated(format!(
                    "node {id:#x}: lost {entry:?} in a crash, which was durable; there: {found:?}"
                ));
                break;
            }
        }
        let node = self.node(id);
        node.vote = vote;
        node.purged = state.purged;
        node.applied = state.applied;
        node.glance = None;
        // From the file: a transaction may have been committed whose acknowledgement died with the node.
        self.appended(id, rows);
    }

    /// The node's disk is lost; it will come back under another id.
    pub fn lost(&mut self, id: u64) {
        self.nodes.remove(&id);
    }
}

fn chained(before: u64, row: &LogRow) -> u64 {
    let mut hash = std::hash::DefaultHasher::new();
    hash.write_u64(before);
    hash.write(format!("{row:?}").as_bytes());
    hash.finish()
}

/// Every invariant can fail: each is told the opposite once.
#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use messagebase_daemon::entry::LogPayload;

    use super::*;

    const A: u64 = 0x10001;
    const B: u64 = 0x10002;

    fn id(term: u64, index: u64) -> LogId {
        LogId {
            term,
            leader: A,
            index,
        }
    }

    fn row(term: u64, index: u64, what: &str) -> LogRow {
        LogRow {
            id: id(term, index),
            payload: LogPayload::Membership(Arc::from(what)),
        }
    }

    fn glance(
        term: u64,
        leads: bool,
        committed: Option<LogId>,
        applied: Option<LogId>,
    ) -> RaftMetrics {
        RaftMetrics {
            term,
            vote_for: A,
            vote_committed: true,
            leads,
            committed,
            applied,
        }
    }

    fn broken(checks: &Checks) -> &str {
        checks.violations().first().expect("a violation")
    }

    #[test]
    fn what_is_well_breaks_nothing() {
        let mut checks = Checks::default();
        for node in [A, B] {
            checks.voted(node, r#"{"term":1,"leader":65537,"committed":true}"#);
            checks.appended(node, &[row(1, 0, "x"), row(1, 1, "y")]);
            checks.glanced(
                node,
                1,
                glance(1, node == A, Some(id(1, 1)), Some(id(1, 0))),
            );
            checks.applying(node, &[id(1, 0), id(1, 1)]);
            checks.applied(node, Some(id(1, 1)), 5);
            checks.digested(node, 1, "same".into());
        }
        assert_eq!(checks.violations(), [] as [&str; 0]);
        assert_eq!((checks.leaderships(), checks.committed()), (1, Some(1)));
    }

    #[test]
    fn a_vote_that_goes_back() {
        let mut checks = Checks::default();
        checks.voted(A, r#"{"term":2,"leader":65537,"committed":false}"#);
        checks.voted(A, r#"{"term":1,"leader":65538,"committed":true}"#);
        assert!(broken(&checks).contains("vote went back"));
    }

    #[test]
    fn a_vote_forgotten_in_a_crash() {
        let mut checks = Checks::default();
        checks.voted(A, r#"{"term":2,"leader":65537,"committed":false}"#);
        checks.reopened(A, &RaftState::default(), &[]);
        assert!(broken(&checks).contains("forgot its vote"));
    }

    #[test]
    fn an_entry_lost_in_a_crash() {
        let mut checks = Checks::default();
        checks.appended(A, &[row(1, 0, "x"), row(1, 1, "y")]);
        checks.reopened(A, &RaftState::default(), &[row(1, 0, "x")]);
        assert!(broken(&checks).contains("lost"));
    }

    #[test]
    fn equal_ids_over_unequal_prefixes() {
        let mut checks = Checks::default();
        checks.appended(A, &[row(1, 0, "x"), row(1, 1, "y")]);
        checks.appended(B, &[row(1, 0, "z")]);
        assert!(broken(&checks).contains("differs from another node's"));
    }

    #[test]
    fn a_hole() {
        let mut checks = Checks::default();
        checks.appended(A, &[row(1, 1, "x")]);
        assert!(broken(&checks).contains("hole"));
    }

    #[test]
    fn two_leaders_under_one_id() {
        let mut checks = Checks::default();
        checks.glanced(A, 1, glance(1, true, None, None));
        checks.glanced(A, 2, glance(1, true, None, Some(id(1, 0))));
        assert!(
            checks
                .violations()
                .iter()
                .any(|broken| broken.contains("second lifetime"))
        );

        let mut checks = Checks::default();
        checks.glanced(B, 1, glance(1, true, None, None));
        assert!(broken(&checks).contains("another's vote"));
    }

    #[test]
    fn committed_entries_that_differ_or_are_cut() {
        let mut checks = Checks::default();
        checks.glanced(A, 1, glance(1, false, Some(id(1, 3)), None));
        checks.glanced(B, 2, glance(2, false, Some(id(2, 3)), None));
        assert!(broken(&checks).contains("as committed"));

        let mut checks = Checks::default();
        checks.appended(A, &[row(1, 0, "x")]);
        checks.applying(A, &[id(1, 0)]);
        checks.truncated(A, None);
        assert!(broken(&checks).contains("cut the committed entry"));
    }

    #[test]
    fn a_new_leader_is_asked_for_what_was_committed_before() {
        let mut checks = Checks::default();
        checks.glanced(B, 1, glance(1, false, Some(id(1, 3)), None));
        assert_eq!(
            checks.glanced(A, 2, glance(2, true, None, None)),
            Some(id(1, 3))
        );
        // Of what a later leader committed it need not know.
        let mut checks = Checks::default();
        checks.glanced(B, 1, glance(3, false, Some(id(1, 3)), None));
        assert_eq!(checks.glanced(A, 2, glance(2, true, None, None)), None);
    }

    #[test]
    fn applied_beyond_committed_or_backwards() {
        let mut checks = Checks::default();
        checks.glanced(A, 1, glance(1, false, Some(id(1, 3)), Some(id(1, 4))));
        assert!(broken(&checks).contains("more than is committed"));

        let mut checks = Checks::default();
        checks.applied(A, Some(id(1, 4)), 1);
        assert!(broken(&checks).contains("not committed"));

        let mut checks = Checks::default();
        checks.applying(A, &[id(1, 3), id(1, 4)]);
        checks.applied(A, Some(id(1, 4)), 1);
        checks.applied(A, Some(id(1, 3)), 1);
        assert!(broken(&checks).contains("applied went back"));
    }

    #[test]
    fn a_clock_that_goes_back_and_rows_that_differ() {
        let mut checks = Checks::default();
        checks.applied(A, None, 7);
        checks.applied(A, None, 6);
        assert!(broken(&checks).contains("clock went back"));

        let mut checks = Checks::default();
        checks.digested(A, 16, "one".into());
        checks.digested(B, 16, "another".into());
        assert!(broken(&checks).contains("differ"));
    }
}
