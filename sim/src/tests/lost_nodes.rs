//! A dead leader is replaced fast; a node that slept too long catches up by snapshot; a node that lost its disk comes
//! back under a new id.

use std::time::Duration;

use messagebase_daemon::raft::api::CampaignError;
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use super::{ALL, register_all};
use crate::cluster::Cluster;

async fn converge(cluster: &Cluster) {
    cluster
        .wait("all to have applied the same", |c| {
            let applied: Vec<_> = c.nodes.values().map(|n| n.replica.view().applied).collect();
            applied
                .iter()
                .all(|a| a.is_some() && *a == applied[0])
                .then_some(())
        })
        .await;
    let digests: Vec<String> = cluster
        .nodes
        .values()
        .map(|n| format!("{:?}", n.digest()))
        .collect();
    assert!(
        digests.iter().all(|d| *d == digests[0]),
        "the nodes differ: {digests:#?}"
    );
}

#[test]
fn a_campaign_spares_a_living_leader_and_replaces_a_dead_one_at_once() {
    SimRuntime::with_seed(11).block_on(async {
        let mut cluster = Cluster::start(11, 3).await;
        let leader = cluster
            .wait("a leader of all", |c| c.leader_among(&ALL))
            .await;
        let rest: Vec<u16> = ALL.into_iter().filter(|n| *n != leader).collect();
        register_all(&cluster, rest[0], 0..1).await;
        assert_eq!(
            cluster.replica(rest[0]).campaign().await,
            Err(CampaignError::LeaderAlive(leader))
        );

        cluster.lose(leader).await;
        let before = cluster.elapsed();
        let winner = cluster
            .replica(rest[0])
            .campaign()
            .await
            .expect("two of three elect");
        let took = cluster.elapsed() - before;
        assert!(rest.contains(&winner));
        // Far less than the lease: the survivors agreed to drop it.
        assert!(took < Duration::from_millis(200), "took {took:?}");
        register_all(&cluster, rest[1], 1..2).await;
        cluster.shutdown().await;
    });
}

#[test]
fn a_transfer_makes_the_chosen_node_lead() {
    SimRuntime::with_seed(12).block_on(async {
        let cluster = Cluster::start(12, 3).await;
        let leader = cluster
            .wait("a leader of all", |c| c.leader_among(&ALL))
            .await;
        let next = ALL.into_iter().find(|n| *n != leader).expect("two follow");
        register_all(&cluster, next, 0..3).await;
        assert_eq!(cluster.replica(leader).transfer(next).await, Ok(()));
        cluster
            .wait("all to follow the new leader", |c| {
                (c.leader_among(&ALL) == Some(next)).then_some(())
            })
            .await;
        register_all(&cluster, leader, 3..6).await;
        cluster.shutdown().await;
    });
}

#[test]
fn a_node_that_slept_too_long_catches_up_by_snapshot() {
    SimRuntime::with_seed(13).block_on(async {
        let cluster = Cluster::start_with(13, 3, 32 * 1024).await;
        let leader = cluster
            .wait("a leader of all", |c| c.leader_among(&ALL))
            .await;
        let sleeper = ALL.into_iter().find(|n| *n != leader).expect("two follow");
        register_all(&cluster, leader, 0..10).await;
        let had = cluster
            .replica(sleeper)
            .view()
            .applied
            .expect("it has applied something");
        cluster.isolate(sleeper);
        register_all(&cluster, leader, 10..600).await;
        cluster
            .wait("the log to forget what the sleeper needs", |c| {
                (c.nodes[&leader].store.log_begin() > had + 1).then_some(())
            })
            .await;
        cluster.net.heal();
        converge(&cluster).await;
        let received: Vec<_> = std::fs::read_dir(cluster.nodes[&sleeper].store.snapshot_dir())
            .expect("the directory is readable")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("a plain name")
            })
            .filter(|name| name.starts_with("receiving-"))
            .collect();
        assert!(received.is_empty(), "left behind: {received:?}");
        cluster.shutdown().await;
    });
}

#[test]
fn a_node_that_lost_its_disk_comes_back_under_a_new_id_and_votes() {
    SimRuntime::with_seed(14).block_on(async {
        let mut cluster = Cluster::start(14, 3).await;
        let leader = cluster
            .wait("a leader of all", |c| c.leader_among(&ALL))
            .await;
        let lost = ALL.into_iter().find(|n| *n != leader).expect("two follow");
        register_all(&cluster, leader, 0..20).await;
        cluster.lose(lost).await;
        let id = cluster
            .replica(leader)
            .replace(lost)
            .await
            .expect("the majority replaces it");
        cluster.start_blank(id).await;
        cluster
            .wait("the new node to vote", |c| {
                let members = c.replica(leader).members();
                members
                    .iter()
                    .any(|m| m.raft_id == id && m.voter)
                    .then_some(())
            })
            .await;
        assert_eq!(cluster.replica(leader).members().len(), 3);
        register_all(&cluster, lost, 20..30).await;
        converge(&cluster).await;
        cluster.shutdown().await;
    });
}

#[test]
fn a_replacement_whose_leader_dies_half_way_is_finished_by_the_next_one() {
    const FIVE: [u16; 5] = [1, 2, 3, 4, 5];
    SimRuntime::with_seed(15).block_on(async {
        let mut cluster = Cluster::start(15, 5).await;
        let leader = cluster
            .wait("a leader of all", |c| c.leader_among(&FIVE))
            .await;
        let lost = FIVE
            .into_iter()
            .find(|n| *n != leader)
            .expect("four follow");
        let rest: Vec<u16> = FIVE
            .into_iter()
            .filter(|n| ![leader, lost].contains(n))
            .collect();
        register_all(&cluster, leader, 0..5).await;
        cluster.lose(lost).await;
        let replica = cluster.replica(leader).clone();
        let replacing = SimRuntime::spawn(async move { replica.replace(lost).await });
        // Old and new id at once: the change is half made.
        cluster
            .wait("one other node to know of the change", |c| {
                rest.iter()
                    .any(|n| c.replica(*n).members().len() == 6)
                    .then_some(())
            })
            .await;
        cluster.lose(leader).await;
        assert!(
            replacing.await.expect("the task ends").is_err(),
            "its leader died too late for this test"
        );

        cluster
            .wait("a new leader", |c| c.leader_among(&rest))
            .await;
        cluster
            .wait("the change to be finished", |c| {
                rest.iter()
                    .all(|n| c.replica(*n).members().len() == 5)
                    .then_some(())
            })
            .await;
        register_all(&cluster, rest[0], 5..10).await;
        cluster.shutdown().await;
    });
}

#[test]
fn a_replacement_gives_out_no_id_twice_and_makes_no_voter_of_a_learner() {
    SimRuntime::with_seed(16).block_on(async {
        let mut cluster = Cluster::start(16, 3).await;
        let leader = cluster
            .wait("a leader of all", |c| c.leader_among(&ALL))
            .await;
        let lost = ALL.into_iter().find(|n| *n != leader).expect("two follow");
        register_all(&cluster, leader, 0..1).await;
        cluster.lose(lost).await;
        let replica = cluster.replica(leader).clone();
        let first = replica
            .replace(lost)
            .await
            .expect("the majority replaces it");
        // Nobody took the first id, as far as this leader can tell.
        let second = replica.replace(lost).await.expect("and again");
        assert!(second > first);
        let lives: Vec<_> = replica
            .members()
            .into_iter()
            .filter(|m| m.node.node == lost)
            .collect();
        assert_eq!(
            lives
                .iter()
                .map(|m| (m.raft_id, m.node.promote))
                .collect::<Vec<_>>(),
            [(second, true)]
        );

        let added = replica
            .add_learner(4, "node-4".into(), "node-4".into(), false)
            .await
            .expect("it is added");
        let replaced = replica.replace(4).await.expect("it is replaced");
        assert!(replaced > added);
        let lives: Vec<_> = replica
            .members()
            .into_iter()
            .filter(|m| m.node.node == 4)
            .collect();
        assert_eq!(
            lives
                .iter()
                .map(|m| (m.raft_id, m.node.promote))
                .collect::<Vec<_>>(),
            [(replaced, false)]
        );
        cluster.shutdown().await;
    });
}
