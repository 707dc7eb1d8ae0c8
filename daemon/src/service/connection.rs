//! One client connection as the service knows it: its address, its outbox, and its session once it has one. It has at most
//! one session: the end of the session closes the connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::json::ClosingReason;
use parking_lot::Mutex;

use super::{status, verdict};
use crate::fanout::{Attachment, Dialect, Outbox};
use crate::throttle::RateLimit;

/// A session on a connection; clones share it.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its id: the actor of its changes.
    pub id: u64,
    /// Its user.
    pub user: u64,
    /// The user's name as registered.
    pub name: Arc<str>,
    /// Whether a linear check has passed; false only after a local `resume`.
    checked: Arc<AtomicBool>,
    /// The subscription to events; dropped with the last clone.
    attachment: Arc<Attachment>,
}

impl Session {
    pub(super) fn new(
        id: u64,
        user: u64,
        name: &str,
        checked: bool,
        attachment: Attachment,
    ) -> Self {
        Session {
            id,
            user,
            name: name.into(),
            checked: Arc::new(AtomicBool::new(checked)),
            attachment: Arc::new(attachment),
        }
    }

    pub(super) fn is_checked(&self) -> bool {
        self.checked.load(Ordering::Acquire)
    }

    pub(super) fn set_checked(&self) {
        self.checked.store(true, Ordering::Release);
    }
}

#[derive(Debug, Default)]
struct State {
    session: Option<Session>,
    /// Name of the session that ended, for the repetition of a `delete`.
    ended: Option<Arc<str>>,
}

/// See the module.
#[derive(Debug)]
pub struct Connection {
    /// For the limit on failed logins; `None` in tests.
    pub address: Option<IpAddr>,
    /// Its dialect.
    pub dialect: Dialect,
    /// Its queue of lines.
    pub outbox: Arc<Outbox>,
    state: Mutex<State>,
    pub(super) campaigns: RateLimit,
}

impl Connection {
    /// A connection without a session.
    pub fn new(address: Option<IpAddr>, dialect: Dialect, outbox: Arc<Outbox>) -> Self {
        let campaigns = RateLimit::new(status::CAMPAIGNS_PER_CONNECTION, status::CAMPAIGN_WINDOW);
        Connection {
            address,
            dialect,
            outbox,
            state: Mutex::default(),
            campaigns,
        }
    }

    /// The session, or `not_logged_in`: there was none, or it has ended.
    pub fn session(&self) -> Result<Session, Failure> {
        use ClosingReason::{Deleted, Locked, Logout};
        if matches!(
            self.outbox.closing_reason(),
            Some(Logout | Locked | Deleted)
        ) {
            return Err(verdict::not_logged_in());
        }
        self.state
            .lock()
            .session
            .clone()
            .ok_or_else(verdict::not_logged_in)
    }

    /// Whether it is logged in.
    pub fn is_logged_in(&self) -> bool {
        self.state.lock().session.is_some()
    }

    /// The name of its session, live or ended.
    pub fn past_name(&self) -> Option<Arc<str>> {
        let state = self.state.lock();
        state
            .session
            .as_ref()
            .map(|session| session.name.clone())
            .or_else(|| state.ended.clone())
    }

    /// Refuses a second session.
    pub(super) fn check_free(&self) -> Result<(), Failure> {
        let state = self.state.lock();
        if state.ended.is_some() || self.outbox.closing_reason().is_some() {
            return Err(Failure::not_done(
                Code::Closing,
                "this connection is closing; log in on a new one",
            ));
        }
        if state.session.is_some() {
            return Err(Failure::not_done(
                Code::BadRequest,
                "this connection is logged in; open another one",
            ));
        }
        Ok(())
    }

    pub(super) fn begin_session(&self, session: Session) {
        self.state.lock().session = Some(session);
    }

    /// Its session has ended or was found dead: the connection closes once its requests are answered. Fan-out closes it
    /// too, unless the session ended before the connection was attached.
    pub(super) fn end_session(&self, reason: ClosingReason) {
        {
            let mut state = self.state.lock();
            if let Some(session) = state.session.take() {
                state.ended = Some(session.name.clone());
            }
        }
        self.outbox.close(reason);
    }

    /// The connection is gone: the session receives no more events through it, even while a request is still at work.
    pub fn leave(&self) {
        if let Some(session) = self.state.lock().session.as_ref() {
            session.attachment.detach();
        }
    }
}
