//! Clients of the simplest kind: each registers a name, logs in, and sends one message after another through whichever
//! node it finds, under the same key until it is told. At the end what was acknowledged is there: once, under the id
//! that was told, in each client's order; and no linear read went back behind an acknowledgement.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use messagebase_daemon::change::{Change, Outcome, Secrets};
use messagebase_daemon::raft::api::{Draft, Verdict};
use openraft_rt::AsyncRuntime;
use openraft_rt_sim::{SimJoinHandle, SimRuntime};

use crate::chance::Chance;
use crate::cluster::Cluster;
use crate::life::lock;
use crate::net::{Net, Station};
use crate::run::{Ending, Judging, Workload};

/// Clients of a run.
const CLIENTS: usize = 3;
/// Between two requests of a client, ms.
const THINK_MS: (u64, u64) = (5, 120);
/// After an attempt in vain, ms.
const AGAIN_MS: (u64, u64) = (5, 50);
/// So many (per mille) requests are linear reads.
const READS: u64 = 250;

#[derive(Default)]
struct Promised {
    /// Acknowledged: sender and key to the message's id, and the sender's sequence.
    sent: BTreeMap<(String, String), (u64, usize)>,
    /// The greatest id that was acknowledged to anybody.
    greatest: u64,
    wrong: Vec<String>,
}

/// See the file.
#[derive(Default)]
pub struct Traffic {
    promised: Arc<Mutex<Promised>>,
    over: Arc<AtomicBool>,
    clients: Vec<SimJoinHandle<()>>,
}

struct Client {
    name: String,
    peers: Vec<String>,
    net: Net,
    chance: Chance,
    promised: Arc<Mutex<Promised>>,
    over: Arc<AtomicBool>,
}

impl Workload for Traffic {
    fn begin(&mut self, net: Net, mut chance: Chance) {
        let names: Vec<String> = (0..CLIENTS).map(|n| format!("user{n}")).collect();
        for (n, name) in names.iter().enumerate() {
            let client = Client {
                name: name.clone(),
                peers: names.clone(),
                net: net.clone(),
                chance: chance.fork(n as u64),
                promised: self.promised.clone(),
                over: self.over.clone(),
            };
            self.clients.push(SimRuntime::spawn(client.live()));
        }
    }

    fn end(&mut self) -> Ending<'_> {
        Box::pin(async {
            self.over.store(true, Ordering::SeqCst);
            for client in self.clients.drain(..) {
                if let Err(error) = client.await {
                    lock(&self.promised).wrong.push(format!("a client ended badly: {error}"));
                }
            }
        })
    }

    fn judge<'a>(&'a mut self, cluster: &'a Cluster) -> Judging<'a> {
        Box::pin(async move {
            let mut promised = lock(&self.promised);
            let mut wrong = std::mem::take(&mut promised.wrong);
            cluster.net.world.trace().add("messages acknowledged", promised.sent.len() as u64);
            let Some(node) = cluster.nodes.values().next() else { return wrong };
            let rows = node.store.readers().with(|conn| {
                let mut statement =
                    conn.prepare("SELECT u.name, m.key, m.id FROM messages m JOIN users u ON u.id = m.sender_id")?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?)))?;
                rows.collect::<Result<Vec<(String, String, i64)>, _>>()
            });
            let rows = rows.expect("the file is readable");
            let mut found: BTreeMap<(String, String), u64> = BTreeMap::new();
            for (sender, key, id) in rows {
                if found.insert((sender.clone(), key.clone()), id.unsigned_abs()).is_some() {
                    wrong.push(format!("the message {key} of {sender} is there twice"));
                }
            }
            let mut last: BTreeMap<String, (usize, u64)> = BTreeMap::new();
            let mut sent: Vec<_> = promised.sent.iter().collect();
            sent.sort_by_key(|(_, (_, sequence))| *sequence);
            for ((sender, key), (id, sequence)) in sent {
                if found.get(&(sender.clone(), key.clone())) != Some(id) {
                    wrong.push(format!("the message {key} of {sender} was acknowledged as {id} and is lost"));
                }
                if let Some((_, before)) = last.insert(sender.clone(), (*sequence, *id))
                    && before >= *id
                {
                    wrong.push(format!("the messages of {sender} are out of order: {before} before {id}"));
                }
            }
            wrong
        })
    }
}

impl Client {
    fn over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    async fn live(mut self) {
        let name = self.name.clone();
        let secrets =
            Secrets { password_hash: Some("$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA".into()), token_hash: None };
        let body = Change::Register { name: name.clone(), key: format!("register-{name}"), by_operator: true };
        let register = Draft { actor: None, body, secrets: Some(secrets) };
        let Some(Outcome::Registered { user, .. }) = self.until_told(register).await else { return };
        let token = self.chance.draw().to_be_bytes();
        let secrets =
            Secrets { password_hash: None, token_hash: Some([token; 4].concat().try_into().unwrap_or([0; 32])) };
        let login = Draft { actor: None, body: Change::Login { user, credential_version: 1 }, secrets: Some(secrets) };
        let Some(Outcome::LoggedIn { session, .. }) = self.until_told(login).await else { return };
        let mut sequence = 0;
        while !self.over() {
            SimRuntime::sleep(self.chance.millis(THINK_MS.0, THINK_MS.1)).await;
            if self.chance.hits(READS) {
                self.read().await;
                continue;
            }
            let others = self.peers.clone();
            let to = others[self.chance.between(0, others.len() as u64 - 1) as usize].clone();
            let key = format!("{name}-{sequence}");
            let length = self.chance.between(1, 400) as usize;
            let body = Change::Send { user, to, body: format!("{key} {}", "x".repeat(length)), key: key.clone() };
            match self.until_told(Draft { actor: Some(session), body, secrets: None }).await {
                Some(Outcome::Sent { id, .. }) => {
                    let mut promised = lock(&self.promised);
                    promised.greatest = promised.greatest.max(id);
                    promised.sent.insert((name.clone(), key), (id, sequence));
                }
                // The other one is not there yet.
                Some(Outcome::Refused(_)) | None => {}
                Some(other) => lock(&self.promised).wrong.push(format!("{key} was answered {other:?}")),
            }
            sequence += 1;
        }
    }

    fn station(&mut self) -> Option<Station> {
        let stations = self.net.stations();
        let last = stations.len().checked_sub(1)?;
        stations.into_iter().nth(self.chance.between(0, last as u64) as usize)
    }

    async fn until_told(&mut self, draft: Draft) -> Option<Outcome> {
        loop {
            if let Some(Station { life, replica, .. }) = self.station() {
                let drafts = vec![draft.clone()];
                let told = life.run(async move { replica.propose(drafts).await }).await;
                self.net.world.event(format_args!("told {} {told:?}", self.name));
                if let Some([Verdict::Applied { outcome, .. }]) = told.as_deref() {
                    return Some(outcome.clone());
                }
            }
            if self.over() {
                return None;
            }
            SimRuntime::sleep(self.chance.millis(AGAIN_MS.0, AGAIN_MS.1)).await;
        }
    }

    async fn read(&mut self) {
        let must = lock(&self.promised).greatest;
        let Some(Station { life, replica, store, raft_id, .. }) = self.station() else { return };
        let seen = life.run(async move {
            replica.linear().await.ok()?;
            store
                .readers()
                .with(|conn| conn.query_row("SELECT ifnull(max(id), 0) FROM messages", [], |r| r.get::<_, i64>(0)))
                .ok()
        });
        let Some(Some(seen)) = seen.await else { return };
        self.net.world.count("linear reads");
        if seen.unsigned_abs() < must {
            let wrong = format!("a linear read of {raft_id:#x} saw messages up to {seen}, acknowledged was {must}");
            self.net.world.violated(wrong);
        }
    }
}
