//! `hello`, `status`, `ping` and `campaign`. Answered also by a node that belongs to no cluster yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::json::{Campaign, Hello, Ping, Status};
use messagebase_protocol::limits::{CAMPAIGN_DEADLINE, PROTOCOL_VERSION};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Connection, Replication, Service, verdict};
use crate::raft::api::CampaignError;
use crate::throttle::RateLimit;

/// Campaigns a connection may ask for in [`CAMPAIGN_WINDOW`].
pub(super) const CAMPAIGNS_PER_CONNECTION: usize = 10;
/// Campaigns that a node begins in [`CAMPAIGN_WINDOW`], for all connections. Callers share a running campaign: after the
/// death of a node all its clients may ask one survivor at once, and none of them should be refused.
const CAMPAIGNS_PER_NODE: usize = 100;
/// The window of both limits.
pub(super) const CAMPAIGN_WINDOW: Duration = Duration::from_secs(10);

type CampaignResult = Result<u16, CampaignError>;

/// The running campaign, if there is one.
#[derive(Debug)]
pub(super) struct Campaigns {
    running: Mutex<Option<watch::Receiver<Option<CampaignResult>>>>,
    begun: RateLimit,
}

impl Default for Campaigns {
    fn default() -> Self {
        Campaigns {
            running: Mutex::default(),
            begun: RateLimit::new(CAMPAIGNS_PER_NODE, CAMPAIGN_WINDOW),
        }
    }
}

impl Campaigns {
    /// Joins the running campaign or begins one.
    fn join(
        self: &Arc<Self>,
        replication: &Arc<dyn Replication>,
    ) -> Result<watch::Receiver<Option<CampaignResult>>, Duration> {
        let mut running = self.running.lock();
        if let Some(receiver) = running.as_ref() {
            return Ok(receiver.clone());
        }
        self.begun.admit(Instant::now())?;
        let (sender, receiver) = watch::channel(None);
        *running = Some(receiver.clone());
        let (campaigns, replication) = (self.clone(), replication.clone());
        tokio::spawn(async move {
            let result = tokio::time::timeout(CAMPAIGN_DEADLINE, replication.campaign()).await;
            // Cleared first: a caller that asks after the answer gets its own campaign.
            *campaigns.running.lock() = None;
            sender.send_replace(Some(result.unwrap_or(Err(CampaignError::NoQuorum))));
        });
        Ok(receiver)
    }
}

impl Service {
    /// Names this node and its cluster.
    pub fn hello(&self) -> Hello {
        Hello {
            server: concat!("messagebase ", env!("CARGO_PKG_VERSION")).into(),
            protocol: PROTOCOL_VERSION,
            cluster: self.cluster.clone(),
            cluster_id: self.replication.cluster_id(),
            node: self.node,
        }
    }

    /// What this node knows of itself and the cluster. Never waits.
    pub fn status(&self) -> Status {
        Status {
            node: self.node,
            cluster: self.cluster.clone(),
            cluster_id: self.replication.cluster_id(),
            version: env!("CARGO_PKG_VERSION").into(),
            replica: self.replication.view(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Keeps a session alive.
    pub fn ping(&self) -> Ping {
        let view = self.replication.view();
        Ping {
            ready: view.ready,
            applied: view.applied,
        }
    }

    /// Makes sure that there is a leader.
    pub async fn campaign(&self, conn: &Connection) -> Result<Campaign, Failure> {
        let limited = |wait| {
            Failure::not_done(
                Code::RateLimited,
                "too many campaigns; ask again in a moment",
            )
            .retry_after(wait)
        };
        conn.campaigns.admit(Instant::now()).map_err(limited)?;
        let mut running = self.campaigns.join(&self.replication).map_err(limited)?;
        let result = match running.wait_for(Option::is_some).await {
            Ok(result) => result.unwrap_or(Err(CampaignError::NoQuorum)),
            Err(_) => {
                return Err(verdict::internal_unknown(
                    "a campaign ended without a result",
                ));
            }
        };
        match result {
            Ok(leader) => Ok(Campaign { leader }),
            Err(CampaignError::LeaderAlive(leader)) => Err(Failure::not_done(
                Code::LeaderAlive,
                format!("node {leader} leads and answers this node"),
            )),
            Err(CampaignError::NoQuorum) => Err(verdict::no_quorum()),
        }
    }
}
