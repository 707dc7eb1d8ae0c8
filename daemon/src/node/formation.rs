//! How a node comes by its identity. openraft permits `initialize` on every node, so a naive daemon would found a
//! second cluster after a lost disk. A cluster forms only when EVERY configured node answers and all are blank;
//! from then on a blank node waits for `mbctl member replace`.
//!
//! The node with the lowest number drives. It makes the cluster's id and stores it before anybody else hears of it;
//! each other founder stores it (with generation 1) before it answers; then the driver initializes Raft. A crash in
//! between leaves nodes that hold an id and an empty log: the driver takes up that id again, so that a second one
//! can't arise. A founder never votes before its id is on its disk.
//!
//! The decision is the pure [`decide`]; [`drive`] asks and acts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::peer::{PeerReply, PeerRequest, ProbeReply, Purpose};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::Shared;
use crate::raft::api::Target;
use crate::raft::raft_id;
use crate::store::Identity;

/// How often the others are asked while waiting.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long one question may take.
const ASK_TIMEOUT: Duration = Duration::from_millis(900);
/// How often a waiting node says for whom it waits.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// A node's first generation; grows when it is replaced after losing its disk.
pub const FIRST_GENERATION: u64 = 1;

/// What this node is as formation sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    /// Its number.
    pub node: u16,
    /// The nodes of its configuration file, sorted.
    pub configured: Vec<u16>,
    /// The cluster it took the identity of, if it did.
    pub cluster_id: Option<String>,
    /// Whether it took that identity as a founder; otherwise a leader gave it one (`member replace`, `member add`).
    pub founder: bool,
    /// Whether its log holds anything.
    pub has_log: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask again later; why, for the log and `mbctl status`.
    Wait(String),
    /// As the driver: store this identity (`None`: make a new one), have the others take it, initialize Raft.
    Form(Option<String>),
    /// Raft has a log here or soon will: nothing to form.
    Member,
}

/// Decides from what the others answered; `None` stands for no answer.
pub fn decide(me: &Me, others: &BTreeMap<u16, Option<ProbeReply>>) -> Step {
    if me.has_log || (me.cluster_id.is_some() && !me.founder) {
        return Step::Member;
    }
    let formed: Vec<u16> = others
        .iter()
        .filter(|(_, r)| r.as_ref().is_some_and(|r| r.has_log))
        .map(|(n, _)| *n)
        .collect();
    let drives = me.configured.first() == Some(&me.node);
    if me.cluster_id.is_some() && !drives {
        // The driver made us a founder; its log is on the way.
        return Step::Member;
    }
    if let Some(found) = formed.first() {
        return Step::Wait(format!(
            "node {found} belongs to a cluster and this node has no data of it; \
             if its disk was lost, run: mbctl member replace {}, and if it is no member: mbctl member add {}",
            me.node, me.node
        ));
    }
    let silent: Vec<u16> = others
        .iter()
        .filter(|(_, r)| r.is_none())
        .map(|(n, _)| *n)
        .collect();
    if !silent.is_empty() {
        return Step::Wait(format!(
            "waiting for {} to answer: a new cluster forms once every configured node does (if this node lost its \
             disk, run: mbctl member replace {})",
            name_nodes(&silent),
            me.node
        ));
    }
    let answers = || others.values().flatten();
    if let Some(other) = answers().find(|r| r.configured != me.configured) {
        return Step::Wait(format!(
            "node {} is configured with {}, this node with {}: make the files alike",
            other.node,
            name_nodes(&other.configured),
            name_nodes(&me.configured)
        ));
    }
    let mut ids: Vec<&String> = answers()
        .filter_map(|r| r.cluster_id.as_ref())
        .chain(&me.cluster_id)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() > 1 {
        return Step::Wait(
            "the nodes hold identities of different clusters: empty the data directories of all"
                .into(),
        );
    }
    if !drives {
        return Step::Wait(format!(
            "waiting for node {} to form the cluster",
            me.configured.first().copied().unwrap_or(0)
        ));
    }
    Step::Form(ids.first().map(|id| (*id).clone()))
}

fn name_nodes(nodes: &[u16]) -> String {
    let list: Vec<String> = nodes.iter().map(u16::to_string).collect();
    if list.len() == 1 {
        format!("node {}", list[0])
    } else {
        format!("nodes {}", list.join(", "))
    }
}

/// Asks, decides and acts until this node is a member or the process stops.
pub async fn drive(shared: Arc<Shared>) {
    let mut ask = interval(ASK_EVERY);
    ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said: Option<(String, Instant)> = None;
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ask.tick() => {}
        }
        let me = shared.me();
        let (others, strangers) = ask_all(&shared, &me).await;
        match decide(&me, &others) {
            Step::Member => {
                // Founders start Raft when they take their identity; a driver that crashed after that starts it here.
                if let Err(e) = shared.start_replica().await
                    && !shared.is_stale()
                {
                    shared.fail(format!("failed to start replication: {e}"));
                }
                return;
            }
            Step::Wait(why) => {
                let why = [why]
                    .into_iter()
                    .chain(strangers)
                    .collect::<Vec<_>>()
                    .join("; ");
                shared.set_waiting(why.clone());
                let due = said
                    .as_ref()
                    .is_none_or(|(last, at)| *last != why || at.elapsed() >= SAY_EVERY);
                if due {
                    info!("{why}");
                    said = Some((why, Instant::now()));
                }
            }
            Step::Form(id) => match form(&shared, &me, id).await {
                Ok(()) => return,
                Err(why) => {
                    warn!("failed to form the cluster, trying again: {why}");
                    shared.set_waiting(why);
                }
            },
        }
    }
}

/// The answers, and what is to be said of nodes that are there but not trusted: waiting does not mend that.
async fn ask_all(
    shared: &Arc<Shared>,
    me: &Me,
) -> (BTreeMap<u16, Option<ProbeReply>>, Vec<String>) {
    let mut asking = tokio::task::JoinSet::new();
    for node in me
        .configured
        .iter()
        .copied()
        .filter(|node| *node != me.node)
    {
        let shared = shared.clone();
        asking.spawn(async move { (node, shared.probe(node, ASK_TIMEOUT).await) });
    }
    let (mut answers, mut strangers) = (BTreeMap::new(), BTreeMap::new());
    while let Some(done) = asking.join_next().await {
        if let Ok((node, answer)) = done {
            if let Err(why) = &answer
                && why.contains("certificate")
            {
                strangers.insert(node, why.clone());
            }
            answers.insert(node, answer.ok());
        }
    }
    (answers, strangers.into_values().collect())
}

async fn form(shared: &Arc<Shared>, me: &Me, adopted: Option<String>) -> Result<(), String> {
    let cluster_id = match adopted {
        Some(id) => id,
        None => new_cluster_id()?,
    };
    if me.cluster_id.is_none() {
        let identity = Identity {
            cluster_id: cluster_id.clone(),
            raft_id: raft_id(FIRST_GENERATION, me.node),
            founders: me.configured.clone(),
        };
        shared.save_identity(identity).await?;
    }
    for node in me
        .configured
        .iter()
        .copied()
        .filter(|node| *node != me.node)
    {
        let body = PeerRequest::Form {
            cluster_id: cluster_id.clone(),
            founders: me.configured.clone(),
        };
        match shared
            .wire
            .ask(shared.probe_target(node), Purpose::Probe, body, ASK_TIMEOUT)
            .await
        {
            Ok(PeerReply::Done) => {}
            Ok(PeerReply::Failed(why)) => {
                return Err(format!("node {node} does not take part: {why}"));
            }
            Ok(other) => return Err(format!("node {node} answered {other:?}")),
            Err(e) => return Err(format!("node {node}: {e}")),
        }
    }
    shared.start_replica().await?;
    shared.initialize().await?;
    info!(
        "formed the cluster {cluster_id} of {}",
        name_nodes(&me.configured)
    );
    Ok(())
}

/// 128 random bits in hex.
pub(super) fn new_cluster_id() -> Result<String, String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| format!("no randomness: {e}"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Where to send a question to a node of the configuration file, whatever its identity.
pub fn any_identity(node: u16, peer: String) -> Target {
    Target {
        raft_id: 0,
        node,
        peer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me(node: u16, cluster_id: Option<&str>, has_log: bool) -> Me {
        Me {
            node,
            configured: vec![1, 2, 3],
            cluster_id: cluster_id.map(str::to_owned),
            founder: true,
            has_log,
        }
    }

    fn blank(node: u16) -> (u16, Option<ProbeReply>) {
        (
            node,
            Some(ProbeReply {
                node,
                cluster_id: None,
                raft_id: 0,
                has_log: false,
                configured: vec![1, 2, 3],
            }),
        )
    }

    fn holds(node: u16, id: &str, has_log: bool) -> (u16, Option<ProbeReply>) {
        let reply = ProbeReply {
            node,
            cluster_id: Some(id.into()),
            raft_id: raft_id(1, node),
            has_log,
            configured: vec![1, 2, 3],
        };
        (node, Some(reply))
    }

    #[test]
    fn forms_only_when_everybody_answers_and_is_blank() {
        assert_eq!(
            decide(&me(1, None, false), &[blank(2), blank(3)].into()),
            Step::Form(None)
        );
        assert!(
            matches!(decide(&me(1, None, false), &[blank(2), (3, None)].into()), Step::Wait(why) if why.contains("node 3"))
        );
        assert!(
            matches!(decide(&me(2, None, false), &[blank(1), blank(3)].into()), Step::Wait(why) if why.contains("node 1"))
        );
    }

    #[test]
    fn a_wiped_node_waits_for_the_operator() {
        for wiped in [1, 2] {
            let others = [holds(3 - wiped, "x", true), holds(3, "x", true)].into();
            assert!(
                matches!(decide(&me(wiped, None, false), &others), Step::Wait(why) if why.contains("member replace"))
            );
            let one_seen = [holds(3 - wiped, "x", true), (3, None)].into();
            assert!(
                matches!(decide(&me(wiped, None, false), &one_seen), Step::Wait(why) if why.contains("member replace"))
            );
        }
    }

    #[test]
    fn a_driver_that_crashed_half_way_takes_up_the_same_identity() {
        assert_eq!(
            decide(
                &me(1, Some("x"), false),
                &[holds(2, "x", false), blank(3)].into()
            ),
            Step::Form(Some("x".into()))
        );
        assert_eq!(
            decide(
                &me(1, None, false),
                &[holds(2, "x", false), blank(3)].into()
            ),
            Step::Form(Some("x".into()))
        );
        assert!(matches!(
            decide(
                &me(1, Some("y"), false),
                &[holds(2, "x", false), blank(3)].into()
            ),
            Step::Wait(_)
        ));
    }

    #[test]
    fn a_driver_with_an_identity_and_no_log_never_founds_a_second_cluster() {
        let others = [holds(2, "x", true), holds(3, "x", true)].into();
        assert!(
            matches!(decide(&me(1, Some("x"), false), &others), Step::Wait(why) if why.contains("member replace"))
        );
    }

    #[test]
    fn founders_with_an_identity_wait_for_the_log() {
        assert_eq!(
            decide(&me(2, Some("x"), false), &[(1, None), (3, None)].into()),
            Step::Member
        );
        assert_eq!(
            decide(&me(1, Some("x"), true), &[(2, None), (3, None)].into()),
            Step::Member
        );
    }

    #[test]
    fn a_replaced_node_waits_for_the_log_even_if_it_would_drive_a_formation() {
        let adopted = Me {
            founder: false,
            ..me(1, Some("x"), false)
        };
        assert_eq!(
            decide(&adopted, &[holds(2, "x", true), holds(3, "x", true)].into()),
            Step::Member
        );
    }

    #[test]
    fn differing_files_are_named() {
        let mut other = blank(2);
        if let Some(reply) = &mut other.1 {
            reply.configured = vec![1, 2];
        }
        assert!(
            matches!(decide(&me(1, None, false), &[other, blank(3)].into()), Step::Wait(why) if why.contains("alike"))
        );
    }
}
