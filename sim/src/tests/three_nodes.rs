//! Three nodes elect, replicate, lose their leader, go on and converge; the same seed gives the same run.

use std::time::Duration;

use messagebase_daemon::change::{Change, Outcome, Refusal, Secrets};
use messagebase_daemon::raft::api::{Draft, NoQuorum, Verdict};
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use super::{ALL, PASSWORD_HASH};
use crate::cluster::Cluster;
use crate::net::SimReplica;

fn register(name: &str) -> Draft {
    let body = Change::Register {
        name: name.into(),
        key: format!("register-{name}"),
        by_operator: false,
    };
    let secrets = Secrets {
        password_hash: Some(PASSWORD_HASH.into()),
        token_hash: None,
    };
    Draft {
        actor: None,
        body,
        secrets: Some(secrets),
    }
}

fn login(user: u64, token: u8) -> Draft {
    let secrets = Secrets {
        password_hash: None,
        token_hash: Some([token; 32]),
    };
    Draft {
        actor: None,
        body: Change::Login {
            user,
            credential_version: 1,
        },
        secrets: Some(secrets),
    }
}

fn send(session: u64, user: u64, to: &str, n: usize) -> Draft {
    let body = Change::Send {
        user,
        to: to.into(),
        body: format!("message {n}"),
        key: format!("key-{n}"),
    };
    Draft {
        actor: Some(session),
        body,
        secrets: None,
    }
}

async fn one(replica: &SimReplica, draft: Draft) -> Outcome {
    match replica.propose(vec![draft]).await.as_slice() {
        [Verdict::Applied { outcome, .. }] => outcome.clone(),
        other => panic!("not applied: {other:?}"),
    }
}

/// Ids of the messages that were sent; panics unless all were.
fn sent(verdicts: &[Verdict]) -> Vec<u64> {
    let id = |verdict: &Verdict| match verdict {
        Verdict::Applied {
            outcome: Outcome::Sent { id, .. },
            ..
        } => *id,
        other => panic!("not sent: {other:?}"),
    };
    verdicts.iter().map(id).collect()
}

/// What two runs of one seed must have in common.
#[derive(Debug, PartialEq)]
struct Story {
    leaders: (u16, u16),
    took: Duration,
    ids: Vec<u64>,
    digests: String,
}

/// Waits until all have applied the same, and returns their digests, which must agree.
async fn same_digests(cluster: &Cluster, seed: u64) -> String {
    cluster
        .wait("all to have applied the same", |c| {
            let applied: Vec<_> = ALL.iter().map(|n| c.replica(*n).view().applied).collect();
            applied
                .iter()
                .all(|a| a.is_some() && *a == applied[0])
                .then_some(())
        })
        .await;
    let digests: Vec<String> = ALL
        .iter()
        .map(|n| format!("{:?}", cluster.nodes[n].digest()))
        .collect();
    assert!(
        digests.iter().all(|d| *d == digests[0]),
        "seed {seed}: the nodes differ: {digests:#?}"
    );
    digests[0].clone()
}

async fn tell(seed: u64) -> Story {
    let cluster = Cluster::start(seed, 3).await;
    let first = cluster
        .wait("a leader of all", |c| c.leader_among(&ALL))
        .await;
    let follower = *ALL.iter().find(|n| **n != first).expect("two follow");

    // Through a follower: forwarded, and applied here when it returns.
    let replica = cluster.replica(follower);
    let Outcome::Registered { user: ann, .. } = one(replica, register("ann")).await else {
        panic!("not registered")
    };
    let Outcome::Registered { .. } = one(replica, register("ben")).await else {
        panic!("not registered")
    };
    let Outcome::LoggedIn { session, .. } = one(replica, login(ann, 7)).await else {
        panic!("not logged in")
    };
    let batch = (0..20).map(|n| send(session, ann, "ben", n)).collect();
    let mut ids = sent(&replica.propose(batch).await);

    // The leader is cut off in the middle of it all.
    cluster.isolate(first);
    let rest: Vec<u16> = ALL.into_iter().filter(|n| *n != first).collect();
    let batch = (20..40).map(|n| send(session, ann, "ben", n)).collect();
    ids.extend(sent(&cluster.replica(follower).propose(batch).await));
    let second = cluster
        .wait("another leader", |c| c.leader_among(&rest))
        .await;
    assert_ne!(first, second);
    assert_eq!(
        cluster.replica(follower).linear().await,
        Ok(()),
        "seed {seed}: the majority reads"
    );
    assert_eq!(
        cluster.replica(first).linear().await,
        Err(NoQuorum),
        "seed {seed}: the minority does not"
    );
    let refused = cluster.replica(first);
    let refused = refused.propose(vec![send(session, ann, "ben", 40)]).await;
    assert_eq!(refused, [Verdict::NoQuorum]);

    cluster.net.heal();
    // The same key again, from the node that was cut off: the message is there once, whichever attempt won.
    ids.extend(sent(
        &cluster
            .replica(first)
            .propose(vec![send(session, ann, "ben", 40)])
            .await,
    ));
    assert!(
        ids.is_sorted_by(|a, b| a < b),
        "seed {seed}: one connection's order is kept: {ids:?}"
    );
    assert_eq!(ids.len(), 41);

    let digests = same_digests(&cluster, seed).await;
    let story = Story {
        leaders: (first, second),
        took: cluster.elapsed(),
        ids,
        digests,
    };
    cluster.shutdown().await;
    story
}

/// A follower's acknowledgement is applied, but the answer never reaches it, and the session ends before it asks again.
async fn an_answer_is_lost(seed: u64) {
    let cluster = Cluster::start(seed, 3).await;
    let first = cluster
        .wait("a leader of all", |c| c.leader_among(&ALL))
        .await;
    let follower = *ALL.iter().find(|n| **n != first).expect("two follow");
    let (there, here) = (
        cluster.replica(first).clone(),
        cluster.replica(follower).clone(),
    );
    let Outcome::Registered { user: ann, .. } = one(&here, register("ann")).await else {
        panic!("not registered")
    };
    let Outcome::Registered { user: ben, .. } = one(&here, register("ben")).await else {
        panic!("not registered")
    };
    let Outcome::LoggedIn { session: anns, .. } = one(&here, login(ann, 7)).await else {
        panic!("not logged in")
    };
    let Outcome::LoggedIn { session: bens, .. } = one(&here, login(ben, 8)).await else {
        panic!("not logged in")
    };
    let Outcome::Sent { id, .. } = one(&here, send(anns, ann, "ben", 0)).await else {
        panic!("not sent")
    };

    let applied = |replica: &SimReplica| replica.view().applied;
    let before = applied(&there);
    cluster.net.cut_one_way(first, follower);
    let ack = Draft {
        actor: Some(bens),
        body: Change::Ack {
            user: ben,
            through: id,
        },
        secrets: None,
    };
    let acknowledging = SimRuntime::spawn({
        let here = here.clone();
        async move { here.propose(vec![ack]).await }
    });
    cluster
        .wait("the acknowledgement to be applied", |_| {
            (applied(&there) > before).then_some(())
        })
        .await;
    let lock = Draft {
        actor: None,
        body: Change::Lock { name: "ben".into() },
        secrets: None,
    };
    assert_eq!(one(&there, lock).await, Outcome::Done, "seed {seed}");
    cluster.net.heal();
    let third = *ALL
        .iter()
        .find(|n| ![first, follower].contains(n))
        .expect("the other one");
    assert_eq!(there.transfer(third).await, Ok(()), "seed {seed}");

    let verdicts = acknowledging.await.expect("does not panic");
    assert_eq!(
        verdicts,
        [Verdict::InDoubt(Refusal::NotLoggedIn)],
        "seed {seed}: it was done before"
    );
    cluster.shutdown().await;
}

#[test]
fn a_refusal_after_a_lost_answer_is_in_doubt() {
    for seed in 1..=5 {
        SimRuntime::with_seed(seed).block_on(an_answer_is_lost(seed));
    }
}

fn run(seed: u64) -> Story {
    SimRuntime::with_seed(seed).block_on(tell(seed))
}

#[test]
fn three_nodes_lose_their_leader_and_converge() {
    for seed in 1..=5 {
        run(seed);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    assert_eq!(run(42), run(42));
}
