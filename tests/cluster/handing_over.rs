//! Leadership is handed over without a client seeing an error: by `mbctl transfer`, and before a graceful stop.

use messagebase_checker::{Attempt, Recorder};
use messagebase_harness::{Cluster, Load, judge, while_the_machine_runs};

use crate::cluster;

const ACKNOWLEDGED_BEFORE: usize = 50;
/// Sends of one connection that may be under way, unread by the node that closes it.
const WINDOW: usize = 16;

fn register(cluster: &Cluster) {
    let mut client = cluster.client(cluster.leader());
    ["anna", "carl", "ben"]
        .iter()
        .for_each(|user| client.register(user));
}

#[track_caller]
fn more(cluster: &Cluster, load: &Load) {
    let so_far = load.acknowledged();
    cluster.wait("more acknowledged sends", || {
        (load.acknowledged() >= so_far + ACKNOWLEDGED_BEFORE).then_some(())
    });
}

#[track_caller]
fn check(cluster: &Cluster, node: u16, recorder: &Recorder) {
    let mut ben = cluster.client(node);
    ben.login("ben");
    judge(recorder, "ben", &ben.sync(0));
}

/// A user's sends in the order sent.
fn attempts_of(recorder: &Recorder, user: &str) -> Vec<Attempt> {
    let all = recorder.finish().attempts.into_iter();
    let mut attempts: Vec<Attempt> = all
        .filter(|attempt| attempt.user.as_deref() == Some(user))
        .collect();
    attempts.sort_by_key(|attempt| attempt.sequence);
    attempts
}

fn is_acknowledged(attempt: &Attempt) -> bool {
    attempt.answer.ok().is_some()
}

#[test]
fn a_transfer_under_load_refuses_nothing() {
    while_the_machine_runs(|| {
        let recorder = transfers_under_load();
        let refused = recorder
            .finish()
            .attempts
            .iter()
            .filter(|attempt| !is_acknowledged(attempt))
            .count();
        if refused == 0 {
            Ok(())
        } else {
            Err(format!("{refused} sends were refused"))
        }
    });
}

fn transfers_under_load() -> Recorder {
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
    let recorder = load.finish();
    check(&cluster, leader, &recorder);
    recorder
}

#[test]
fn a_leader_that_stops_answers_what_it_accepted_and_others_notice_nothing() {
    while_the_machine_runs(stop_under_load);
}

fn stop_under_load() -> Result<(), String> {
    let cluster = cluster(3);
    register(&cluster);
    let leader = cluster.leader();
    let others = cluster.others(&[leader]);
    let recorder = Recorder::new();
    let here = Load::start_beside(&recorder, &cluster, &[("anna", leader)], "ben");
    let there = Load::start_beside(&recorder, &cluster, &[("carl", others[0])], "ben");
    more(&cluster, &here);
    let so_far = attempts_of(&recorder, "carl")
        .iter()
        .filter(|attempt| is_acknowledged(attempt))
        .count();
    cluster.wait("acknowledged sends of the other client", || {
        let now = attempts_of(&recorder, "carl")
            .iter()
            .filter(|attempt| is_acknowledged(attempt))
            .count();
        (now >= so_far + ACKNOWLEDGED_BEFORE).then_some(())
    });
    assert_eq!(cluster.node(leader).stop(), 0);
    more(&cluster, &there);
    there.finish();
    here.finish();
    let carls = attempts_of(&recorder, "carl");
    let annas = attempts_of(&recorder, "anna");
    let mut broken = Vec::new();
    if let Some(first_lost) = annas.iter().position(|attempt| !is_acknowledged(attempt)) {
        let after = &annas[first_lost..];
        if after.iter().any(is_acknowledged) {
            broken.push(format!("answered later ones, but not number {first_lost}"));
        }
        if after.len() > WINDOW {
            broken.push(format!("{} were not answered", after.len()));
        }
    }
    check(&cluster, others[1], &recorder);
    if !carls.iter().all(is_acknowledged) {
        broken.push("a client of another node saw the stop".to_owned());
    }
    if broken.is_empty() {
        Ok(())
    } else {
        Err(broken.join("; "))
    }
}
