//! While the leader is well, nothing that clients or a bad network do costs it its place: same leader, same term, and
//! sends go on being acknowledged.

use std::time::Duration;

use messagebase_checker::{Attempt, Recorder};
use messagebase_harness::{Cluster, Load, SHORT, judge, programs};
use serde_json::{Value, json};

/// Alarms of each kind.
const ROUNDS: usize = 20;
/// Sends that must be acknowledged after each alarm before the next one.
const SENDS_BETWEEN: usize = 5;

/// Who leads and in which term, as every node says.
fn leadership(cluster: &Cluster) -> Vec<(u16, Value, Value)> {
    let said = |n: u16| {
        let status = cluster.wait(&format!("the status of node {n}"), || cluster.status(n));
        (n, status["term"].clone(), status["leader"].clone())
    };
    cluster.numbers().into_iter().map(said).collect()
}

fn is_acknowledged(attempt: &Attempt) -> bool {
    attempt.answer.ok().is_some()
}

fn acknowledged(recorder: &Recorder, user: &str) -> usize {
    let sends = recorder.finish().attempts.into_iter();
    sends.filter(|attempt| attempt.user.as_deref() == Some(user) && is_acknowledged(attempt)).count()
}

/// Runs `alarm` again and again under load. It may not cost the leader its place, nor a sender an answer.
#[track_caller]
fn changes_nothing(cluster: &Cluster, mut alarm: impl FnMut(&Cluster, usize)) {
    let leader = cluster.leader();
    let others = cluster.others(&[leader]);
    let mut client = cluster.client(leader);
    ["anna", "carl", "ben"].iter().for_each(|user| client.register(user));
    cluster.wait_ready(&cluster.numbers());
    let before = leadership(cluster);
    // Each sender has to get on: one whose node is not touched would outrun the other.
    let recorder = Recorder::new();
    let senders = [("anna", leader), ("carl", others[0])];
    let loads = senders.map(|sender| Load::start_beside(&recorder, cluster, &[sender], "ben"));
    let progress = || ["anna", "carl"].map(|user| acknowledged(&recorder, user));
    for round in 0..ROUNDS {
        let so_far = progress();
        alarm(cluster, round);
        cluster.wait("more acknowledged sends of each sender", || {
            let gets_on = |(now, so_far): (usize, usize)| now >= so_far + SENDS_BETWEEN;
            progress().into_iter().zip(so_far).all(gets_on).then_some(())
        });
    }
    cluster.heal();
    for load in loads {
        load.finish();
    }
    cluster.wait_ready(&cluster.numbers());
    assert_eq!(leadership(cluster), before, "leader and term as (node, term, leader)");
    assert!(recorder.finish().attempts.iter().all(is_acknowledged), "a send was not acknowledged");
    let mut ben = cluster.client(others[1]);
    ben.login("ben");
    judge(&recorder, "ben", &ben.sync(0));
}

/// A client asks every node to campaign.
fn campaign_everywhere(cluster: &Cluster) {
    let leader = cluster.leader();
    for node in cluster.numbers() {
        let mut client = cluster.client(node);
        let asked: Vec<u64> = (0..3).map(|_| client.post("campaign", json!({}))).collect();
        for id in asked {
            let refusal = client.answer(id, SHORT).expect_err("there is a leader, and it is well");
            assert!(["leader_alive", "rate_limited"].contains(&refusal.code.as_str()), "node {node}: {refusal:?}");
            assert_eq!(refusal.outcome, "not_done");
        }
        assert_eq!(cluster.leader(), leader);
    }
}

fn proxied() -> Cluster {
    Cluster::with(programs!(), 3).proxied().start()
}

#[test]
fn campaigns_on_every_node_change_nothing() {
    let cluster = crate::cluster(3);
    changes_nothing(&cluster, |cluster, _| campaign_everywhere(cluster));
}

#[test]
fn resets_of_one_link_of_the_leader_change_nothing() {
    let cluster = proxied();
    let leader = cluster.leader();
    let follower = cluster.others(&[leader])[0];
    changes_nothing(&cluster, |cluster, _| cluster.reset(&[leader], &[follower]));
}

#[test]
fn resets_of_all_links_at_once_change_nothing() {
    let cluster = proxied();
    let all = cluster.numbers();
    changes_nothing(&cluster, |cluster, _| cluster.reset(&all, &all));
}

#[test]
fn campaigns_between_resets_of_all_links_change_nothing() {
    let cluster = proxied();
    let all = cluster.numbers();
    changes_nothing(&cluster, |cluster, _| {
        cluster.reset(&all, &all);
        campaign_everywhere(cluster);
    });
}

#[test]
fn a_leader_that_is_slow_to_answer_is_left_alone() {
    let cluster = proxied();
    let leader = cluster.leader();
    let others = cluster.others(&[leader]);
    changes_nothing(&cluster, |cluster, round| {
        if round == 0 {
            cluster.delay(&[leader], &others, Duration::from_millis(50));
        }
        campaign_everywhere(cluster);
    });
}

#[test]
fn a_follower_that_hears_nothing_of_the_leader_accuses_it_in_vain() {
    let cluster = proxied();
    let leader = cluster.leader();
    let deaf = cluster.others(&[leader])[1];
    changes_nothing(&cluster, |cluster, round| match round {
        // What the leader dials to it: heartbeats and entries. It still reaches the leader itself.
        0 => cluster.cut_dialed(leader, deaf),
        // Now it reaches the leader neither, and the third node alone knows better.
        10 => cluster.cut(&[leader], &[deaf]),
        _ => {}
    });
}
