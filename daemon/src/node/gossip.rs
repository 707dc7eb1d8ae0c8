//! Gossips presence: sends the other members the users who are online here, at once when the set changes. Confirms the set
//! every second, so that the users of a silent node are forgotten.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::peer::{PeerReply, PeerRequest, Purpose};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::context::NodeContext;
use crate::peer::wire::TlsLink;
use crate::raft::api::Target;

/// How often a node confirms its set. Its users count as offline when three confirmations in a row are missed.
const REPEAT_EVERY: Duration = Duration::from_secs(1);
/// Changes within this time are sent together, so that many logins need few frames.
const GATHER: Duration = Duration::from_millis(50);
/// How long one message may take.
const SEND_TIMEOUT: Duration = Duration::from_millis(900);

struct PeerState {
    link: Arc<TlsLink>,
    /// The version that this peer has, as far as known.
    holds: Option<u64>,
    /// A message is in flight.
    busy: bool,
}

/// Runs until the node stops.
pub async fn run(context: Arc<NodeContext>) {
    let mut peers: HashMap<u64, PeerState> = HashMap::new();
    let mut sending: JoinSet<(u64, Option<u64>)> = JoinSet::new();
    let mut changed = context.presence.changed();
    let mut repeat = interval(REPEAT_EVERY);
    repeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut gather = interval(GATHER);
    gather.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = context.lifecycle.stop.cancelled() => return,
            Some(done) = sending.join_next() => {
                if let Ok((raft_id, held)) = done
                    && let Some(peer) = peers.get_mut(&raft_id)
                {
                    peer.holds = held;
                    peer.busy = false;
                }
                continue;
            }
            _ = repeat.tick() => {}
            Ok(()) = changed.changed() => { gather.reset(); gather.tick().await; }
        }
        refresh(&context, &mut peers);
        let (version, online) = context.presence.snapshot();
        for (raft_id, peer) in peers.iter_mut().filter(|(_, peer)| !peer.busy) {
            peer.busy = true;
            let whole = (peer.holds != Some(version)).then(|| online.clone());
            let (link, raft_id) = (peer.link.clone(), *raft_id);
            sending.spawn(async move {
                let reply = link
                    .request(
                        PeerRequest::Presence {
                            version,
                            online: whole,
                        },
                        SEND_TIMEOUT,
                    )
                    .await;
                (
                    raft_id,
                    matches!(reply, Ok(PeerReply::Done)).then_some(version),
                )
            });
        }
    }
}

/// Keeps one link to each present member.
fn refresh(context: &NodeContext, peers: &mut HashMap<u64, PeerState>) {
    let Some(replica) = context.replica() else {
        return;
    };
    let members: Vec<_> = replica
        .members()
        .into_iter()
        .filter(|member| member.node.node != context.node)
        .collect();
    peers.retain(|raft_id, _| members.iter().any(|member| member.raft_id == *raft_id));
    for member in members {
        peers.entry(member.raft_id).or_insert_with(|| {
            let to = Target {
                raft_id: member.raft_id,
                node: member.node.node,
                peer: member.node.peer.clone(),
            };
            PeerState {
                link: Arc::new(context.wire.peer_link(to, Purpose::Presence)),
                holds: None,
                busy: false,
            }
        });
    }
}
