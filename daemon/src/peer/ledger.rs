//! Which life of each peer's process this node has met last. A data directory that was copied, lived on, and was
//! put back has forgotten votes and acknowledgements that others count on; it is recognized by a start that is not
//! new, or by a log that ends before what it had acknowledged.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use messagebase_protocol::peer::Boot;
use tokio::sync::{mpsc, watch};

/// What meeting a peer came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meeting {
    /// The same process as before.
    Known,
    /// A later start: to be remembered on disk.
    New,
    /// An older copy of a data directory; how that is known.
    Stale(String),
}

/// Decides from what is remembered of a peer and what its leader knows it to have acknowledged (`None`: unknown).
pub fn judge(remembered: Option<Boot>, met: Boot, acknowledged: Option<u64>) -> Meeting {
    let Some(last) = remembered else {
        return Meeting::New;
    };
    if (last.starts, last.id) == (met.starts, met.id) {
        return Meeting::Known;
    }
    if met.starts <= last.starts {
        return Meeting::Stale(format!(
            "it says this is start {}, but start {} was met before",
            met.starts, last.starts
        ));
    }
    match acknowledged {
        Some(index) if index > met.last_log_at_start => Meeting::Stale(format!(
            "its log ended at {} when it started, but it had acknowledged {index}",
            met.last_log_at_start
        )),
        _ => Meeting::New,
    }
}

/// Meetings waiting to be written to the file. A full queue loses one; it is written at the next meeting.
const REMEMBER_QUEUE_MAX: usize = 64;

/// Tells what a peer is known to have acknowledged, by Raft id; only a leader knows.
pub type Acknowledged = Box<dyn Fn(u64) -> Option<u64> + Send + Sync>;

/// The remembered boots by Raft id.
pub struct Ledger {
    /// Held for a look or an insert only.
    boots: Mutex<HashMap<u64, Boot>>,
    acknowledged: OnceLock<Acknowledged>,
    to_remember: mpsc::Sender<(u64, Boot)>,
    /// Set when a peer says that this node itself runs on an older copy.
    told_stale: watch::Sender<Option<String>>,
}

impl Ledger {
    /// With what the file remembers; the receiver yields what is to be written to it.
    pub fn new(remembered: HashMap<u64, Boot>) -> (Self, mpsc::Receiver<(u64, Boot)>) {
        let (to_remember, queue) = mpsc::channel(REMEMBER_QUEUE_MAX);
        let ledger = Ledger {
            boots: Mutex::new(remembered),
            acknowledged: OnceLock::new(),
            to_remember,
            told_stale: watch::Sender::new(None),
        };
        (ledger, queue)
    }

    /// Once replication has started. A second call changes nothing.
    pub fn ask_acknowledged(&self, source: Acknowledged) {
        let _ = self.acknowledged.set(source);
    }

    /// Judges a meeting; a new boot is remembered.
    pub fn meet(&self, raft_id: u64, met: Boot) -> Meeting {
        let acknowledged = self.acknowledged.get().and_then(|ask| ask(raft_id));
        let mut boots = self.lock();
        let meeting = judge(boots.get(&raft_id).copied(), met, acknowledged);
        if meeting == Meeting::New {
            boots.insert(raft_id, met);
            drop(boots);
            let _ = self.to_remember.try_send((raft_id, met));
        }
        meeting
    }

    /// A peer said that this node runs on an older copy of its data directory.
    pub fn was_told_stale(&self, reason: String) {
        self.told_stale
            .send_if_modified(|told| told.is_none() && told.replace(reason).is_none());
    }

    /// Follows [`Ledger::was_told_stale`].
    pub fn told_stale(&self) -> watch::Receiver<Option<String>> {
        self.told_stale.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Boot>> {
        self.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(starts: u64, id: u64, last_log_at_start: u64) -> Boot {
        Boot {
            starts,
            id,
            last_log_at_start,
        }
    }

    #[test]
    fn a_restart_is_new_and_the_same_process_is_known() {
        assert_eq!(judge(None, boot(1, 7, 0), None), Meeting::New);
        assert_eq!(
            judge(Some(boot(1, 7, 0)), boot(1, 7, 0), Some(90)),
            Meeting::Known
        );
        assert_eq!(
            judge(Some(boot(1, 7, 0)), boot(2, 8, 90), Some(90)),
            Meeting::New
        );
    }

    #[test]
    fn a_copy_put_back_is_stale() {
        // Copied while stopped, started since: the same count with another id, or a smaller count.
        assert!(matches!(
            judge(Some(boot(2, 7, 0)), boot(2, 8, 0), None),
            Meeting::Stale(_)
        ));
        assert!(matches!(
            judge(Some(boot(5, 7, 0)), boot(2, 8, 0), None),
            Meeting::Stale(_)
        ));
        // Copied while it ran and put back without a start in between: the log tells.
        assert!(matches!(
            judge(Some(boot(2, 7, 0)), boot(3, 8, 50), Some(90)),
            Meeting::Stale(_)
        ));
    }

    #[test]
    fn what_is_stale_is_not_remembered() {
        let (ledger, mut queue) = Ledger::new(HashMap::new());
        assert_eq!(ledger.meet(1, boot(3, 7, 0)), Meeting::New);
        assert!(matches!(ledger.meet(1, boot(2, 9, 0)), Meeting::Stale(_)));
        assert_eq!(ledger.meet(1, boot(3, 7, 0)), Meeting::Known);
        assert_eq!(queue.try_recv(), Ok((1, boot(3, 7, 0))));
        assert!(queue.try_recv().is_err());
    }
}
