//! Formation: how configured, blank nodes become a cluster. openraft permits `initialize` on every node, so a node that
//! lost its disk could found a second cluster. Therefore a cluster forms only when every configured node answers and all
//! are blank. Afterwards a blank node waits for `mbctl member replace`.
//!
//! The node with the lowest number drives. It makes the cluster's id and stores it before any other node learns it. Each
//! other founder stores it, with generation 1, before it answers; then the driver initializes Raft. A crash in between
//! leaves nodes with an id and an empty log. The driver then reuses that id, so no second one can arise. A founder never
//! votes before its id is on its disk.
//!
//! [`decide`] is the pure decision; [`drive`] asks the nodes and acts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use data_encoding::HEXLOWER;
use messagebase_protocol::peer::{PeerReply, PeerRequest, ProbeReply};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::identity::NodeIdentity;
use crate::peer::wire::PeerError;

/// Pause between two rounds of probes.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long one request may take.
const ASK_TIMEOUT: Duration = Duration::from_millis(900);
/// How often a waiting node repeats in the log what it waits for.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// This node as formation sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNode {
    /// Its number.
    pub node: u16,
    /// The nodes of its configuration file, sorted.
    pub configured: Vec<u16>,
    /// The cluster of its identity, if it has one.
    pub cluster_id: Option<String>,
    /// Whether the identity is a founder's; otherwise a leader gave it (`member replace`, `member add`).
    pub founder: bool,
    /// Whether its log has ever held an entry.
    pub has_log: bool,
}

impl LocalNode {
    fn of(identity: &NodeIdentity) -> Self {
        let context = identity.context();
        let stored = context.store.identity();
        LocalNode {
            node: context.node,
            configured: identity.configured(),
            founder: stored
                .as_ref()
                .is_some_and(|stored| !stored.founders.is_empty()),
            cluster_id: stored.map(|stored| stored.cluster_id),
            has_log: identity.has_log(),
        }
    }

    fn others(&self) -> impl Iterator<Item = u16> {
        let configured = self.configured.iter().copied();
        configured.filter(|node| *node != self.node)
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormationStep {
    /// Probe again later. The reason is for the log and `mbctl status`.
    Wait(String),
    /// As the driver: store this identity (`None`: make a new one), have the others take it, initialize Raft.
    Form(Option<String>),
    /// Raft has a log here or soon will: nothing to form.
    Member,
}

/// Decides from the answers of the others; `None`: no answer.
pub fn decide(me: &LocalNode, others: &BTreeMap<u16, Option<ProbeReply>>) -> FormationStep {
    if me.has_log || (me.cluster_id.is_some() && !me.founder) {
        return FormationStep::Member;
    }
    let formed: Vec<u16> = others
        .iter()
        .filter(|(_, r)| r.as_ref().is_some_and(|r| r.has_log))
        .map(|(n, _)| *n)
        .collect();
    let drives = me.configured.first() == Some(&me.node);
    if me.cluster_id.is_some() && !drives {
        // The driver made this node a founder; the log will come from it.
        return FormationStep::Member;
    }
    if let Some(found) = formed.first() {
        return FormationStep::Wait(format!(
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
        return FormationStep::Wait(format!(
            "waiting for {} to answer: a new cluster forms once every configured node does (if this node lost its \
             disk, run: mbctl member replace {})",
            name_nodes(&silent),
            me.node
        ));
    }
    let answers = || others.values().flatten();
    if let Some(other) = answers().find(|r| r.configured != me.configured) {
        return FormationStep::Wait(format!(
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
        return FormationStep::Wait(
            "the nodes hold identities of different clusters: empty the data directories of all"
                .into(),
        );
    }
    if !drives {
        return FormationStep::Wait(format!(
            "waiting for node {} to form the cluster",
            me.configured.first().copied().unwrap_or(0)
        ));
    }
    FormationStep::Form(ids.first().map(|id| (*id).clone()))
}

fn name_nodes(nodes: &[u16]) -> String {
    let list: Vec<String> = nodes.iter().map(u16::to_string).collect();
    if list.len() == 1 {
        format!("node {}", list[0])
    } else {
        format!("nodes {}", list.join(", "))
    }
}

/// Probes, decides and acts until this node is a member or the process stops.
pub async fn drive(identity: Arc<NodeIdentity>) {
    let context = identity.context();
    let participation = &context.participation;
    let mut ask = interval(ASK_EVERY);
    ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut logged: Option<(String, Instant)> = None;
    loop {
        tokio::select! {
            () = context.lifecycle.stop.cancelled() => return,
            _ = ask.tick() => {}
        }
        let me = LocalNode::of(&identity);
        let (others, rejections) = probe_all(&identity, &me).await;
        match decide(&me, &others) {
            FormationStep::Member => {
                // Founders start Raft when they take their identity; a driver that crashed after that starts it here.
                if let Err(e) = identity.start_replica().await
                    && !participation.is_stale()
                {
                    let why = format!("failed to start replication: {e}");
                    context.lifecycle.fail(why);
                }
                return;
            }
            FormationStep::Wait(why) => {
                let reasons: Vec<String> = [why].into_iter().chain(rejections).collect();
                let why = reasons.join("; ");
                participation.wait_for(why.clone());
                let due = logged
                    .as_ref()
                    .is_none_or(|(last, at)| *last != why || at.elapsed() >= LOG_EVERY);
                if due {
                    info!("{why}");
                    logged = Some((why, Instant::now()));
                }
            }
            FormationStep::Form(id) => match form(&identity, &me, id).await {
                Ok(()) => return,
                Err(e) => {
                    warn!("failed to form the cluster, trying again: {e:#}");
                    participation.wait_for(format!("{e:#}"));
                }
            },
        }
    }
}

/// Probes all peers. Also returns why peers rejected this node's certificate or hello, or this node theirs; waiting does not
/// fix these.
async fn probe_all(
    identity: &Arc<NodeIdentity>,
    me: &LocalNode,
) -> (BTreeMap<u16, Option<ProbeReply>>, Vec<String>) {
    let mut probes = tokio::task::JoinSet::new();
    for node in me.others() {
        let identity = identity.clone();
        probes.spawn(async move {
            let reply = identity.ask(node, PeerRequest::Probe, ASK_TIMEOUT).await;
            (node, reply)
        });
    }
    let (mut answers, mut rejections) = (BTreeMap::new(), BTreeMap::new());
    while let Some(done) = probes.join_next().await {
        let Ok((node, reply)) = done else { continue };
        if let Err(e @ PeerError::Rejected(_)) = &reply {
            rejections.insert(node, e.to_string());
        }
        let answer = match reply {
            Ok(PeerReply::Probe(answer)) => Some(answer),
            Ok(_) | Err(_) => None,
        };
        answers.insert(node, answer);
    }
    (answers, rejections.into_values().collect())
}

async fn form(
    identity: &NodeIdentity,
    me: &LocalNode,
    adopted: Option<String>,
) -> anyhow::Result<()> {
    let cluster_id = match adopted {
        Some(id) => id,
        None => new_cluster_id().context("no randomness")?,
    };
    if me.cluster_id.is_none() {
        let founder = identity.founder(cluster_id.clone(), me.configured.clone());
        identity.save(founder).await?;
    }
    for node in me.others() {
        let body = PeerRequest::Form {
            cluster_id: cluster_id.clone(),
            founders: me.configured.clone(),
        };
        match identity.ask(node, body, ASK_TIMEOUT).await {
            Ok(PeerReply::Done) => {}
            Ok(PeerReply::Failed(why)) => bail!("node {node} does not take part: {why}"),
            Ok(other) => bail!("node {node} answered {other:?}"),
            Err(e) => bail!("node {node}: {e}"),
        }
    }
    identity.start_replica().await?;
    identity.initialize().await?;
    info!(
        "formed the cluster {cluster_id} of {}",
        name_nodes(&me.configured)
    );
    Ok(())
}

/// 128 random bits as 32 lower-case hex digits.
pub fn new_cluster_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)?;
    Ok(HEXLOWER.encode(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::raft_id;

    fn me(node: u16, cluster_id: Option<&str>, has_log: bool) -> LocalNode {
        LocalNode {
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

    /// Why `me` waits.
    fn waits<const N: usize>(me: &LocalNode, others: [(u16, Option<ProbeReply>); N]) -> String {
        match decide(me, &others.into()) {
            FormationStep::Wait(why) => why,
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn forms_only_when_everybody_answers_and_is_blank() {
        let driver = me(1, None, false);
        assert_eq!(
            decide(&driver, &[blank(2), blank(3)].into()),
            FormationStep::Form(None)
        );
        assert!(waits(&driver, [blank(2), (3, None)]).contains("node 3"));
        assert!(waits(&me(2, None, false), [blank(1), blank(3)]).contains("node 1"));
    }

    #[test]
    fn a_wiped_node_waits_for_the_operator() {
        for wiped in [1, 2] {
            let (me, other) = (me(wiped, None, false), holds(3 - wiped, "x", true));
            let all_seen = waits(&me, [other.clone(), holds(3, "x", true)]);
            let one_seen = waits(&me, [other, (3, None)]);
            assert!(all_seen.contains("member replace"));
            assert!(one_seen.contains("member replace"));
        }
    }

    #[test]
    fn a_driver_that_crashed_half_way_takes_up_the_same_identity() {
        let others = || [holds(2, "x", false), blank(3)];
        for held in [Some("x"), None] {
            assert_eq!(
                decide(&me(1, held, false), &others().into()),
                FormationStep::Form(Some("x".into()))
            );
        }
        waits(&me(1, Some("y"), false), others());
    }

    #[test]
    fn a_driver_with_an_identity_and_no_log_never_founds_a_second_cluster() {
        let others = [holds(2, "x", true), holds(3, "x", true)];
        assert!(waits(&me(1, Some("x"), false), others).contains("member replace"));
    }

    #[test]
    fn founders_with_an_identity_wait_for_the_log() {
        assert_eq!(
            decide(&me(2, Some("x"), false), &[(1, None), (3, None)].into()),
            FormationStep::Member
        );
        assert_eq!(
            decide(&me(1, Some("x"), true), &[(2, None), (3, None)].into()),
            FormationStep::Member
        );
    }

    #[test]
    fn a_replaced_node_waits_for_the_log_even_if_it_would_drive_a_formation() {
        let adopted = LocalNode {
            founder: false,
            ..me(1, Some("x"), false)
        };
        assert_eq!(
            decide(&adopted, &[holds(2, "x", true), holds(3, "x", true)].into()),
            FormationStep::Member
        );
    }

    #[test]
    fn differing_files_are_named() {
        let mut other = blank(2);
        if let Some(reply) = &mut other.1 {
            reply.configured = vec![1, 2];
        }
        assert!(waits(&me(1, None, false), [other, blank(3)]).contains("alike"));
    }
}
