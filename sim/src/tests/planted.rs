//! Defects planted on purpose are found by simulation alone, by the checker or an invariant; without them the same seeds
//! are green. The acknowledgement before the disk needs two slow disks and the death of all nodes at the right moment,
//! which is a scenario of its own.

#![allow(
    clippy::print_stdout,
    reason = "which seed found it is shown with --nocapture"
)]

use std::time::Duration;

use messagebase_checker::{Answer, Call, Recorder, RecordingConnection, Reply, check};
use messagebase_daemon::change::{Change, Secrets};
use messagebase_daemon::raft::api::{Draft, Verdict};
use messagebase_daemon::state::read;
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use super::ALL;
use crate::cluster::{Cluster, SimNode};
use crate::run::run;
use crate::workload::{Clients, Defect};

/// Seeds that are tried for each defect; the first one that finds it is printed.
const SEEDS: u64 = 40;
/// A disk that ends no transaction before everything is over.
const STALL: Duration = Duration::from_secs(60);
/// Two of three elect in less, in virtual time.
const ELECTED_MOST: Duration = Duration::from_secs(10);
/// Longer than any transaction that began before its disk stopped, in virtual time.
const SETTLED: Duration = Duration::from_millis(200);

/// Seeds until one breaks one of `promises`; what else breaks with it is no proof.
fn find(defect: Defect, promises: &[&str]) {
    for seed in 0..SEEDS {
        let found = run(seed, &mut Clients::of_defective(defect));
        let broken = found
            .err()
            .map(|failure| failure.broken)
            .unwrap_or_default();
        if let Some(broken) = broken
            .iter()
            .find(|b| promises.iter().any(|promise| b.starts_with(promise)))
        {
            println!("{defect:?} is found by seed {seed}: {broken}");
            run(seed, &mut Clients::default())
                .unwrap_or_else(|failure| panic!("without the defect: {failure}"));
            return;
        }
    }
    panic!("{defect:?} is not found by {SEEDS} seeds");
}

#[test]
fn a_key_that_is_not_unique_is_found() {
    find(Defect::KeyUniqueness, &["keys", "exactly once"]);
}

/// Asks this node to register anna, and records the answer.
async fn register_anna(node: &SimNode, connection: &mut RecordingConnection) {
    let (user, password, key) = ("anna".to_owned(), "password".to_owned(), "k".to_owned());
    let secrets = Secrets {
        password_hash: Some("$argon2id$x".into()),
        token_hash: None,
    };
    let body = Change::Register {
        name: user.clone(),
        key: key.clone(),
        by_operator: false,
    };
    let open = connection.invoke(
        None,
        Call::Register {
            user: user.clone(),
            password,
            key,
        },
    );
    let draft = Draft {
        actor: None,
        body,
        secrets: Some(secrets),
    };
    let replica = node.replica.clone();
    let verdicts = node
        .lifetime
        .run(async move { replica.propose(vec![draft]).await })
        .await;
    let answer = match verdicts.as_deref() {
        Some([Verdict::Applied { .. }]) => Answer::Ok(Reply::Registered { user }),
        _ => Answer::refused("no_quorum", "unknown"),
    };
    connection.complete(open, answer);
}

/// Ends all nodes while two disks stand still, and starts those two again: what the checker says then.
async fn all_die_with_slow_disks(seed: u64, acknowledge_early: bool) -> Vec<String> {
    let recorder = Recorder::new();
    let mut connection = recorder.client().connect(1);
    let mut cluster = Cluster::start(seed, 3).await;
    if acknowledge_early {
        ALL.iter()
            .for_each(|node| cluster.nodes[node].mood.acknowledge_early());
    }
    let leader = cluster
        .wait("a leader of all", |c| c.leader_among(&ALL))
        .await;
    let others: Vec<u16> = ALL.into_iter().filter(|node| *node != leader).collect();
    let stalled = cluster.elapsed() + STALL;
    others
        .iter()
        .for_each(|node| cluster.nodes[node].mood.stall_until(stalled));
    // What was under way when the disks stopped is done.
    SimRuntime::sleep(SETTLED).await;

    register_anna(&cluster.nodes[&leader], &mut connection).await;
    ALL.into_iter().for_each(|node| cluster.kill(node, false));
    cluster.bury();
    for node in &others {
        assert!(
            cluster.restart(*node).await,
            "node {node} starts from its files"
        );
    }
    let second = match cluster
        .try_wait("a leader of the two", ELECTED_MOST, |c| {
            c.leader_among(&others)
        })
        .await
    {
        Ok(second) => second,
        // An invariant was quicker than the checker.
        Err(why) => return vec![why],
    };
    let node = &cluster.nodes[&second];
    let (replica, store) = (node.replica.clone(), node.store.clone());
    let call = Call::Users {
        pattern: None,
        after: None,
        limit: None,
        linear: true,
    };
    let open = connection.invoke(Some("somebody"), call);
    let names = node.lifetime.run(async move {
        replica.linear().await.expect("two of three read");
        let page = store
            .readers()
            .with(|conn| read::users_page(conn, None, None, 100))
            .expect("the file is readable");
        page.items.into_iter().map(|row| row.name).collect()
    });
    let names = names.await.expect("the node lives");
    connection.complete(open, Answer::Ok(Reply::Users { names, more: false }));
    cluster.shutdown().await;
    check(&recorder.finish())
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn an_acknowledgement_before_the_disk_is_found() {
    let run = |early| SimRuntime::with_seed(5).block_on(all_die_with_slow_disks(5, early));
    let found = run(true);
    let lost = |why: &String| {
        why.contains("leads in") && why.contains("without LogId") || why.contains("misses anna")
    };
    assert!(found.iter().any(lost), "{found:?}");
    println!("sync-before-ack is found: {}", found[0]);
    assert_eq!(run(false), Vec::<String>::new(), "without the defect");
}

#[test]
fn a_stale_read_is_found() {
    find(Defect::StaleRead, &["linear reads"]);
}
