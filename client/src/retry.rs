//! Calls with patience: each is repeated over failovers until a node gives a final answer or its patience ends.

use std::sync::Arc;
use std::time::Duration;

use messagebase_protocol::code::{Certainty, Code, Failure};
use messagebase_protocol::json::Op;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::connected::ANSWER_TIMEOUT;
use crate::connection::CallError;
use crate::error::{ClientError, Unavailable};
use crate::link::{Link, Order, Up};
use crate::random;

/// First pause before a refused call is tried again, before jitter.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// Longest pause before a refused call is tried again, before jitter.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The way to the task and what it says of the connection.
pub(crate) struct Calls {
    pub orders: mpsc::Sender<Order>,
    pub link: watch::Receiver<Link>,
    /// How long a call goes on while the cluster does not serve.
    pub patience: Duration,
    /// How long a call goes on while no node answers.
    pub no_node_patience: Duration,
}

impl Calls {
    /// Waits until the user is as wanted.
    pub async fn user_is(
        &self,
        wanted: impl Fn(&Option<String>) -> bool,
    ) -> Result<(), ClientError> {
        let mut link = self.link.clone();
        link.wait_for(|link| wanted(&link.user))
            .await
            .map(|_| ())
            .map_err(|_| ClientError::Closed)
    }

    /// Gives the task an order.
    pub async fn order(&self, order: Order) -> Result<(), ClientError> {
        self.orders
            .send(order)
            .await
            .map_err(|_| ClientError::Closed)
    }

    /// Asks until there is a final answer.
    pub async fn call<T: DeserializeOwned>(&self, op: Op) -> Result<T, ClientError> {
        self.call_where(op).await.map(|(answer, _)| answer)
    }

    /// Asks until there is a final answer; also on which connection it came.
    pub async fn call_where<T: DeserializeOwned>(&self, op: Op) -> Result<(T, u64), ClientError> {
        let began = Instant::now();
        let (mut spent, mut asked, mut pause) = (None, false, RETRY_FIRST);
        loop {
            let up = self.up(began, spent, asked).await?;
            asked = true;
            let failure = match up.connection.call(op.clone(), ANSWER_TIMEOUT).await {
                Ok(answer) => return Ok((answer, up.generation)),
                Err(CallError::Lost | CallError::TimedOut) => {
                    self.order(Order::Suspect {
                        generation: up.generation,
                    })
                    .await?;
                    spent = Some(up.generation);
                    continue;
                }
                Err(CallError::Refused(failure)) => failure,
                Err(CallError::TooMany) => {
                    Failure::not_done(Code::Busy, "too many requests on one connection")
                }
                Err(CallError::Unreadable(message)) => {
                    let code = Code::Internal;
                    let failure = Failure {
                        code,
                        message,
                        certainty: Certainty::Unknown,
                        retry_after_ms: None,
                    };
                    return Err(ClientError::Refused(failure));
                }
            };
            match failure.code {
                Code::NoQuorum | Code::Closing => {
                    self.order(Order::Suspect {
                        generation: up.generation,
                    })
                    .await?;
                    spent = Some(up.generation);
                }
                Code::Busy => {}
                _ => return Err(ClientError::Refused(failure)),
            }
            let pause_now = failure
                .retry_after_ms
                .map_or_else(|| random::up_to(pause), Duration::from_millis);
            pause = (pause * 2).min(RETRY_MAX);
            if began.elapsed() + pause_now >= self.patience {
                return Err(ClientError::Refused(failure));
            }
            tokio::time::sleep(pause_now).await;
        }
    }

    fn patience_for(&self, state: &Result<Arc<Up>, Unavailable>) -> Duration {
        match state {
            Err(Unavailable::NoNode { .. } | Unavailable::Untrusted { .. }) => {
                self.no_node_patience.min(self.patience)
            }
            Ok(_) | Err(_) => self.patience,
        }
    }

    /// Waits for something that the task behind it does, as long as patience allows; then says what was wrong.
    pub async fn patiently<T>(&self, wanted: impl Future<Output = T>) -> Result<T, Unavailable> {
        tokio::pin!(wanted);
        let began = Instant::now();
        let mut link = self.link.clone();
        loop {
            let until = began + self.patience_for(&link.borrow_and_update().state);
            tokio::select! {
                got = &mut wanted => return Ok(got),
                // Patience depends on what is wrong, which may have changed.
                Ok(()) = link.changed() => {}
                () = tokio::time::sleep_until(until) => {
                    return Err(link.borrow().state.as_ref().err().cloned().unwrap_or(Unavailable::Electing));
                }
            }
        }
    }

    /// Waits for a connection newer than `spent`, at most as long as patience since `began`.
    pub async fn up(
        &self,
        began: Instant,
        spent: Option<u64>,
        asked: bool,
    ) -> Result<Arc<Up>, ClientError> {
        let mut link = self.link.clone();
        loop {
            let until = {
                let seen = link.borrow_and_update();
                match &seen.state {
                    Ok(up) if spent.is_none_or(|spent| up.generation > spent) => {
                        return Ok(up.clone());
                    }
                    state => began + self.patience_for(state),
                }
            };
            match tokio::time::timeout_at(until, link.changed()).await {
                Ok(changed) => changed.map_err(|_| ClientError::Closed)?,
                Err(_) => {
                    let why = link
                        .borrow()
                        .state
                        .as_ref()
                        .err()
                        .cloned()
                        .unwrap_or(Unavailable::Connecting);
                    return Err(ClientError::Unreachable {
                        why,
                        unknown: asked,
                    });
                }
            }
        }
    }
}
