//! The client as a whole against nodes that die, in one process ([`crate::fake_cluster`]).

use messagebase_config::Address;
use messagebase_protocol::json::ClosingReason;

use crate::dial::{ConnectFuture, Connector, Stream, Transport};
use crate::error::Unavailable;
use crate::fake_cluster::{Cluster, next, next_bodies};
use crate::notice::{ClientEvent, Ended, Notice};
use crate::{Client, ClientError, Options};

const PASSWORD: &str = "password-1";

fn notice<T>(pick: impl Fn(&Notice) -> Option<T>) -> impl Fn(&ClientEvent) -> Option<T> {
    move |event| match event {
        ClientEvent::Notice(notice) => pick(notice),
        _ => None,
    }
}

fn failover(event: &ClientEvent) -> Option<(u16, u16, u64)> {
    notice(|notice| match notice {
        Notice::Failover {
            lost, won, term, ..
        } => Some((*lost, *won, *term)),
        _ => None,
    })(event)
}

fn unavailable(event: &ClientEvent) -> Option<Unavailable> {
    notice(|notice| match notice {
        Notice::Unavailable { why, .. } => Some(why.clone()),
        _ => None,
    })(event)
}

fn back(event: &ClientEvent) -> Option<u16> {
    notice(|notice| match notice {
        Notice::Back { node, .. } => Some(*node),
        _ => None,
    })(event)
}

#[tokio::test]
async fn the_first_ready_node_of_the_file_is_taken() {
    let cluster = Cluster::start(3).await;
    let (client, _events) = cluster.client(false);
    assert_eq!(client.connected().await.unwrap().node, 1);
    cluster.kill(2);
    let preferring = Client::start_with(
        crate::failover::Finder {
            transport: crate::dial::Transport::Plain,
            directory: crate::dial::Directory::from_endpoints(
                client
                    .survey()
                    .await
                    .into_iter()
                    .map(|(endpoint, _)| endpoint)
                    .collect(),
            ),
        },
        Options {
            node: Some(3),
            ..Options::default()
        },
    );
    assert_eq!(preferring.0.connected().await.unwrap().node, 3);
}

#[tokio::test]
async fn a_dead_leader_is_replaced_and_the_user_told() {
    let cluster = Cluster::start(3).await;
    let (client, mut events) = cluster.client(false);
    client.login("alice", PASSWORD).await.unwrap();
    cluster.kill(1);
    client.send("bob", "after").await.unwrap();
    assert_eq!(next(&mut events, "the failover", failover).await, (1, 3, 2));
    assert_eq!(cluster.bodies(), ["after"]);
}

#[tokio::test]
async fn a_hung_node_is_left_long_before_its_answer_is_overdue() {
    for hung in [1, 2] {
        let cluster = Cluster::start(3).await;
        let health_every = std::time::Duration::from_secs(3_600);
        let (client, mut events) = cluster.client_with(Options {
            node: Some(hung),
            health_every,
            ..Options::default()
        });
        client.login("alice", PASSWORD).await.unwrap();
        cluster.hang(hung);
        client.send("bob", "after").await.unwrap();
        let (lost, won, _) = next(&mut events, "the failover", failover).await;
        assert!(lost == hung && won != hung, "{lost} was lost, {won} won");
        // A call on the connection that was left is asked again, too.
        client.inbox(0, 1).await.unwrap();
        assert_eq!(cluster.bodies(), ["after"]);
    }
}

#[tokio::test]
async fn a_node_that_is_busy_but_well_is_not_left() {
    let cluster = Cluster::start(3).await;
    let (client, mut events) = cluster.client(false);
    client.login("alice", PASSWORD).await.unwrap();
    let before = client.connected().await.unwrap();
    cluster.slow(true);
    let mut pending = client.enqueue("bob", "slowly").await.unwrap();
    let asked = cluster.statuses();
    let waited =
        tokio::time::timeout(std::time::Duration::from_millis(1_500), pending.answer()).await;
    assert!(waited.is_err(), "sends are not answered");
    assert_eq!(
        cluster.statuses(),
        asked,
        "its pings were answered: nobody else was asked"
    );
    assert_eq!(
        client.connected().await.unwrap().generation,
        before.generation
    );
    assert!(
        events.try_recv().is_err(),
        "nothing happened that a person must know"
    );
}

#[tokio::test]
async fn what_was_applied_but_not_answered_is_not_sent_twice() {
    let cluster = Cluster::start(3).await;
    let (client, _events) = cluster.client(false);
    client.login("alice", PASSWORD).await.unwrap();
    cluster.die_before_answer(1);
    let mut pending = Vec::new();
    for body in ["one", "two", "three"] {
        pending.push(client.enqueue("bob", body).await.unwrap());
    }
    let first = pending[0].answer().await.unwrap();
    assert!(
        first.duplicate,
        "the second attempt must find the first one's key"
    );
    for pending in &mut pending[1..] {
        pending.answer().await.unwrap();
    }
    assert_eq!(cluster.bodies(), ["one", "two", "three"]);
}

#[tokio::test]
async fn without_a_quorum_the_outbox_waits_and_is_delivered_once_in_order() {
    let cluster = Cluster::start(3).await;
    let (client, mut events) = cluster.client(false);
    client.login("alice", PASSWORD).await.unwrap();
    cluster.kill(1);
    cluster.kill(2);
    let mut pending = Vec::new();
    for body in ["one", "two"] {
        pending.push(client.enqueue("bob", body).await.unwrap());
    }
    assert_eq!(
        next(&mut events, "the verdict", unavailable).await,
        Unavailable::NoQuorum {
            alive: 1,
            needed: 2
        }
    );
    cluster.boot(2).await;
    let node = next(&mut events, "the way back", back).await;
    assert!([2, 3].contains(&node));
    for pending in &mut pending {
        pending.answer().await.unwrap();
    }
    assert_eq!(cluster.bodies(), ["one", "two"]);
}

#[tokio::test]
async fn a_send_whose_patience_ends_says_what_is_wrong_and_takes_the_message_back() {
    let cluster = Cluster::start(3).await;
    let (client, mut events) = cluster.client(false);
    client.login("alice", PASSWORD).await.unwrap();
    for node in 1..=3 {
        cluster.kill(node);
    }
    let refused = client.send("bob", "never").await;
    assert!(
        matches!(
            refused,
            Err(ClientError::Unreachable {
                why: Unavailable::NoNode { .. },
                unknown: true
            })
        ),
        "{refused:?}"
    );
    for node in 1..=3 {
        cluster.boot(node).await;
    }
    next(&mut events, "the way back", back).await;
    client.send("bob", "later").await.unwrap();
    assert_eq!(cluster.bodies(), ["later"]);
}

#[tokio::test]
async fn messages_come_once_and_in_order_through_a_failover() {
    let cluster = Cluster::start(3).await;
    for body in ["1", "2", "3"] {
        cluster.deliver("bob", "alice", body);
    }
    let (client, mut events) = cluster.client(true);
    client.login("alice", PASSWORD).await.unwrap();
    assert_eq!(next_bodies(&mut events, 3).await, ["1", "2", "3"]);
    cluster.deliver("bob", "alice", "4");
    assert_eq!(next_bodies(&mut events, 1).await, ["4"]);
    cluster.kill(1);
    for body in ["5", "6", "7"] {
        cluster.deliver("bob", "alice", body);
    }
    assert_eq!(next_bodies(&mut events, 3).await, ["5", "6", "7"]);
    cluster.deliver("bob", "alice", "8");
    assert_eq!(next_bodies(&mut events, 1).await, ["8"]);
}

#[tokio::test]
async fn only_what_was_shown_is_acknowledged() {
    let cluster = Cluster::start(1).await;
    let first = cluster.deliver("bob", "alice", "1");
    let second = cluster.deliver("bob", "alice", "2");
    let (client, mut events) = cluster.client(true);
    client.login("alice", PASSWORD).await.unwrap();
    next_bodies(&mut events, 2).await;
    assert_eq!(
        cluster.undelivered(),
        2,
        "nothing is acknowledged by itself"
    );
    client.acknowledge(first).await.unwrap();
    client.acknowledge(second + 100).await.unwrap();
    // Asked on the same connection afterwards, so the acknowledgement has been made when it is answered.
    let empty = async {
        while !client.inbox(0, 10).await.unwrap().messages.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), empty)
        .await
        .expect("an acknowledged inbox");
    assert_eq!(cluster.undelivered(), 0);
}

#[tokio::test]
async fn a_resync_goes_on_quietly_where_it_was() {
    let cluster = Cluster::start(3).await;
    let (client, mut events) = cluster.client(true);
    client.login("alice", PASSWORD).await.unwrap();
    cluster.deliver("bob", "alice", "1");
    assert_eq!(next_bodies(&mut events, 1).await, ["1"]);
    let before = client.connected().await.unwrap();
    cluster.close_sessions(ClosingReason::Resync);
    cluster.deliver("bob", "alice", "2");
    let event = events.recv().await.unwrap();
    assert!(
        matches!(&event, ClientEvent::Message(m) if m.body == "2"),
        "no news, just the message: {event:?}"
    );
    let after = client.connected().await.unwrap();
    assert!(after.node == before.node && after.generation > before.generation);
}

#[tokio::test]
async fn a_locked_account_ends_the_session() {
    let cluster = Cluster::start(1).await;
    let (client, mut events) = cluster.client(true);
    client.login("alice", PASSWORD).await.unwrap();
    cluster.close_sessions(ClosingReason::Locked);
    let why = next(
        &mut events,
        "the end",
        notice(|notice| match notice {
            Notice::Ended { why } => Some(*why),
            _ => None,
        }),
    );
    assert_eq!(why.await, Ended::Closed(ClosingReason::Locked));
    assert!(matches!(
        client.send("bob", "x").await,
        Err(ClientError::NotLoggedIn)
    ));
}

#[tokio::test]
async fn another_cluster_gets_neither_token_nor_outbox_unasked() {
    let cluster = Cluster::start(1).await;
    let (client, mut events) = cluster.client(false);
    client.login("alice", PASSWORD).await.unwrap();
    cluster.kill(1);
    let mut pending = client.enqueue("bob", "for the old cluster").await.unwrap();
    next(&mut events, "the loss", unavailable).await;
    cluster.restore();
    cluster.boot(1).await;
    let held = next(
        &mut events,
        "the question",
        notice(|notice| match notice {
            Notice::NewCluster { held } => Some(*held),
            _ => None,
        }),
    );
    assert_eq!(held.await, 1);
    let sending = next(
        &mut events,
        "the way back",
        notice(|notice| match notice {
            Notice::Back { waiting, .. } => Some(*waiting),
            _ => None,
        }),
    );
    assert_eq!(sending.await, 0, "nothing is said to be sent that is not");
    assert_eq!(client.user(), None);
    client.login("alice", PASSWORD).await.unwrap();
    client.inbox(0, 1).await.unwrap();
    assert_eq!(
        cluster.bodies(),
        Vec::<String>::new(),
        "held until the user agrees"
    );
    client.settle_outbox(true).await.unwrap();
    pending.answer().await.unwrap();
    assert_eq!(cluster.bodies(), ["for the old cluster"]);
}

#[tokio::test]
async fn a_token_is_resumed_by_another_client_and_a_bad_one_refused() {
    let cluster = Cluster::start(3).await;
    let (first, _events) = cluster.client(false);
    let token = first.login("alice", PASSWORD).await.unwrap().token;
    let (second, _events) = cluster.client(false);
    second.resume("alice", &token, Some("c1")).await.unwrap();
    second.send("bob", "hi").await.unwrap();
    let (third, mut events) = cluster.client(false);
    assert!(matches!(
        third.resume("alice", "wrong", Some("c1")).await,
        Err(ClientError::NotLoggedIn)
    ));
    assert!(matches!(
        third.resume("alice", &token, Some("c0")).await,
        Err(ClientError::NotLoggedIn)
    ));
    assert!(
        events.try_recv().is_err(),
        "the answer says it, no news needed"
    );
    second.logout().await.unwrap();
    assert_eq!(second.user(), None);
    assert!(matches!(
        second.send("bob", "x").await,
        Err(ClientError::NotLoggedIn)
    ));
}

/// A network of the test's own, which knows how often it was asked for a stream.
#[derive(Default)]
struct OwnNetwork(std::sync::atomic::AtomicUsize);

impl Connector for OwnNetwork {
    fn connect<'a>(&'a self, address: &'a Address) -> ConnectFuture<'a> {
        Box::pin(async move {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            let mut tcp =
                tokio::net::TcpStream::connect((address.host.as_str(), address.port)).await?;
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut theirs, &mut tcp).await });
            Ok(Box::new(ours) as Box<dyn Stream>)
        })
    }
}

#[tokio::test]
async fn the_client_runs_over_a_network_of_the_callers_own() {
    let cluster = Cluster::start(3).await;
    let network = std::sync::Arc::new(OwnNetwork::default());
    let transport = Transport::Custom(network.clone());
    let (client, _events) = cluster.client_over(transport, Options::default());
    client.login("alice", PASSWORD).await.unwrap();
    cluster.kill(1);
    let sent = client.send_keyed("bob", "hello", "key-1").await.unwrap();
    let again = client.send_keyed("bob", "hello", "key-1").await.unwrap();
    assert_eq!((again.id, again.duplicate), (sent.id, true));
    assert!(network.0.load(std::sync::atomic::Ordering::Relaxed) > 3);
    assert!(client.send_keyed("bob", "hello", "").await.is_err());
}
