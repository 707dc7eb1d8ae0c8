//! What all clients of a storm share: the cluster, the history, the accounts that may exist, and when it is over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use messagebase_checker::Recorder;

use crate::cluster::Cluster;

/// Passwords that an account may have, the likeliest first. Accounts that two clients share are in here once.
type Accounts = BTreeMap<String, Vec<String>>;

/// What all clients of a storm share.
#[derive(Debug)]
pub struct StormContext {
    /// The nodes.
    pub cluster: Arc<Cluster>,
    /// The history.
    pub recorder: Recorder,
    /// Whom messages are sent to.
    pub names: Vec<String>,
    over: AtomicBool,
    there: AtomicUsize,
    give_up: Mutex<Option<Instant>>,
    accounts: Mutex<Accounts>,
    wrong: Mutex<Vec<String>>,
}

impl StormContext {
    /// Before anybody has an account.
    pub fn new(cluster: Arc<Cluster>, recorder: Recorder, names: Vec<String>) -> StormContext {
        StormContext {
            cluster,
            recorder,
            names,
            over: AtomicBool::new(false),
            there: AtomicUsize::new(0),
            give_up: Mutex::new(None),
            accounts: Mutex::default(),
            wrong: Mutex::default(),
        }
    }

    /// Nothing new is to be begun; what is under way must be done by `until`.
    pub fn end(&self, until: Instant) {
        *lock(&self.give_up) = Some(until);
        self.over.store(true, Ordering::Relaxed);
    }

    /// How many clients have been served once.
    pub fn there(&self) -> usize {
        self.there.load(Ordering::Relaxed)
    }

    /// One more client was served.
    pub(super) fn has_come(&self) {
        self.there.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn out_of_patience(&self) -> bool {
        lock(&self.give_up).is_some_and(|until| Instant::now() >= until)
    }

    /// What nodes and clients did and must not do.
    pub fn wrong(&self, what: String) {
        lock(&self.wrong).push(what);
    }

    /// Everything that was told as wrong.
    pub fn take_wrong(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.wrong))
    }

    /// Every account that may exist, with the passwords it may have.
    pub fn accounts(&self) -> Vec<(String, Vec<String>)> {
        lock(&self.accounts)
            .iter()
            .map(|(user, passwords)| (user.clone(), passwords.clone()))
            .collect()
    }

    pub(super) fn passwords(&self, user: &str) -> Vec<String> {
        lock(&self.accounts).get(user).cloned().unwrap_or_default()
    }

    /// An account may have this password, and probably has.
    pub(super) fn may_have(&self, user: &str, password: &str) {
        let mut accounts = lock(&self.accounts);
        let passwords = accounts.entry(user.to_owned()).or_default();
        passwords.retain(|other| other != password);
        passwords.insert(0, password.to_owned());
    }

    /// An account is no more, or never was.
    pub(super) fn forget(&self, user: &str) {
        lock(&self.accounts).remove(user);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
