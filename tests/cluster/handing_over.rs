//! Leadership is handed over without a client seeing an error: by `mbctl transfer`, and before a graceful stop.

use messagebase_harness::{Attempt, Cluster, History, Load, Received};

use crate::cluster;

const ACKNOWLEDGED_BEFORE: usize = 50;
/// Sends of one connection that may be under way, unread by the node that closes it.
const WINDOW: usize = 16;

fn register(cluster: &Cluster) {
    let mut client = cluster.client(cluster.leader());
    ["anna", "carl", "ben"].iter().for_each(|user| client.register(user));
}

#[track_caller]
fn more(cluster: &Cluster, load: &Load) {
    let so_far = load.acknowledged();
    cluster.wait("more acknowledged sends", || (load.acknowledged() >= so_far + ACKNOWLEDGED_BEFORE).then_some(()));
}

#[track_caller]
fn check(cluster: &Cluster, node: u16, history: &History) {
    let mut ben = cluster.client(node);
    ben.login("ben");
    history.check("ben", &Received::all(&ben.sync(0))).unwrap_or_else(|wrong| panic!("{wrong:#?}"));
}

#[test]
fn a_transfer_under_load_refuses_nothing() {
    let cluster = cluster(3);
    register(&cluster);
    let leader = cluster.leader();
    let others = cluster.others(&[leader]);
    let load = Load::start(&cluster, &[("anna", leader), ("carl", others[0])], "ben");
    for next in [others[0], others[1], leader] {
        more(&cluster, &load);
        cluster.lead(next);
    }
    more(&cluster, &load);
    let history = load.finish();
    assert_eq!(history.acknowledged(), history.attempts.len(), "a send was refused");
    check(&cluster, leader, &history);
}

#[test]
fn a_leader_that_stops_answers_what_it_accepted_and_others_notice_nothing() {
    let cluster = cluster(3);
    register(&cluster);
    let leader = cluster.leader();
    let others = cluster.others(&[leader]);
    let here = Load::start(&cluster, &[("anna", leader)], "ben");
    let there = Load::start(&cluster, &[("carl", others[0])], "ben");
    more(&cluster, &here);
    more(&cluster, &there);
    assert_eq!(cluster.node(leader).stop(), 0);
    more(&cluster, &there);
    let there = there.finish();
    assert_eq!(there.acknowledged(), there.attempts.len(), "a client of another node saw the stop");
    let here = here.finish();
    let first_lost = here.attempts.iter().position(|attempt| attempt.acknowledged.is_none());
    if let Some(first_lost) = first_lost {
        let after = &here.attempts[first_lost..];
        assert!(after.iter().all(|a| a.acknowledged.is_none()), "answered later ones, but not number {first_lost}");
        assert!(after.len() <= WINDOW, "{} were not answered", after.len());
    }
    let mut history = there;
    history.attempts.extend(here.attempts.into_iter().map(|attempt| Attempt { connection: 1, ..attempt }));
    check(&cluster, others[1], &history);
}
