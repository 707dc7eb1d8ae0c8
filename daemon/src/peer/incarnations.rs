//! The last incarnation of each peer that this node has met. A data directory that was copied and put back later has
//! forgotten votes and acknowledgements that other nodes rely on. Such a copy is recognized by a start that is not new, or
//! by a log that ends before an index that it had acknowledged. `node/incarnations` keeps the incarnations on disk.

use std::collections::HashMap;
use std::sync::OnceLock;

use messagebase_protocol::peer::Incarnation;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

/// Whether a peer may take part, by its incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootCheck {
    /// The same process as before.
    Known,
    /// A later start, to be stored.
    New,
    /// An older copy of a data directory; how that is known.
    Stale(String),
}

/// Decides from the stored incarnation of a peer and the last index that it acknowledged to its leader (`None`: unknown).
pub fn check(
    remembered: Option<Incarnation>,
    met: Incarnation,
    acknowledged: Option<u64>,
) -> BootCheck {
    let Some(last) = remembered else {
        return BootCheck::New;
    };
    if (last.starts, last.id) == (met.starts, met.id) {
        return BootCheck::Known;
    }
    if met.starts <= last.starts {
        return BootCheck::Stale(format!(
            "it says this is start {}, but start {} was met before",
            met.starts, last.starts
        ));
    }
    match acknowledged {
        Some(index) if index > met.last_log_at_start => BootCheck::Stale(format!(
            "its log ended at {} when it started, but it had acknowledged {index}",
            met.last_log_at_start
        )),
        _ => BootCheck::New,
    }
}

/// New incarnations waiting to be stored. A full queue drops one; it is stored when the peer is met again.
const STORE_QUEUE_MAX: usize = 64;

/// The last index that a peer is known to have acknowledged, by Raft id. Only a leader knows.
pub type Acknowledged = Box<dyn Fn(u64) -> Option<u64> + Send + Sync>;

/// The peers' incarnations by Raft id.
pub struct Incarnations {
    known: Mutex<HashMap<u64, Incarnation>>,
    acknowledged: OnceLock<Acknowledged>,
    to_store: mpsc::Sender<(u64, Incarnation)>,
    /// Set when a peer says that this node itself runs on an older copy.
    told_stale: watch::Sender<Option<String>>,
}

impl Incarnations {
    /// With the stored incarnations. The receiver yields new ones, to be stored.
    pub fn new(known: HashMap<u64, Incarnation>) -> (Self, mpsc::Receiver<(u64, Incarnation)>) {
        let (to_store, queue) = mpsc::channel(STORE_QUEUE_MAX);
        let incarnations = Incarnations {
            known: Mutex::new(known),
            acknowledged: OnceLock::new(),
            to_store,
            told_stale: watch::Sender::new(None),
        };
        (incarnations, queue)
    }

    /// Once replication has started. A second call changes nothing.
    pub fn set_acknowledged(&self, source: Acknowledged) {
        let _ = self.acknowledged.set(source);
    }

    /// Checks a peer that was met; a new incarnation is kept.
    pub fn meet(&self, raft_id: u64, met: Incarnation) -> BootCheck {
        let acknowledged = self.acknowledged.get().and_then(|ask| ask(raft_id));
        let mut known = self.known.lock();
        let checked = check(known.get(&raft_id).copied(), met, acknowledged);
        if checked == BootCheck::New {
            known.insert(raft_id, met);
            drop(known);
            let _ = self.to_store.try_send((raft_id, met));
        }
        checked
    }

    /// A peer said that this node runs on an older copy of its data directory.
    pub fn set_told_stale(&self, reason: String) {
        self.told_stale
            .send_if_modified(|told| told.is_none() && told.replace(reason).is_none());
    }

    /// Follows [`Incarnations::set_told_stale`].
    pub fn told_stale(&self) -> watch::Receiver<Option<String>> {
        self.told_stale.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(starts: u64, id: u64, last_log_at_start: u64) -> Incarnation {
        Incarnation {
            starts,
            id,
            last_log_at_start,
        }
    }

    #[test]
    fn a_restart_is_new_and_the_same_process_is_known() {
        assert_eq!(check(None, run(1, 7, 0), None), BootCheck::New);
        assert_eq!(
            check(Some(run(1, 7, 0)), run(1, 7, 0), Some(90)),
            BootCheck::Known
        );
        assert_eq!(
            check(Some(run(1, 7, 0)), run(2, 8, 90), Some(90)),
            BootCheck::New
        );
    }

    #[test]
    fn a_copy_put_back_is_stale() {
        // Copied while stopped, started since: the same count with another id, or a smaller count.
        assert!(matches!(
            check(Some(run(2, 7, 0)), run(2, 8, 0), None),
            BootCheck::Stale(_)
        ));
        assert!(matches!(
            check(Some(run(5, 7, 0)), run(2, 8, 0), None),
            BootCheck::Stale(_)
        ));
        // Copied while it ran and put back without a start in between: the log tells.
        assert!(matches!(
            check(Some(run(2, 7, 0)), run(3, 8, 50), Some(90)),
            BootCheck::Stale(_)
        ));
    }

    #[test]
    fn what_is_stale_is_not_remembered() {
        let (incarnations, mut queue) = Incarnations::new(HashMap::new());
        assert_eq!(incarnations.meet(1, run(3, 7, 0)), BootCheck::New);
        assert!(matches!(
            incarnations.meet(1, run(2, 9, 0)),
            BootCheck::Stale(_)
        ));
        assert_eq!(incarnations.meet(1, run(3, 7, 0)), BootCheck::Known);
        assert_eq!(queue.try_recv(), Ok((1, run(3, 7, 0))));
        assert!(queue.try_recv().is_err());
    }
}
