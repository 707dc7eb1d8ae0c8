//! Daemons as child processes in a [`Place`], with connections to them and, if wanted, a breakable network between.

use std::collections::HashMap;
use std::ops::Deref;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::TestClient;
use crate::connection::Connection;
use crate::node::Node;
use crate::place::{Place, PlaceBuilder, Programs};
use crate::proxy::{LinkState, Proxy};
use crate::rows::{Rows, TABLES_THAT_MUST_AGREE};
use crate::wait::{LONG, wait_for};

/// A status that takes longer counts as none: the node hangs or is not ready to answer.
const STATUS_WITHIN: Duration = Duration::from_millis(1_500);

/// What a [`Cluster`] shall be like.
#[derive(Debug)]
pub struct ClusterBuilder {
    place: PlaceBuilder,
    proxied: bool,
    environment: Vec<(String, String)>,
}

impl ClusterBuilder {
    /// A variable in the environment of every daemon.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A line of TOML for the top of the configuration.
    #[must_use]
    pub fn setting(mut self, line: &str) -> Self {
        self.place = self.place.setting(line);
        self
    }

    /// A key of `[limits]`.
    #[must_use]
    pub fn limit(mut self, key: &str, value: u64) -> Self {
        self.place = self.place.limit(key, value);
        self
    }

    /// Puts a [`Proxy`] on every link between nodes, so that the network can be cut.
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Makes the place, starts every node and waits until each can serve.
    #[track_caller]
    pub fn start(self) -> Cluster {
        let cluster = self.make();
        cluster.start_all();
        cluster.wait_ready(&cluster.numbers());
        cluster
    }

    /// Makes the place and starts nothing.
    #[track_caller]
    pub fn make(self) -> Cluster {
        let ClusterBuilder {
            place: builder,
            proxied,
            environment,
        } = self;
        let toml = |place: &Place, links: &Links, from: u16| builder_toml(place, links, from);
        let place = builder.make();
        let numbers = place.numbers();
        let mut links = Links::new();
        if proxied {
            for from in &numbers {
                for to in numbers.iter().filter(|to| *to != from) {
                    links.insert((*from, *to), Proxy::to(place.ports(*to).peer));
                }
            }
        }
        let node = |n: u16| {
            let config = if proxied {
                place.write(
                    &format!("seen-from-node-{n}.toml"),
                    &toml(&place, &links, n),
                )
            } else {
                place.config()
            };
            let mbd = place.mbd(&[]).program().to_owned();
            let directory = place.path().to_owned();
            Node::new(
                n,
                place.ports(n),
                mbd,
                config,
                directory,
                place.data(n),
                environment.clone(),
            )
        };
        let nodes = numbers.iter().map(|n| node(*n)).collect();
        Cluster {
            nodes,
            links,
            place,
        }
    }
}

type Links = HashMap<(u16, u16), Proxy>;

/// The configuration as one node sees it: the other nodes' peer addresses are those of the proxies in between.
fn builder_toml(place: &Place, links: &Links, from: u16) -> String {
    let mut text = place.read("messagebase.toml");
    for ((_, to), proxy) in links.iter().filter(|((source, _), _)| *source == from) {
        let real = format!("peer = \"127.0.0.1:{}\"", place.ports(*to).peer);
        text = text.replace(&real, &format!("peer = \"127.0.0.1:{}\"", proxy.port()));
    }
    text
}

/// The daemons. Killed when dropped; a failed test shows the end of each log.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    links: Links,
    place: Place,
}

impl Deref for Cluster {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Cluster {
    /// Begins to describe a cluster.
    pub fn with(programs: Programs, nodes: u16) -> ClusterBuilder {
        ClusterBuilder {
            place: Place::with(programs, nodes),
            proxied: false,
            environment: Vec::new(),
        }
    }

    /// A cluster of `nodes` nodes that is ready to serve.
    #[track_caller]
    pub fn start(programs: Programs, nodes: u16) -> Cluster {
        Cluster::with(programs, nodes).start()
    }

    /// A node by its number.
    #[track_caller]
    pub fn node(&self, number: u16) -> &Node {
        self.nodes
            .iter()
            .find(|node| node.number() == number)
            .unwrap_or_else(|| panic!("there is no node {number}"))
    }

    /// Every node.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Starts every node.
    #[track_caller]
    pub fn start_all(&self) {
        self.nodes.iter().for_each(Node::start);
    }

    /// SIGKILL to every node, as close together as can be.
    pub fn kill_all(&self) {
        self.nodes.iter().for_each(Node::kill);
    }

    /// All numbers but these.
    pub fn others(&self, without: &[u16]) -> Vec<u16> {
        self.numbers()
            .into_iter()
            .filter(|n| !without.contains(n))
            .collect()
    }

    /// Waits for a condition; says on failure what every node reports.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        let mut looked = 0_u32;
        wait_for(what, LONG, || {
            let found = probe();
            looked += 1;
            // Often enough to be among the last words of a failed test, seldom enough to cost nothing.
            if found.is_none() && looked.is_multiple_of(250) {
                self.describe(what);
            }
            found
        })
    }

    fn describe(&self, what: &str) {
        eprintln!("still waiting for {what}:");
        for n in self.numbers() {
            let shown = self
                .status(n)
                .map_or_else(|| "no answer".to_owned(), |status| status.to_string());
            eprintln!("  node {n}: {shown}");
        }
    }

    /// SIGKILL to these nodes, as close together as can be.
    #[track_caller]
    pub fn kill_these(&self, numbers: &[u16]) {
        numbers.iter().for_each(|n| self.node(*n).kill());
    }

    /// What a node says of itself, or `None` if it does not answer soon.
    pub fn status(&self, number: u16) -> Option<Value> {
        if !self.node(number).is_running() {
            return None;
        }
        let mut connection = Connection::plain(self.ports(number).plain).ok()?;
        connection.say(&json!({"id": 1, "op": "status"}).to_string());
        let crate::Heard::Line(line) = connection.hear(STATUS_WITHIN) else {
            return None;
        };
        serde_json::from_str::<Value>(&line)
            .ok()
            .map(|value| value["ok"].clone())
    }

    /// Waits until each of these nodes can serve a linear read.
    #[track_caller]
    pub fn wait_ready(&self, numbers: &[u16]) {
        for n in numbers {
            self.wait(&format!("node {n} to be ready"), || {
                assert!(self.node(*n).is_running(), "node {n} has ended");
                (self.status(*n)?["ready"] == true).then_some(())
            });
        }
    }

    /// Waits until one of these nodes leads and is ready, and returns it.
    #[track_caller]
    pub fn leader_among(&self, numbers: &[u16]) -> u16 {
        self.wait(&format!("a leader among {numbers:?}"), || {
            numbers.iter().copied().find(|n| {
                self.status(*n)
                    .is_some_and(|status| status["role"] == "leader" && status["ready"] == true)
            })
        })
    }

    /// Waits for a leader among the running nodes.
    #[track_caller]
    pub fn leader(&self) -> u16 {
        let running: Vec<u16> = self
            .nodes
            .iter()
            .filter(|node| node.is_running())
            .map(Node::number)
            .collect();
        self.leader_among(&running)
    }

    /// Hands leadership to a node, as an operator would.
    #[track_caller]
    pub fn lead(&self, number: u16) {
        if self.leader() != number {
            self.mbctl_until_served(&["transfer", &number.to_string()])
                .expect_code(0);
            self.leader_among(&[number]);
        }
    }

    /// A JSON client on a node's `plain` port.
    #[track_caller]
    pub fn client(&self, number: u16) -> TestClient {
        let port = self.ports(number).plain;
        TestClient::plain(port)
            .unwrap_or_else(|e| panic!("failed to connect to node {number}: {e}"))
    }

    /// A JSON client over TLS.
    #[track_caller]
    pub fn tls_client(&self, number: u16) -> TestClient {
        let connection = Connection::tls(self.ports(number).client, &self.pki(), "127.0.0.1");
        TestClient::on(
            connection
                .unwrap_or_else(|e| panic!("failed to connect to node {number} over TLS: {e}")),
        )
    }

    /// Raw lines on a node's `plain` port.
    #[track_caller]
    pub fn pipe(&self, number: u16) -> Connection {
        let port = self.ports(number).plain;
        Connection::plain(port)
            .unwrap_or_else(|e| panic!("failed to connect to node {number}: {e}"))
    }

    /// The rows of a table or view on a node's file, read beside the running node.
    #[track_caller]
    pub fn rows(&self, number: u16, table: &str) -> Rows {
        Rows::read(&self.database(number), &format!("SELECT * FROM {table}"))
    }

    /// Waits until these nodes have applied the same and their files hold the same `users`, `messages` and `sessions`.
    #[track_caller]
    pub fn wait_same(&self, numbers: &[u16]) {
        let mut difference = String::new();
        let mut looked = 0;
        self.wait(&format!("the same rows on nodes {numbers:?}"), || {
            looked += 1;
            let found = self.difference(numbers);
            if looked % 500 == 0 {
                eprintln!("still different: {}", found.clone().unwrap_or_default());
            }
            let same = found.is_none();
            difference = found.unwrap_or_default();
            same.then_some(())
        });
    }

    /// The first table in which two of these nodes differ.
    fn difference(&self, numbers: &[u16]) -> Option<String> {
        let (first, others) = numbers.split_first()?;
        let applied =
            |n: u16| Rows::read(&self.database(n), "SELECT applied_index FROM node_state");
        for other in others {
            let (here, there) = (applied(*first), applied(*other));
            if here != there {
                return Some(format!(
                    "node {first} applied {here:?}, node {other} {there:?}"
                ));
            }
            for table in TABLES_THAT_MUST_AGREE {
                let (here, there) = (self.rows(*first, table), self.rows(*other, table));
                if here != there {
                    return Some(format!("{table}: node {first} {}", here.difference(&there)));
                }
            }
        }
        None
    }

    /// Cuts every link between the two groups, in both directions: bytes are held back, as by a network that is gone.
    #[track_caller]
    pub fn cut(&self, group: &[u16], others: &[u16]) {
        self.links_between(group, others).for_each(Proxy::cut);
    }

    /// Cuts what `from` dials to `to`; what comes the other way stays.
    #[track_caller]
    pub fn cut_dialed(&self, from: u16, to: u16) {
        self.links
            .get(&(from, to))
            .unwrap_or_else(|| panic!("no proxy from node {from} to node {to}"))
            .cut();
    }

    /// Ends every connection between the two groups; new ones can be made at once.
    #[track_caller]
    pub fn reset(&self, group: &[u16], others: &[u16]) {
        self.links_between(group, others).for_each(Proxy::sever);
    }

    /// Mends every link.
    pub fn heal(&self) {
        self.links.values().for_each(Proxy::heal);
    }

    /// Delays every byte between the two groups.
    #[track_caller]
    pub fn delay(&self, group: &[u16], others: &[u16], by: Duration) {
        self.links_between(group, others)
            .for_each(|proxy| proxy.delay(by));
    }

    /// Sets the link that `from` dials `to` over.
    #[track_caller]
    pub fn set_link(&self, from: u16, to: u16, link_state: LinkState) {
        let link = self.links.get(&(from, to));
        link.unwrap_or_else(|| panic!("this cluster has no proxy from node {from} to node {to}"))
            .set(link_state);
    }

    /// Resets what is open between the two groups; new connections are accepted.
    #[track_caller]
    pub fn sever(&self, group: &[u16], others: &[u16]) {
        self.links_between(group, others).for_each(Proxy::sever);
    }

    #[track_caller]
    fn links_between<'a>(
        &'a self,
        group: &'a [u16],
        others: &'a [u16],
    ) -> impl Iterator<Item = &'a Proxy> {
        assert!(
            !self.links.is_empty(),
            "this cluster was not made with `proxied`"
        );
        let crosses = |from: &u16, to: &u16| group.contains(from) && others.contains(to);
        self.links
            .iter()
            .filter(move |((a, b), _)| crosses(a, b) || crosses(b, a))
            .map(|(_, proxy)| proxy)
    }
}
