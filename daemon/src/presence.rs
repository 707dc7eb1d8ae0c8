//! Who is online anywhere: the users with a session on this node, and those that the peers report. Soft state: never in
//! the log, lost with the process, right within 3 s. Knows no sockets: `node/gossip` carries the sets between nodes.
//!
//! Every node sends its whole set when it changes and repeats the version about every second; a peer that falls
//! silent is forgotten after [`REMOTE_EXPIRY`].

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

/// How long a peer's set counts after the peer was last heard of. Below the 3 s that the protocol promises, so that the
/// network delay of the last repetition fits in.
pub const REMOTE_EXPIRY: Duration = Duration::from_millis(2_700);

/// What one peer reported.
#[derive(Debug)]
struct Remote {
    version: u64,
    online: HashSet<u64>,
    heard: Instant,
}

#[derive(Debug, Default)]
struct State {
    /// Connections a user has on this node; never 0.
    local: HashMap<u64, usize>,
    remote: HashMap<u16, Remote>,
}

/// Online users of the whole cluster, as far as this node knows.
#[derive(Debug)]
pub struct Presence {
    state: Mutex<State>,
    /// The version of the local set; grows when a user comes or goes, not with every connection.
    version: watch::Sender<u64>,
}

impl Default for Presence {
    fn default() -> Self {
        Self::new()
    }
}

impl Presence {
    /// Without anybody online.
    pub fn new() -> Self {
        Presence {
            state: Mutex::default(),
            version: watch::Sender::new(0),
        }
    }

    /// A connection of this user was logged in here.
    pub fn arrived(&self, user: u64) {
        let mut state = self.state.lock();
        let connections = state.local.entry(user).or_insert(0);
        *connections += 1;
        if *connections == 1 {
            self.version.send_modify(|version| *version += 1);
        }
    }

    /// A connection of this user ended here.
    pub fn left(&self, user: u64) {
        let mut state = self.state.lock();
        let Some(connections) = state.local.get_mut(&user) else {
            return;
        };
        *connections -= 1;
        if *connections == 0 {
            state.local.remove(&user);
            self.version.send_modify(|version| *version += 1);
        }
    }

    /// This node's set and its version, for the peers.
    pub fn snapshot(&self) -> (u64, Vec<u64>) {
        let state = self.state.lock();
        let mut users: Vec<u64> = state.local.keys().copied().collect();
        users.sort_unstable();
        (*self.version.borrow(), users)
    }

    /// Changes when [`Presence::snapshot`] does.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// A peer reported its whole set, or (`None`) that `version` still holds. False: this node does not hold that version,
    /// so the peer must send the set.
    #[must_use = "on false the peer must send its whole set"]
    pub fn remote(&self, node: u16, version: u64, online: Option<Vec<u64>>) -> bool {
        self.remote_at(node, version, online, Instant::now())
    }

    /// [`Presence::remote`] at a given time.
    pub fn remote_at(
        &self,
        node: u16,
        version: u64,
        online: Option<Vec<u64>>,
        now: Instant,
    ) -> bool {
        let mut state = self.state.lock();
        match online {
            Some(online) => {
                let remote = Remote {
                    version,
                    online: online.into_iter().collect(),
                    heard: now,
                };
                state.remote.insert(node, remote);
                true
            }
            None => match state.remote.get_mut(&node) {
                Some(remote) if remote.version == version => {
                    remote.heard = now;
                    true
                }
                _ => false,
            },
        }
    }

    /// A peer is known to be dead: forgets its users at once.
    pub fn node_lost(&self, node: u16) {
        self.state.lock().remote.remove(&node);
    }

    /// Whether a session of this user is connected to any node.
    pub fn is_online(&self, user: u64) -> bool {
        self.is_online_at(user, Instant::now())
    }

    /// [`Presence::is_online`] at a given time.
    pub fn is_online_at(&self, user: u64, now: Instant) -> bool {
        let state = self.state.lock();
        let fresh = |remote: &&Remote| now.saturating_duration_since(remote.heard) < REMOTE_EXPIRY;
        state.local.contains_key(&user)
            || state
                .remote
                .values()
                .filter(fresh)
                .any(|remote| remote.online.contains(&user))
    }

    /// Users with a session on this node.
    pub fn local_users(&self) -> usize {
        self.state.lock().local.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_online_until_the_last_connection_leaves() {
        let presence = Presence::new();
        let changed = presence.changed();
        presence.arrived(7);
        presence.arrived(7);
        assert_eq!(
            *changed.borrow(),
            1,
            "a second connection changes nothing for the peers"
        );
        presence.left(7);
        assert!(presence.is_online(7));
        presence.left(7);
        assert!(!presence.is_online(7));
        assert_eq!(presence.snapshot(), (2, vec![]));
    }

    #[test]
    fn a_silent_peer_is_forgotten_in_time() {
        let presence = Presence::new();
        let start = Instant::now();
        assert!(presence.remote_at(2, 5, Some(vec![7]), start));
        assert!(presence.is_online_at(7, start + REMOTE_EXPIRY - Duration::from_millis(1)));
        assert!(!presence.is_online_at(7, start + REMOTE_EXPIRY));
        assert!(
            presence.remote_at(2, 5, None, start + Duration::from_secs(2)),
            "a repetition keeps the set alive"
        );
        assert!(presence.is_online_at(7, start + Duration::from_secs(4)));
    }

    #[test]
    fn a_repetition_of_an_unknown_version_asks_for_the_set() {
        let presence = Presence::new();
        let now = Instant::now();
        assert!(!presence.remote_at(2, 1, None, now));
        assert!(presence.remote_at(2, 1, Some(vec![7]), now));
        assert!(
            !presence.remote_at(2, 2, None, now),
            "the restarted peer's set is another one"
        );
    }

    #[test]
    fn a_lost_node_takes_its_users_with_it() {
        let presence = Presence::new();
        let now = Instant::now();
        assert!(presence.remote_at(2, 1, Some(vec![7, 8]), now));
        assert!(presence.remote_at(3, 1, Some(vec![8]), now));
        presence.node_lost(2);
        assert!(!presence.is_online_at(7, now));
        assert!(presence.is_online_at(8, now));
    }
}
