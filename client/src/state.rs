//! What a client is between two connections: who is logged in, what was not answered, what was shown. It takes the
//! handle's orders as far as they need no connection.

use messagebase_protocol::code::Code;
use messagebase_protocol::json::{ClosingReason, Message, Resumed};
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::{ClientError, Unavailable};
use crate::failover::PreviousSession;
use crate::link::{Link, Order, SendWaiter};
use crate::mailbox::Mailbox;
use crate::notice::{ClientEvent, Ended, Notice};
use crate::outbox::{OUTBOX_MAX, Outbox};

/// A session: whose, and its token.
pub(crate) struct Identity {
    pub user: String,
    pub token: String,
}

/// All that outlives a connection.
pub(crate) struct State {
    pub link: watch::Sender<Link>,
    pub mailbox: Mailbox,
    pub outbox: Outbox<SendWaiter>,
    /// Whose messages those are. It outlives the end of a session that the user did not want, `identity` does not.
    outbox_owner: Option<String>,
    pub identity: Option<Identity>,
    /// The user is ending the session.
    pub leaving: bool,
    /// Waits to hear whether the token of an earlier run is good.
    resuming: Option<oneshot::Sender<bool>>,
    /// The cluster that the token and the outbox are for.
    pub cluster_id: Option<String>,
}

impl State {
    pub fn new(
        link: watch::Sender<Link>,
        events: mpsc::Sender<ClientEvent>,
        receive: bool,
    ) -> State {
        State {
            link,
            mailbox: Mailbox::new(events, receive),
            outbox: Outbox::default(),
            outbox_owner: None,
            identity: None,
            leaving: false,
            resuming: None,
            cluster_id: None,
        }
    }

    /// What is to be resumed on the next connection.
    pub fn previous_session(&self) -> PreviousSession {
        PreviousSession {
            cluster_id: self.cluster_id.clone(),
            token: self.token(),
        }
    }

    /// The token of the session, if there is one.
    pub fn token(&self) -> Option<String> {
        self.identity
            .as_ref()
            .map(|identity| identity.token.clone())
    }

    /// Takes one order, as far as it needs no connection.
    pub fn take_order(&mut self, order: Order) {
        match order {
            Order::Send(entry) => {
                if self.outbox_owner.is_none() {
                    // It came behind a logout: the next user must not find it here.
                    let _ = entry.waiter.send(Err(ClientError::NotLoggedIn));
                } else if let Err((_, waiter)) = self.outbox.push(entry) {
                    let _ = waiter.send(Err(ClientError::OutboxFull { limit: OUTBOX_MAX }));
                }
            }
            Order::Withdraw(ticket) => {
                if let Some(entry) = self.outbox.withdraw(ticket) {
                    let _ = entry.waiter.send(Err(ClientError::Withdrawn));
                }
            }
            Order::LoggedIn { user, token, .. } => self.identify(Some(Identity { user, token })),
            Order::Resume {
                user,
                token,
                cluster_id,
                good,
            } => {
                self.cluster_id = cluster_id.or(self.cluster_id.take());
                self.identify(Some(Identity { user, token }));
                self.resuming = Some(good);
            }
            Order::Leaving => self.leaving = true,
            Order::Staying => self.leaving = false,
            Order::Forget => {
                self.disown_outbox();
                self.identify(None);
            }
            Order::Detach => {
                // The connection carries the session that is left: before the handle sees that nobody is logged in,
                // it must not find that connection any more.
                self.link
                    .send_modify(|link| link.state = Err(Unavailable::Connecting));
                self.disown_outbox();
                self.identify(None);
            }
            Order::Suspect { .. } => {}
            Order::Acknowledge(through) => self.mailbox.show(through),
            Order::Receive(receive) => self.mailbox.receive = receive,
            Order::ReleaseOutbox => self.outbox.release(),
            Order::DropOutbox => self.drop_outbox(),
        }
    }

    /// Another user (or none): what belonged to the previous one goes. The outbox stays when a session just ended: the
    /// same person usually logs in again, and the next login shows whether it is.
    fn identify(&mut self, identity: Option<Identity>) {
        if let Some(new) = &identity {
            if self
                .outbox_owner
                .as_ref()
                .is_some_and(|owner| !owner.eq_ignore_ascii_case(&new.user))
            {
                self.disown_outbox();
            }
            self.outbox_owner = Some(new.user.clone());
        }
        self.mailbox.reset();
        self.leaving = false;
        self.identity = identity;
        let user = self.identity.as_ref().map(|identity| identity.user.clone());
        self.link.send_modify(|link| link.user = user);
    }

    /// Nobody may send what its owner left behind; the user hears how much that was.
    fn disown_outbox(&mut self) {
        let count = self.outbox.len();
        let owner = self.outbox_owner.take();
        self.drop_outbox();
        if let (Some(owner), 1..) = (owner, count) {
            self.mailbox.notice(Notice::OutboxDropped { owner, count });
        }
    }

    fn drop_outbox(&mut self) {
        for entry in self.outbox.drain() {
            let _ = entry.waiter.send(Err(ClientError::Withdrawn));
        }
    }

    /// A message came as an event.
    pub fn take_message(&mut self, message: Message) {
        // Between a login's answer and its order nobody can say whose it is; the inbox brings it afterwards.
        let Some(Identity { user: me, .. }) =
            self.identity.as_ref().filter(|_| self.mailbox.receive)
        else {
            return;
        };
        if message.to.eq_ignore_ascii_case(me) {
            self.mailbox.event(message);
        } else {
            self.mailbox.tell(ClientEvent::SentElsewhere(message));
        }
    }

    /// The connection is lost: what was under way has to be asked for again.
    pub fn interrupt(&mut self) {
        self.outbox.lost();
        self.mailbox.interrupt();
        self.link
            .send_modify(|link| link.state = Err(Unavailable::Connecting));
    }

    /// A node resumed the session.
    pub fn resumed(&mut self, resumed: Resumed) {
        if let Some(identity) = &mut self.identity {
            identity.user = resumed.user;
        }
    }

    /// A node refused the token.
    pub fn refused(&mut self, code: Code) {
        self.end_session(match code {
            Code::Locked => Ended::Closed(ClosingReason::Locked),
            _ => Ended::TokenRefused,
        });
    }

    /// The nodes belong to another cluster: it sees neither the token nor, without the user's word, the messages.
    pub fn new_cluster(&mut self) {
        self.end_session(Ended::NewCluster);
        if !self.outbox.is_empty() {
            self.outbox.hold();
            let held = self.outbox.len();
            self.mailbox.notice(Notice::NewCluster { held });
        }
    }

    /// Tells a waiting resume whether the token was good.
    pub fn answer_resume(&mut self) {
        if let Some(resuming) = self.resuming.take() {
            let _ = resuming.send(self.identity.is_some());
        }
    }

    /// The session is over, though the user did not end it.
    pub fn end_session(&mut self, why: Ended) {
        // A user who is leaving, or waits to hear of a token, gets that in the answer.
        let news = self.identity.is_some() && !self.leaving && self.resuming.is_none();
        self.identify(None);
        if news {
            self.mailbox.notice(Notice::Ended { why });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Entry;

    fn state() -> (State, mpsc::Receiver<ClientEvent>) {
        let (events, receiver) = mpsc::channel(16);
        let link = Link {
            user: None,
            state: Err(Unavailable::Connecting),
        };
        (State::new(watch::Sender::new(link), events, true), receiver)
    }

    fn log_in(state: &mut State, user: &str) {
        state.take_order(Order::LoggedIn {
            generation: 0,
            user: user.into(),
            token: format!("token of {user}"),
        });
    }

    fn enqueue(
        state: &mut State,
    ) -> oneshot::Receiver<Result<messagebase_protocol::json::Sent, ClientError>> {
        let (waiter, answer) = oneshot::channel();
        let (to, body, key) = ("carol".into(), "from alice".into(), "key".into());
        state.take_order(Order::Send(Entry {
            ticket: 1,
            to,
            body,
            key,
            waiter,
        }));
        answer
    }

    fn dropped(events: &mut mpsc::Receiver<ClientEvent>) -> Option<usize> {
        std::iter::from_fn(|| events.try_recv().ok()).find_map(|event| match event {
            ClientEvent::Notice(Notice::OutboxDropped { count, .. }) => Some(count),
            _ => None,
        })
    }

    #[tokio::test]
    async fn what_one_user_wrote_is_never_sent_as_another() {
        let (mut state, mut events) = state();
        log_in(&mut state, "alice");
        let mut answer = enqueue(&mut state);
        state.end_session(Ended::Closed(ClosingReason::Locked));
        log_in(&mut state, "Alice");
        assert_eq!(
            (state.outbox.len(), dropped(&mut events)),
            (1, None),
            "the same user's goes on"
        );
        state.end_session(Ended::TokenRefused);
        log_in(&mut state, "bob");
        assert_eq!((state.outbox.len(), dropped(&mut events)), (0, Some(1)));
        assert!(matches!(answer.try_recv(), Ok(Err(ClientError::Withdrawn))));
    }

    #[tokio::test]
    async fn a_message_that_overtakes_the_login_is_left_to_the_inbox() {
        let (mut state, mut events) = state();
        let message = Message {
            id: 7,
            from: "bob".into(),
            to: "alice".into(),
            body: "hi".into(),
            sent_at: 0,
        };
        state.take_message(message.clone());
        assert!(events.try_recv().is_err(), "its owner is not known yet");
        log_in(&mut state, "alice");
        state.take_message(message);
        assert!(matches!(events.try_recv(), Ok(ClientEvent::Message(message)) if message.id == 7));
    }

    #[tokio::test]
    async fn a_logout_drops_the_outbox_and_what_comes_behind_it() {
        let (mut state, mut events) = state();
        log_in(&mut state, "alice");
        let _answer = enqueue(&mut state);
        state.take_order(Order::Forget);
        assert_eq!((state.outbox.len(), dropped(&mut events)), (0, Some(1)));
        let mut late = enqueue(&mut state);
        assert!(matches!(late.try_recv(), Ok(Err(ClientError::NotLoggedIn))));
        log_in(&mut state, "bob");
        assert!(state.outbox.is_empty());
    }
}
