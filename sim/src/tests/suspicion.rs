//! Suspicion and handing over under virtual time: what is dead or hung is replaced at once, what is well keeps its place.

use std::time::Duration;

use messagebase_daemon::raft::api::CampaignError;
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use super::{ALL, register_all};
use crate::cluster::Cluster;

/// Seeds of each story: other delays, other interleavings.
const SEEDS: std::ops::Range<u64> = 100..106;
/// Silence, a look, the question to the other one, an election; Raft's own timers need 900 ms and more.
const HUNG_AT_MOST: Duration = Duration::from_millis(600);
/// Long enough for every timer to go off several times.
const WHILE: Duration = Duration::from_secs(5);

fn for_each_seed<F: Future<Output = ()>>(story: impl Fn(u64) -> F) {
    for seed in SEEDS {
        SimRuntime::with_seed(seed).block_on(story(seed));
    }
}

/// A cluster, who leads it, and who does not.
async fn begin(seed: u64) -> (Cluster, u16, [u16; 2]) {
    let cluster = Cluster::start(seed, 3).await;
    let leader = cluster
        .wait("a leader of all", |c| c.leader_among(&ALL))
        .await;
    let rest: Vec<u16> = ALL.into_iter().filter(|n| *n != leader).collect();
    register_all(&cluster, rest[0], 0..1).await;
    (cluster, leader, [rest[0], rest[1]])
}

#[test]
fn a_hung_leader_is_replaced_without_waiting_for_its_lease() {
    for_each_seed(async |seed| {
        let (cluster, leader, rest) = begin(seed).await;
        // Nobody is told: frames to it and from it are lost.
        cluster.isolate(leader);
        let hung = cluster.elapsed();
        register_all(&cluster, rest[0], 1..2).await;
        let took = cluster.elapsed() - hung;
        assert!(took < HUNG_AT_MOST, "seed {seed}: took {took:?}");
        // It comes back, hears of the new term, and leads nobody.
        cluster.net.heal();
        cluster
            .wait("all to follow the new leader", |c| {
                c.leader_among(&ALL).filter(|n| *n != leader)
            })
            .await;
        register_all(&cluster, leader, 2..3).await;
        cluster.shutdown().await;
    });
}

#[test]
fn a_follower_cut_from_the_leader_alone_accuses_it_in_vain() {
    for_each_seed(async |seed| {
        let (cluster, leader, rest) = begin(seed).await;
        let term = cluster.replica(leader).view().term;
        cluster.net.cut(leader, [rest[0]]);
        SimRuntime::sleep(WHILE).await;
        register_all(&cluster, leader, 1..2).await;
        cluster.net.heal();
        cluster
            .wait("all to follow the leader", |c| {
                (c.leader_among(&ALL) == Some(leader)).then_some(())
            })
            .await;
        assert_eq!(cluster.replica(leader).view().term, term, "seed {seed}");
        cluster.shutdown().await;
    });
}

#[test]
fn campaigns_and_lost_connections_spare_a_leader_from_its_first_moment() {
    for_each_seed(async |seed| {
        let (mut cluster, leader, rest) = begin(seed).await;
        cluster.lose(leader).await;
        let winner = cluster
            .replica(rest[0])
            .campaign()
            .await
            .expect("two of three elect");
        let term = cluster.replica(winner).view().term;
        let other = rest
            .into_iter()
            .find(|n| *n != winner)
            .expect("two are left");
        // It has not heard of a quorum yet.
        for _ in 0..20 {
            assert_eq!(
                cluster.replica(winner).campaign().await,
                Err(CampaignError::LeaderAlive(winner)),
                "seed {seed}"
            );
            cluster
                .replica(other)
                .peer_lost(messagebase_daemon::raft::raft_id(1, winner));
            SimRuntime::sleep(Duration::from_millis(5)).await;
        }
        register_all(&cluster, other, 1..2).await;
        assert_eq!(
            cluster.replica(other).campaign().await,
            Err(CampaignError::LeaderAlive(winner)),
            "seed {seed}"
        );
        assert_eq!(cluster.replica(winner).view().term, term, "seed {seed}");
        cluster.shutdown().await;
    });
}

#[test]
fn a_transfer_to_a_node_that_does_not_answer_is_refused_and_costs_nothing() {
    for_each_seed(async |seed| {
        let (mut cluster, leader, rest) = begin(seed).await;
        let term = cluster.replica(leader).view().term;
        cluster.lose(rest[1]).await;
        SimRuntime::sleep(WHILE).await;
        let refused = cluster
            .replica(leader)
            .transfer(rest[1])
            .await
            .expect_err("it is dead");
        assert!(
            refused.to_string().contains("does not answer"),
            "seed {seed}: {refused}"
        );
        register_all(&cluster, leader, 1..2).await;
        assert_eq!(cluster.replica(leader).view().term, term, "seed {seed}");
        cluster.shutdown().await;
    });
}

#[test]
fn when_the_heir_is_cut_off_another_one_takes_over() {
    for_each_seed(async |seed| {
        let (cluster, leader, rest) = begin(seed).await;
        // Its last heartbeats were answered a moment ago.
        cluster.isolate(rest[1]);
        let refused = cluster
            .replica(leader)
            .transfer(rest[1])
            .await
            .expect_err("it can't take over");
        assert!(
            refused.to_string().contains("did not take over"),
            "seed {seed}: {refused}"
        );
        // A leader that has begun a transfer writes nothing any more.
        register_all(&cluster, leader, 1..2).await;
        assert_eq!(
            cluster.leader_among(&[leader, rest[0]]),
            Some(rest[0]),
            "seed {seed}"
        );
        cluster.net.heal();
        cluster
            .wait("all to follow", |c| {
                (c.leader_among(&ALL) == Some(rest[0])).then_some(())
            })
            .await;
        cluster.shutdown().await;
    });
}
