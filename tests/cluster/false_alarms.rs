//! While the leader is well, nothing that clients or a bad network do costs it its place: same leader, same term, and
//! sends go on being acknowledged.

use std::cell::RefCell;
use std::time::Duration;

use messagebase_checker::{Attempt, Recorder};
use messagebase_harness::{Cluster, Load, SHORT, judge, programs, while_the_machine_runs};
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
    sends
        .filter(|attempt| attempt.user.as_deref() == Some(user) && is_acknowledged(attempt))
        .count()
}

/// Runs `alarm` again and again under load. It may not cost the leader its place, nor a sender an answer; whatever else
/// happens, no message is lost, doubled or reordered.
#[track_caller]
fn changes_nothing(start: impl Fn() -> Cluster, alarm: impl Fn(&Alarm)) {
    while_the_machine_runs(|| trial(&start(), &alarm));
}

/// One of the alarms of a trial.
struct Alarm<'a> {
    cluster: &'a Cluster,
    round: usize,
    /// Who led when the trial began.
    leader: u16,
    others: Vec<u16>,
    /// What was not as it should be.
    broken: &'a RefCell<Vec<String>>,
}

fn trial(cluster: &Cluster, alarm: &impl Fn(&Alarm)) -> Result<(), String> {
    let leader = cluster.leader();
    let others = cluster.others(&[leader]);
    let mut client = cluster.client(leader);
    ["anna", "carl", "ben"]
        .iter()
        .for_each(|user| client.register(user));
    cluster.wait_ready(&cluster.numbers());
    let before = leadership(cluster);
    // Each sender has to get on: one whose node is not touched would outrun the other.
    let recorder = Recorder::new();
    let senders = [("anna", leader), ("carl", others[0])];
    let loads = senders.map(|sender| Load::start_beside(&recorder, cluster, &[sender], "ben"));
    let progress = || ["anna", "carl"].map(|user| acknowledged(&recorder, user));
    let broken = RefCell::new(Vec::new());
    for round in 0..ROUNDS {
        let so_far = progress();
        alarm(&Alarm {
            cluster,
            round,
            leader,
            others: others.clone(),
            broken: &broken,
        });
        cluster.wait("more acknowledged sends of each sender", || {
            let gets_on = |(now, so_far): (usize, usize)| now >= so_far + SENDS_BETWEEN;
            progress()
                .into_iter()
                .zip(so_far)
                .all(gets_on)
                .then_some(())
        });
    }
    cluster.heal();
    for load in loads {
        load.finish();
    }
    cluster.wait_ready(&cluster.numbers());
    let mut ben = cluster.client(others[1]);
    ben.login("ben");
    judge(&recorder, "ben", &ben.sync(0));
    let mut broken = broken.into_inner();
    let now = leadership(cluster);
    if now != before {
        broken.push(format!(
            "(node, term, leader) were {before:?} and are {now:?}"
        ));
    }
    if !recorder.finish().attempts.iter().all(is_acknowledged) {
        broken.push("a send was not acknowledged".to_owned());
    }
    if broken.is_empty() {
        Ok(())
    } else {
        Err(broken.join("; "))
    }
}

/// A client asks every node to campaign.
fn campaign_everywhere(alarm: &Alarm) {
    for node in alarm.cluster.numbers() {
        let mut client = alarm.cluster.client(node);
        let asked: Vec<u64> = (0..3).map(|_| client.post("campaign", json!({}))).collect();
        for id in asked {
            match client.answer(id, SHORT) {
                Err(refusal)
                    if ["leader_alive", "rate_limited"].contains(&refusal.code.as_str()) =>
                {
                    assert_eq!(refusal.outcome, "not_done");
                }
                other => alarm
                    .broken
                    .borrow_mut()
                    .push(format!("node {node} on a campaign: {other:?}")),
            }
        }
    }
}

fn proxied() -> Cluster {
    Cluster::with(programs!(), 3).proxied().start()
}

#[test]
fn campaigns_on_every_node_change_nothing() {
    changes_nothing(|| crate::cluster(3), campaign_everywhere);
}

#[test]
fn resets_of_one_link_of_the_leader_change_nothing() {
    changes_nothing(proxied, |alarm| {
        alarm.cluster.reset(&[alarm.leader], &alarm.others[..1])
    });
}

#[test]
fn resets_of_all_links_at_once_change_nothing() {
    changes_nothing(proxied, |alarm| {
        alarm
            .cluster
            .reset(&alarm.cluster.numbers(), &alarm.cluster.numbers())
    });
}

#[test]
fn campaigns_between_resets_of_all_links_change_nothing() {
    changes_nothing(proxied, |alarm| {
        alarm
            .cluster
            .reset(&alarm.cluster.numbers(), &alarm.cluster.numbers());
        campaign_everywhere(alarm);
    });
}

#[test]
fn a_leader_that_is_slow_to_answer_is_left_alone() {
    changes_nothing(proxied, |alarm| {
        if alarm.round == 0 {
            alarm
                .cluster
                .delay(&[alarm.leader], &alarm.others, Duration::from_millis(50));
        }
        campaign_everywhere(alarm);
    });
}

#[test]
fn a_follower_that_hears_nothing_of_the_leader_accuses_it_in_vain() {
    changes_nothing(proxied, |alarm| {
        let deaf = alarm.others[1];
        match alarm.round {
            // What the leader dials to it: heartbeats and entries. It still reaches the leader itself.
            0 => alarm.cluster.cut_dialed(alarm.leader, deaf),
            // Now it reaches the leader neither, and the third node alone knows better.
            10 => alarm.cluster.cut(&[alarm.leader], &[deaf]),
            _ => {}
        }
    });
}
