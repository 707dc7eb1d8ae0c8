//! Three nodes elect, replicate, lose their leader, go on and converge; the same seed gives the same run.

use std::time::Duration;

use messagebase_daemon::change::{Change, Outcome, Secrets};
use messagebase_daemon::raft::api::{Draft, NoQuorum, Verdict};
use messagebase_sim::cluster::Cluster;
use messagebase_sim::net::SimReplica;
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

const ALL: [u16; 3] = [1, 2, 3];

fn register(name: &str) -> Draft {
    let body = Change::Register { name: name.into(), key: format!("register-{name}"), by_operator: false };
    let secrets = Secrets { password_hash: Some("$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA".into()), token_hash: None };
    Draft { actor: None, body, secrets: Some(secrets) }
}

fn login(user: u64, token: u8) -> Draft {
    let secrets = Secrets { password_hash: None, token_hash: Some([token; 32]) };
    Draft { actor: None, body: Change::Login { user, credential_version: 1 }, secrets: Some(secrets) }
}

fn send(session: u64, user: u64, to: &str, n: usize) -> Draft {
    let body = Change::Send { user, to: to.into(), body: format!("message {n}"), key: format!("key-{n}") };
    Draft { actor: Some(session), body, secrets: None }
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
        Verdict::Applied { outcome: Outcome::Sent { id, .. }, .. } => *id,
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

async fn tell(seed: u64) -> Story {
    let cluster = Cluster::start(seed, 3).await;
    let first = cluster.wait("a leader of all", |c| c.leader_among(&ALL)).await;
    let follower = *ALL.iter().find(|n| **n != first).expect("two follow");

    // Through a follower: forwarded, and applied here when it returns.
    let replica = cluster.replica(follower);
    let Outcome::Registered { user: ann, .. } = one(replica, register("ann")).await else { panic!("not registered") };
    let Outcome::Registered { .. } = one(replica, register("ben")).await else { panic!("not registered") };
    let Outcome::LoggedIn { session, .. } = one(replica, login(ann, 7)).await else { panic!("not logged in") };
    let batch = (0..20).map(|n| send(session, ann, "ben", n)).collect();
    let mut ids = sent(&replica.propose(batch).await);

    // The leader is cut off in the middle of it all.
    cluster.isolate(first);
    let rest: Vec<u16> = ALL.into_iter().filter(|n| *n != first).collect();
    let batch = (20..40).map(|n| send(session, ann, "ben", n)).collect();
    ids.extend(sent(&cluster.replica(follower).propose(batch).await));
    let second = cluster.wait("another leader", |c| c.leader_among(&rest)).await;
    assert_ne!(first, second);
    assert_eq!(cluster.replica(follower).linear().await, Ok(()), "seed {seed}: the majority reads");
    assert_eq!(cluster.replica(first).linear().await, Err(NoQuorum), "seed {seed}: the minority does not");
    assert_eq!(cluster.replica(first).propose(vec![send(session, ann, "ben", 40)]).await, [Verdict::NoQuorum]);

    cluster.net.heal();
    // The same key again, from the node that was cut off: the message is there once, whichever attempt won.
    ids.extend(sent(&cluster.replica(first).propose(vec![send(session, ann, "ben", 40)]).await));
    assert!(ids.is_sorted_by(|a, b| a < b), "seed {seed}: one connection's order is kept: {ids:?}");
    assert_eq!(ids.len(), 41);

    cluster
        .wait("all to have applied the same", |c| {
            let applied: Vec<_> = ALL.iter().map(|n| c.replica(*n).view().applied).collect();
            applied.iter().all(|a| a.is_some() && *a == applied[0]).then_some(())
        })
        .await;
    let digests: Vec<String> = ALL.iter().map(|n| format!("{:?}", cluster.nodes[n].digest())).collect();
    assert!(digests.iter().all(|d| *d == digests[0]), "seed {seed}: the nodes differ: {digests:#?}");
    let story = Story { leaders: (first, second), took: cluster.elapsed(), ids, digests: digests[0].clone() };
    cluster.shutdown().await;
    story
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
