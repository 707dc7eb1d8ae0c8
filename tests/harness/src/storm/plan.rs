//! What a seed says: how many nodes, which clients, which faults when. Pure: the same seed, length and number of nodes give
//! the same plan. Which thread or packet is first is not part of it, so a replay is the same storm, not the same run.
//!
//! Faults hit *places*, not nodes: [`crate::storm::faults`] maps places to nodes, so that a fault aimed at the leader can
//! swap it with the place the plan meant and the plan's promise still holds: outside of the spells that take the quorum on
//! purpose, a majority of places is well at any moment, and in the end everything is healed.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

/// Before the first fault, so that there is something to disturb.
const CALM_BEFORE: Duration = Duration::from_millis(400);
/// Between two faults that begin.
const BETWEEN_MS: std::ops::Range<u64> = 150..900;
/// How long a fault lasts.
const LASTS_MS: std::ops::Range<u64> = 150..2_600;
/// How long the quorum may be away: beyond the 3 s in which a node holds a write, so that clients see `no_quorum`.
const WITHOUT_QUORUM_MS: std::ops::Range<u64> = 400..4_000;
const DELAY_MS: std::ops::Range<u64> = 5..150;
const ROAMING: std::ops::RangeInclusive<usize> = 4..=8;
const SHIPPED: usize = 2;

/// A place for a node, from 1.
pub type Slot = u16;

/// What the environment or a test asks for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Determines the plan.
    pub seed: u64,
    /// How long faults last.
    pub lasts: Duration,
    /// Three or five; the seed's choice when `None`.
    pub nodes: Option<u16>,
    /// Whether to keep the evidence of a good run too.
    pub keep: bool,
    /// A defect to plant in every daemon (`MESSAGEBASE_PLANTED`, see tests/planted), to see the storm find it.
    pub defect: Option<String>,
}

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behavior {
    /// Does everything a person might, goes to another node when its own is lost.
    Roaming,
    /// A program on the client library that is shipped: it goes where the library goes.
    Shipped,
    /// Sends one message after the other and stays with its node, so that at any moment each node has a write to do.
    Steady,
}

/// One client.
#[derive(Debug, Clone)]
pub struct ClientPlan {
    /// Its account. Two clients may share one.
    pub user: String,
    /// Where it begins.
    pub node: u16,
    /// Over TLS rather than plain.
    pub tls: bool,
    /// What it does.
    pub behavior: Behavior,
    /// Determines which operations it chooses.
    pub seed: u64,
}

/// What happens to the bytes between two groups of places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFault {
    /// Held back in both directions until it is over.
    Cut,
    /// Lost from the first group to the second; then those connections are reset.
    OneWayLoss,
    /// Later, in both directions.
    Delay(Duration),
}

/// One thing that is done to the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to all of these at once.
    Kill(Vec<Slot>),
    /// Starts them again.
    Start(Vec<Slot>),
    /// SIGSTOP.
    Freeze(Slot),
    /// SIGCONT.
    Thaw(Slot),
    /// `mbctl stop`; ends with `Start`.
    Stop(Slot),
    /// `mbctl transfer`.
    Transfer(Slot),
    /// The links between the groups get into link_fault number `id`.
    Links {
        /// By which `Heal` names it.
        id: usize,
        /// What.
        link_fault: LinkFault,
        /// From these.
        from: Vec<Slot>,
        /// To these.
        to: Vec<Slot>,
        /// Who is not well meanwhile; nobody, when bytes are only late.
        unwell: Option<Slot>,
    },
    /// The end of link_fault `id`.
    Heal(usize),
    /// What is open between the groups is reset; new connections are accepted.
    Reset(Vec<Slot>, Vec<Slot>),
}

impl Fault {
    /// The name under which it is counted; `None` for what only ends another.
    pub fn kind(&self) -> Option<&'static str> {
        Some(match self {
            Fault::Kill(places) if places.len() > 1 => "SIGKILL of several at once",
            Fault::Kill(_) => "SIGKILL",
            Fault::Freeze(_) => "SIGSTOP",
            Fault::Stop(_) => "graceful stop",
            Fault::Transfer(_) => "leader transfer",
            Fault::Links {
                link_fault: LinkFault::Cut,
                ..
            } => "network cut",
            Fault::Links {
                link_fault: LinkFault::OneWayLoss,
                ..
            } => "one-way loss",
            Fault::Links {
                link_fault: LinkFault::Delay(_),
                ..
            } => "delay",
            Fault::Reset(..) => "reset",
            Fault::Start(_) | Fault::Thaw(_) | Fault::Heal(_) => return None,
        })
    }
}

/// A fault and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduled {
    /// Since the storm began.
    pub at: Duration,
    /// Swap the leader into this place first, if it is well.
    pub leader: Option<Slot>,
    /// What to do.
    pub fault: Fault,
}

/// Everything that a seed says.
#[derive(Debug, Clone)]
pub struct StormPlan {
    /// It.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: u16,
    /// How long faults last.
    pub lasts: Duration,
    /// The clients.
    pub clients: Vec<ClientPlan>,
    /// The faults, by time.
    pub faults: Vec<Scheduled>,
}

impl StormPlan {
    /// What the seed says.
    pub fn of(wish: &Wish) -> StormPlan {
        let mut rng = Rng::with_seed(wish.seed);
        // Drawn also when it is not used, so that a given number of nodes leaves the rest of the plan as it is.
        let drawn = if rng.u8(0..3) == 0 { 5 } else { 3 };
        let nodes = wish.nodes.unwrap_or(drawn);
        let mut clients = clients(&mut rng, nodes);
        let faults = Weaver::new(&mut rng, nodes, wish.lasts).weave();
        clients.extend(shipped_clients(wish.seed, nodes));
        StormPlan {
            seed: wish.seed,
            nodes,
            lasts: wish.lasts,
            clients,
            faults,
        }
    }
}

/// Four to eight clients that roam, and one a node that stays.
fn clients(rng: &mut Rng, nodes: u16) -> Vec<ClientPlan> {
    let mut clients = Vec::new();
    for n in 0..rng.usize(ROAMING) {
        // Every third shares the account of the one before it: two sessions of one user.
        let user = if n % 3 == 2 {
            format!("user-{}", n - 1)
        } else {
            format!("user-{n}")
        };
        let (node, tls, seed) = (rng.u16(1..=nodes), rng.bool(), rng.u64(..));
        clients.push(ClientPlan {
            user,
            node,
            tls,
            behavior: Behavior::Roaming,
            seed,
        });
    }
    for node in 1..=nodes {
        let (tls, seed) = (rng.u8(0..3) == 0, rng.u64(..));
        clients.push(ClientPlan {
            user: format!("steady-{node}"),
            node,
            tls,
            behavior: Behavior::Steady,
            seed,
        });
    }
    clients
}

/// Programs on the client library, each with an account of its own. Drawn from a generator of their own, so that the rest
/// of a seed's plan is what it was before there were any.
fn shipped_clients(seed: u64, nodes: u16) -> Vec<ClientPlan> {
    let mut rng = Rng::with_seed(!seed);
    (0..SHIPPED)
        .map(|n| ClientPlan {
            user: format!("shipped-{n}"),
            node: rng.u16(1..=nodes),
            tls: true,
            behavior: Behavior::Shipped,
            seed: rng.u64(..),
        })
        .collect()
}

/// Draws faults one after the other; several overlap.
struct Weaver<'a> {
    rng: &'a mut Rng,
    nodes: u16,
    lasts: Duration,
    /// Per place, until when it is not well.
    unwell: Vec<(Slot, Duration)>,
    /// Nothing new begins before: the whole cluster is in the hands of one fault.
    busy: Duration,
    ids: usize,
    faults: Vec<Scheduled>,
}

impl<'a> Weaver<'a> {
    fn new(rng: &'a mut Rng, nodes: u16, lasts: Duration) -> Self {
        Weaver {
            rng,
            nodes,
            lasts,
            unwell: Vec::new(),
            busy: Duration::ZERO,
            ids: 0,
            faults: Vec::new(),
        }
    }

    fn weave(mut self) -> Vec<Scheduled> {
        let mut at = CALM_BEFORE;
        while at < self.lasts {
            self.unwell.retain(|(_, until)| *until > at);
            if at >= self.busy {
                self.draw(at);
            }
            at += Duration::from_millis(self.rng.u64(BETWEEN_MS));
        }
        // Stable: what was drawn first and is due at the same time comes first.
        self.faults.sort_by_key(|scheduled| scheduled.at);
        self.faults
    }

    /// How many places may be unwell with a majority left.
    fn minority(&self) -> usize {
        usize::from((self.nodes - 1) / 2)
    }

    fn draw(&mut self, at: Duration) {
        let well: Vec<Slot> = (1..=self.nodes)
            .filter(|slot| self.unwell.iter().all(|(s, _)| s != slot))
            .collect();
        let may_hurt = self.unwell.len() < self.minority();
        let all: Vec<Slot> = (1..=self.nodes).collect();
        let one = well[self.rng.usize(..well.len())];
        let until = self.end_of(at, LASTS_MS);
        match self.rng.u8(0..100) {
            0..=17 if may_hurt => self.kill(at, one),
            18..=27 if may_hurt => {
                self.hurt(at, one, Fault::Freeze(one), until, Fault::Thaw(one));
            }
            28..=35 if may_hurt => {
                self.hurt(at, one, Fault::Stop(one), until, Fault::Start(vec![one]))
            }
            36..=47 if may_hurt => self.links(at, until, one, LinkFault::Cut),
            48..=59 if may_hurt => self.links(at, until, one, LinkFault::OneWayLoss),
            60..=69 => {
                let by = Duration::from_millis(self.rng.u64(DELAY_MS));
                self.links(at, until, one, LinkFault::Delay(by));
            }
            70..=79 => {
                let from = if self.rng.u8(0..3) == 0 {
                    all.clone()
                } else {
                    vec![one]
                };
                let leader = self.aim(&from);
                self.push(at, leader, Fault::Reset(from, all));
            }
            80..=89 => self.push(at, None, Fault::Transfer(one)),
            90..=94 if self.unwell.is_empty() => self.crash_all(at, all),
            95..=99 if self.unwell.is_empty() => self.take_quorum(at, all),
            _ => {}
        }
    }

    /// The end of what begins at `at`, within the storm.
    fn end_of(&mut self, at: Duration, lasts: std::ops::Range<u64>) -> Duration {
        (at + Duration::from_millis(self.rng.u64(lasts))).min(self.lasts)
    }

    /// Half of what hits one place is meant for the leader.
    fn aim(&mut self, places: &[Slot]) -> Option<Slot> {
        match places {
            [one] if self.rng.bool() => Some(*one),
            _ => None,
        }
    }

    fn push(&mut self, at: Duration, leader: Option<Slot>, fault: Fault) {
        self.faults.push(Scheduled { at, leader, fault });
    }

    fn hurt(&mut self, at: Duration, slot: Slot, fault: Fault, until: Duration, end: Fault) {
        let leader = self.aim(&[slot]);
        self.unwell.push((slot, until));
        self.push(at, leader, fault);
        self.push(until, None, end);
    }

    /// Half of the killed are started again at once, as a service manager would.
    fn kill(&mut self, at: Duration, slot: Slot) {
        let until = if self.rng.bool() {
            at
        } else {
            self.end_of(at, LASTS_MS)
        };
        self.hurt(
            at,
            slot,
            Fault::Kill(vec![slot]),
            until,
            Fault::Start(vec![slot]),
        );
    }

    /// Between one place and all others, or one other.
    fn links(&mut self, at: Duration, until: Duration, one: Slot, link_fault: LinkFault) {
        let mut others: Vec<Slot> = (1..=self.nodes).filter(|slot| *slot != one).collect();
        if self.rng.u8(0..3) == 0 {
            others = vec![others[self.rng.usize(..others.len())]];
        }
        let unwell = (!matches!(link_fault, LinkFault::Delay(_))).then_some(one);
        let leader = self.aim(&[one]);
        self.unwell.extend(unwell.map(|slot| (slot, until)));
        let id = self.ids;
        self.ids += 1;
        let towards_it = link_fault == LinkFault::OneWayLoss && self.rng.bool();
        let (from, to) = if towards_it {
            (others, vec![one])
        } else {
            (vec![one], others)
        };
        self.push(
            at,
            leader,
            Fault::Links {
                id,
                link_fault,
                from,
                to,
                unwell,
            },
        );
        self.push(until, None, Fault::Heal(id));
    }

    /// Every process at once, as when the power goes.
    fn crash_all(&mut self, at: Duration, all: Vec<Slot>) {
        let until = if self.rng.bool() {
            at
        } else {
            self.end_of(at, 1..1_000)
        };
        self.push(at, None, Fault::Kill(all.clone()));
        self.push(until, None, Fault::Start(all));
        self.busy = until;
    }

    /// A majority of the nodes, for a while.
    fn take_quorum(&mut self, at: Duration, mut all: Vec<Slot>) {
        self.rng.shuffle(&mut all);
        all.truncate(self.minority() + 1);
        let until = self.end_of(at, WITHOUT_QUORUM_MS);
        self.busy = until;
        if self.rng.bool() {
            self.push(at, None, Fault::Kill(all.clone()));
            self.push(until, None, Fault::Start(all));
            return;
        }
        for slot in all {
            self.push(at, None, Fault::Freeze(slot));
            self.push(until, None, Fault::Thaw(slot));
        }
    }
}

impl fmt::Display for StormPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StormPlan {
            seed,
            nodes,
            lasts,
            clients,
            faults,
        } = self;
        writeln!(
            f,
            "seed {seed}: {nodes} nodes, {} clients, faults for {lasts:?}",
            clients.len()
        )?;
        for client in clients {
            let over = if client.tls { "TLS" } else { "plain" };
            writeln!(
                f,
                "  client of {} on node {} over {over}: {:?}",
                client.user, client.node, client.behavior
            )?;
        }
        for Scheduled { at, leader, fault } in faults {
            let aimed = leader.map_or_else(String::new, |slot| format!(" (the leader as {slot})"));
            writeln!(f, "  {:6} ms: {fault:?}{aimed}", at.as_millis())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::{Behavior, Fault, Slot, StormPlan, Wish};

    fn plan(seed: u64, nodes: Option<u16>) -> StormPlan {
        StormPlan::of(&Wish {
            seed,
            lasts: Duration::from_secs(20),
            nodes,
            keep: false,
            defect: None,
        })
    }

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_seed_another_one() {
        assert_eq!(plan(7, None).to_string(), plan(7, None).to_string());
        assert_ne!(plan(7, None).to_string(), plan(8, None).to_string());
    }

    #[test]
    fn seeds_cover_both_sizes_and_every_kind_of_fault() {
        let plans: Vec<StormPlan> = (0..40).map(|seed| plan(seed, None)).collect();
        let sizes: BTreeSet<u16> = plans.iter().map(|plan| plan.nodes).collect();
        assert_eq!(sizes, BTreeSet::from([3, 5]));
        let kinds: BTreeSet<&str> = plans
            .iter()
            .flat_map(|plan| &plan.faults)
            .filter_map(|scheduled| scheduled.fault.kind())
            .collect();
        assert_eq!(kinds.len(), 9, "{kinds:?}");
        for plan in &plans {
            let roaming = plan
                .clients
                .iter()
                .filter(|client| client.behavior == Behavior::Roaming)
                .count();
            assert!((4..=8).contains(&roaming), "{plan}");
        }
    }

    /// Follows a plan and says after each fault how many places are not well.
    fn unwell_over_time(plan: &StormPlan) -> Vec<(Duration, usize)> {
        let mut down: BTreeSet<Slot> = BTreeSet::new();
        let mut cut: Vec<(usize, Slot)> = Vec::new();
        let mut counts = Vec::new();
        for scheduled in &plan.faults {
            match &scheduled.fault {
                Fault::Kill(slots) => down.extend(slots),
                Fault::Start(slots) => down.retain(|slot| !slots.contains(slot)),
                Fault::Freeze(slot) | Fault::Stop(slot) => down.extend([*slot]),
                Fault::Thaw(gone) => down.retain(|slot| slot != gone),
                Fault::Links {
                    id,
                    unwell: Some(slot),
                    ..
                } => cut.push((*id, *slot)),
                Fault::Heal(id) => cut.retain(|(other, _)| other != id),
                _ => {}
            }
            let all: BTreeSet<Slot> = down
                .iter()
                .copied()
                .chain(cut.iter().map(|(_, slot)| *slot))
                .collect();
            counts.push((scheduled.at, all.len()));
        }
        counts
    }

    #[test]
    fn in_the_end_everything_is_healed_and_the_quorum_is_never_away_for_long() {
        for seed in 0..200 {
            for nodes in [3, 5] {
                let plan = plan(seed, Some(nodes));
                let counts = unwell_over_time(&plan);
                assert_eq!(counts.last().map_or(0, |(_, unwell)| *unwell), 0, "{plan}");
                let minority = usize::from((nodes - 1) / 2);
                let mut without_since: Option<Duration> = None;
                for (at, unwell) in counts {
                    let since = *without_since.get_or_insert(at);
                    assert!(at - since <= Duration::from_secs(4), "{plan}");
                    if unwell <= minority {
                        without_since = None;
                    }
                }
            }
        }
    }

    #[test]
    fn five_nodes_also_have_two_unwell_at_once() {
        let two = (0..20).any(|seed| {
            unwell_over_time(&plan(seed, Some(5)))
                .iter()
                .any(|(_, unwell)| *unwell == 2)
        });
        assert!(two);
    }
}
