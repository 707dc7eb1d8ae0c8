//! Carries out a plan's faults, in time, and keeps a diary of what was done and of who was well when.
//!
//! The plan speaks of places; the conductor keeps which node stands at which place and swaps the leader into the place
//! that a fault is meant for. It never waits for a node: what may take long (`mbctl`) runs beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use messagebase_checker::Recorder;

use crate::cluster::Cluster;
use crate::command::Ran;
use crate::proxy::{DirectionState, LinkState};
use crate::storm::plan::{Fault, LinkFault, Slot, StormPlan};

/// A node that was asked to stop has ended by then (it promises 5 s, and the machine may be busy).
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// `mbctl stop` and `transfer` answer in less, if only that they failed.
const OPERATOR_WITHIN: Duration = Duration::from_secs(40);

/// Who was well from a moment on: running, not frozen, and connected to all others that are well.
#[derive(Debug, Clone)]
pub struct Health {
    /// From here until the next entry.
    pub from: Instant,
    /// These nodes.
    pub well: BTreeSet<u16>,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Diary {
    /// Faults by kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// One line for each, with the time and the real nodes.
    pub lines: Vec<String>,
    /// By time.
    pub health: Vec<Health>,
    /// What a node or the operator's tool did and must not do, whatever the faults.
    pub wrong: Vec<String>,
}

/// LinkFaults of links that are not over, by id: what, from whom, to whom, who is not well.
type LinkFaults = BTreeMap<usize, (LinkFault, Vec<u16>, Vec<u16>, Option<u16>)>;

/// Does what the plan says.
pub struct Conductor<'a> {
    cluster: &'a Cluster,
    recorder: &'a Recorder,
    began: Instant,
    /// The node at each place, from place 1.
    places: Vec<u16>,
    link_faults: LinkFaults,
    /// Killed or asked to stop, and not started again.
    down: BTreeSet<u16>,
    frozen: BTreeSet<u16>,
    operators: Vec<(String, JoinHandle<Ran>)>,
    diary: Diary,
}

impl<'a> Conductor<'a> {
    /// Begins with a cluster that is whole.
    pub fn new(cluster: &'a Cluster, recorder: &'a Recorder) -> Self {
        let (began, places) = (Instant::now(), cluster.numbers());
        let health = vec![Health {
            from: began,
            well: places.iter().copied().collect(),
        }];
        let diary = Diary {
            health,
            ..Diary::default()
        };
        let (link_faults, operators) = (LinkFaults::new(), Vec::new());
        Conductor {
            cluster,
            recorder,
            began,
            places,
            link_faults,
            down: BTreeSet::new(),
            frozen: BTreeSet::new(),
            operators,
            diary,
        }
    }

    /// The whole schedule, in time, until the storm is over.
    pub fn conduct(mut self, plan: &StormPlan) -> Diary {
        for scheduled in &plan.faults {
            pause_until(self.began + scheduled.at);
            if let Some(slot) = scheduled.leader {
                self.swap_leader_into(slot);
            }
            self.carry_out(&scheduled.fault);
        }
        pause_until(self.began + plan.lasts);
        self.heal_everything();
        self.diary
    }

    /// Ends every fault and starts every node that is down.
    fn heal_everything(&mut self) {
        self.cluster.heal();
        self.link_faults.clear();
        let frozen: Vec<u16> = self.frozen.iter().copied().collect();
        frozen.into_iter().for_each(|node| self.thaw(node));
        let down: Vec<u16> = self.down.iter().copied().collect();
        down.into_iter().for_each(|node| self.start(node));
        self.note("everything is healed");
        for (what, operator) in self.operators.drain(..) {
            match operator.join() {
                // Refusals are to be expected in a storm; a tool that neither succeeds nor says why is not.
                Ok(ran) if ran.code == 0 || !(ran.stdout.is_empty() && ran.stderr.is_empty()) => {}
                Ok(ran) => self
                    .diary
                    .wrong
                    .push(format!("mbctl {what} failed without a word: {ran}")),
                Err(_) => self.diary.wrong.push(format!(
                    "mbctl {what} did not end within {OPERATOR_WITHIN:?}"
                )),
            }
        }
    }

    fn node_at(&self, slot: Slot) -> u16 {
        self.places[usize::from(slot) - 1]
    }

    fn nodes_at(&self, slots: &[Slot]) -> Vec<u16> {
        slots.iter().map(|slot| self.node_at(*slot)).collect()
    }

    fn well(&self) -> BTreeSet<u16> {
        let cut: BTreeSet<u16> = self
            .link_faults
            .values()
            .filter_map(|(.., unwell)| *unwell)
            .collect();
        let sick = |n: &u16| self.down.contains(n) || self.frozen.contains(n) || cut.contains(n);
        self.cluster
            .numbers()
            .into_iter()
            .filter(|n| !sick(n))
            .collect()
    }

    /// A well leader changes places with the node at `slot`, if that one is well too.
    fn swap_leader_into(&mut self, slot: Slot) {
        let well = self.well();
        let at = usize::from(slot) - 1;
        if !well.contains(&self.places[at]) {
            return;
        }
        let leads = |n: &u16| {
            self.cluster
                .status(*n)
                .is_some_and(|status| status["role"] == "leader")
        };
        let Some(leader) = well.into_iter().find(leads) else {
            return;
        };
        if let Some(stands) = self.places.iter().position(|node| *node == leader) {
            self.places.swap(at, stands);
        }
    }

    fn note(&mut self, what: &str) {
        let now = Instant::now();
        self.recorder.fault(what);
        self.diary
            .lines
            .push(format!("{:6} ms: {what}", (now - self.began).as_millis()));
        self.diary.health.push(Health {
            from: now,
            well: self.well(),
        });
    }

    fn carry_out(&mut self, fault: &Fault) {
        if let Some(kind) = fault.kind() {
            *self.diary.counts.entry(kind).or_default() += 1;
        }
        self.look_for_the_dead();
        match fault {
            Fault::Kill(slots) => {
                let nodes = self.nodes_at(slots);
                self.down.extend(&nodes);
                self.cluster.kill_these(&nodes);
                self.note(&format!("SIGKILL to {nodes:?}"));
            }
            Fault::Start(slots) => {
                let nodes = self.nodes_at(slots);
                nodes.iter().for_each(|node| self.start(*node));
                self.note(&format!("{nodes:?} started"));
            }
            Fault::Freeze(slot) => {
                let node = self.node_at(*slot);
                self.frozen.insert(node);
                self.cluster.node(node).pause();
                self.note(&format!("SIGSTOP to {node}"));
            }
            Fault::Thaw(slot) => {
                let node = self.node_at(*slot);
                self.thaw(node);
                self.note(&format!("SIGCONT to {node}"));
            }
            Fault::Stop(slot) => {
                let node = self.node_at(*slot);
                self.down.insert(node);
                self.operate(&["stop", &node.to_string()]);
                self.note(&format!("mbctl stop {node}"));
            }
            Fault::Transfer(slot) => {
                let node = self.node_at(*slot);
                self.operate(&["transfer", &node.to_string()]);
                self.note(&format!("mbctl transfer {node}"));
            }
            Fault::Links {
                id,
                link_fault,
                from,
                to,
                unwell,
            } => {
                let (from, to) = (self.nodes_at(from), self.nodes_at(to));
                let shown = format!("{link_fault:?} from {from:?} to {to:?}");
                let unwell = unwell.map(|slot| self.node_at(slot));
                self.link_faults
                    .insert(*id, (*link_fault, from, to, unwell));
                self.set_links();
                self.note(&shown);
            }
            Fault::Heal(id) => {
                self.link_faults.remove(id);
                self.set_links();
                self.note(&format!("link link_fault {id} is over"));
            }
            Fault::Reset(from, to) => {
                let (from, to) = (self.nodes_at(from), self.nodes_at(to));
                self.cluster.sever(&from, &to);
                self.note(&format!("reset between {from:?} and {to:?}"));
            }
        }
    }

    /// Starts a node that was killed, or that was asked to stop and must have ended by now.
    fn start(&mut self, node: u16) {
        if let Some(code) = self.wait_for_end(node).filter(|code| *code != 0) {
            self.diary.wrong.push(format!(
                "node {node} was asked to stop and ended with exit {code}"
            ));
        }
        self.cluster.node(node).start();
        self.down.remove(&node);
    }

    /// The exit code of a node that was asked to stop; `None` if it was killed.
    fn wait_for_end(&mut self, node: u16) -> Option<i32> {
        let (it, began) = (self.cluster.node(node), Instant::now());
        let mut asked = false;
        while it.is_running() {
            if began.elapsed() > STOP_WITHIN {
                self.diary.wrong.push(format!(
                    "node {node} still ran {STOP_WITHIN:?} after it was asked to stop"
                ));
                it.kill();
            }
            let stop = format!("stop {node}");
            let over = self
                .operators
                .iter()
                .all(|(what, operator)| *what != stop || operator.is_finished());
            if over && !asked {
                // The tool may have come before the node's door was open; the signal does not need the door.
                asked = true;
                it.terminate();
            }
            pause_until(Instant::now() + Duration::from_millis(10));
        }
        it.ended()
    }

    fn thaw(&mut self, node: u16) {
        self.frozen.remove(&node);
        self.cluster.node(node).resume();
    }

    /// No fault of ours makes a process end by itself.
    fn look_for_the_dead(&mut self) {
        for node in self
            .cluster
            .numbers()
            .into_iter()
            .filter(|n| !self.down.contains(n))
        {
            if let Some(code) = self.cluster.node(node).ended() {
                self.diary
                    .wrong
                    .push(format!("node {node} ended by itself with exit {code}"));
                self.cluster.node(node).start();
            }
        }
    }

    /// Runs `mbctl` beside the storm.
    fn operate(&mut self, arguments: &[&str]) {
        let command = self
            .cluster
            .mbctl_command(arguments)
            .within(OPERATOR_WITHIN);
        self.operators.push((
            arguments.join(" "),
            std::thread::spawn(move || command.run()),
        ));
    }

    /// Makes every link what the link_faults together say.
    fn set_links(&self) {
        let numbers = self.cluster.numbers();
        for from in &numbers {
            for to in numbers.iter().filter(|to| *to != from) {
                let link_state = LinkState {
                    forth: way(&self.link_faults, *from, *to),
                    back: way(&self.link_faults, *to, *from),
                };
                self.cluster.set_link(*from, *to, link_state);
            }
        }
    }
}

/// What becomes of bytes from one node to another.
fn way(link_faults: &LinkFaults, from: u16, to: u16) -> DirectionState {
    let mut way = DirectionState::default();
    for (link_fault, group, others, _) in link_faults.values() {
        let forth = group.contains(&from) && others.contains(&to);
        let either = forth || (group.contains(&to) && others.contains(&from));
        match link_fault {
            LinkFault::Cut => way.held |= either,
            LinkFault::OneWayLoss => way.lost |= forth,
            LinkFault::Delay(by) if either => way.delay = way.delay.max(*by),
            LinkFault::Delay(_) => {}
        }
    }
    way
}

/// Lets time pass: the pauses are what the plan consists of, not a way to wait for something.
pub(super) fn pause_until(until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    #[allow(
        clippy::disallowed_methods,
        reason = "a plan's pauses are its workload"
    )]
    std::thread::sleep(left);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LinkFault, LinkFaults, way};

    #[test]
    fn troubles_add_up_and_each_goes_its_way() {
        let late = LinkFault::Delay(Duration::from_millis(5));
        let mut link_faults = LinkFaults::new();
        link_faults.insert(0, (LinkFault::OneWayLoss, vec![1], vec![2, 3], Some(1)));
        link_faults.insert(1, (LinkFault::Cut, vec![3], vec![1], Some(3)));
        link_faults.insert(2, (late, vec![2], vec![1], None));
        assert!(way(&link_faults, 1, 2).lost && !way(&link_faults, 2, 1).lost);
        assert!(
            way(&link_faults, 1, 3).held
                && way(&link_faults, 3, 1).held
                && !way(&link_faults, 1, 2).held
        );
        assert_eq!(way(&link_faults, 2, 1).delay, Duration::from_millis(5));
        assert_eq!(way(&link_faults, 2, 3), super::DirectionState::default());
    }
}
