//! Delivers applied effects to the live sessions of this node. The store's writer thread publishes them in log order, so
//! nothing here blocks: lines go into bounded [`Outbox`]es by try-send.
//!
//! Writes no sockets and stores nothing: a user who is not connected finds the messages in `inbox`.

mod outbox;
mod render;

use std::collections::HashMap;
use std::sync::Arc;

use messagebase_protocol::json::ClosingReason;
use parking_lot::Mutex;

pub use outbox::{Chunk, OUTBOX_MAX_BYTES, OUTBOX_MAX_LINES, Outbox, WRITE_COALESCE_BYTES};
pub use render::{Dialect, closing_line};

use crate::presence::Presence;
use crate::state::effect::Effect;
use crate::store::EffectSink;
use render::Rendered;

/// One logged-in connection.
#[derive(Debug, Clone)]
struct Subscriber {
    /// Distinguishes connections that share a session.
    number: u64,
    session: u64,
    dialect: Dialect,
    outbox: Arc<Outbox>,
}

#[derive(Debug, Default)]
struct State {
    next_number: u64,
    by_user: HashMap<u64, Vec<Subscriber>>,
    /// By session: its user, and how many connections share it.
    sessions: HashMap<u64, (u64, usize)>,
}

/// The live sessions of this node.
#[derive(Debug)]
pub struct Fanout {
    /// Locked for map operations only: lines are rendered and queued outside.
    state: Mutex<State>,
    presence: Arc<Presence>,
}

/// A connection's subscription; dropping it detaches the connection.
#[derive(Debug)]
pub struct Attachment {
    fanout: Arc<Fanout>,
    user: u64,
    number: u64,
}

impl Attachment {
    /// Detaches before the last clone of the owner is dropped. A second call does nothing.
    pub fn detach(&self) {
        self.fanout.detach(self.user, self.number);
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.detach();
    }
}

impl Fanout {
    /// Without connections. Reports users who arrive or leave to `presence`.
    pub fn new(presence: Arc<Presence>) -> Arc<Self> {
        Arc::new(Fanout {
            state: Mutex::default(),
            presence,
        })
    }

    /// Subscribes a connection: from now on its outbox receives the session's events.
    pub fn attach(
        self: &Arc<Self>,
        user: u64,
        session: u64,
        dialect: Dialect,
        outbox: Arc<Outbox>,
    ) -> Attachment {
        let number = {
            let mut state = self.state.lock();
            let number = state.next_number;
            state.next_number += 1;
            state.by_user.entry(user).or_default().push(Subscriber {
                number,
                session,
                dialect,
                outbox,
            });
            state.sessions.entry(session).or_insert((user, 0)).1 += 1;
            number
        };
        self.presence.arrived(user);
        Attachment {
            fanout: self.clone(),
            user,
            number,
        }
    }

    fn detach(&self, user: u64, number: u64) {
        {
            let mut state = self.state.lock();
            let Some(subscribers) = state.by_user.get_mut(&user) else {
                return;
            };
            let Some(at) = subscribers
                .iter()
                .position(|subscriber| subscriber.number == number)
            else {
                return;
            };
            let gone = subscribers.remove(at);
            if subscribers.is_empty() {
                state.by_user.remove(&user);
            }
            if let Some((_, connections)) = state.sessions.get_mut(&gone.session) {
                *connections -= 1;
                if *connections == 0 {
                    state.sessions.remove(&gone.session);
                }
            }
        }
        self.presence.left(user);
    }

    /// Sessions with a connection to this node.
    pub fn sessions(&self) -> usize {
        self.state.lock().sessions.len()
    }

    /// The node is stopping: every logged-in connection closes.
    pub fn shutdown(&self) {
        self.close_all(ClosingReason::Shutdown);
    }

    fn close_all(&self, reason: ClosingReason) {
        let subscribers: Vec<Subscriber> = self
            .state
            .lock()
            .by_user
            .values()
            .flatten()
            .cloned()
            .collect();
        for subscriber in subscribers {
            subscriber.outbox.close(reason);
        }
    }

    fn subscribers_of(&self, user: u64) -> Vec<Subscriber> {
        self.state
            .lock()
            .by_user
            .get(&user)
            .cloned()
            .unwrap_or_default()
    }

    fn deliver(&self, effect: Effect) {
        match effect {
            Effect::Message {
                sender,
                recipient,
                sending_session,
                message,
            } => {
                let to_recipient = self.subscribers_of(recipient);
                let mut to_others = if sender == recipient {
                    Vec::new()
                } else {
                    self.subscribers_of(sender)
                };
                to_others.retain(|subscriber| Some(subscriber.session) != sending_session);
                if to_recipient.is_empty() && to_others.is_empty() {
                    return;
                }
                let line = Rendered::message(message.to_message());
                for subscriber in to_recipient {
                    if let Some(line) = line.to_recipient(subscriber.dialect) {
                        subscriber.outbox.event(line, Some(message.id));
                    }
                }
                for subscriber in to_others {
                    if let Some(line) = line.to_others(subscriber.dialect) {
                        subscriber.outbox.event(line, None);
                    }
                }
            }
            Effect::Delivered {
                sender,
                through,
                by,
            } => {
                let line = Rendered::delivered(through, by);
                for subscriber in self.subscribers_of(sender) {
                    if let Some(line) = line.to_others(subscriber.dialect) {
                        subscriber.outbox.event(line, None);
                    }
                }
            }
            Effect::SessionEnded { session, reason } => {
                let user = self
                    .state
                    .lock()
                    .sessions
                    .get(&session)
                    .map(|(user, _)| *user);
                let subscribers = user
                    .map(|user| self.subscribers_of(user))
                    .unwrap_or_default();
                for subscriber in subscribers
                    .into_iter()
                    .filter(|subscriber| subscriber.session == session)
                {
                    subscriber.outbox.close(reason);
                }
            }
        }
    }
}

impl EffectSink for Fanout {
    fn publish(&self, effects: Vec<Effect>) {
        for effect in effects {
            self.deliver(effect);
        }
    }

    fn resync(&self) {
        self.close_all(ClosingReason::Resync);
    }
}

#[cfg(test)]
mod tests {
    use messagebase_protocol::json::Message;

    use super::*;
    use crate::state::effect::NewMessage;

    fn message(id: u64) -> NewMessage {
        Message {
            id,
            from: "ann".into(),
            to: "bob".into(),
            body: "hi".into(),
            sent_at: 1,
        }
        .into()
    }

    async fn drain(outbox: &Outbox) -> String {
        outbox.finish(None);
        let mut text = String::new();
        while let Some(batch) = outbox.take().await {
            text.push_str(std::str::from_utf8(&batch.bytes).expect("lines are text"));
        }
        text
    }

    fn attach(
        fanout: &Arc<Fanout>,
        user: u64,
        session: u64,
        dialect: Dialect,
    ) -> (Attachment, Arc<Outbox>) {
        let outbox = Arc::new(Outbox::new());
        (
            fanout.attach(user, session, dialect, outbox.clone()),
            outbox,
        )
    }

    #[tokio::test]
    async fn a_message_reaches_the_recipient_and_the_senders_other_sessions() {
        let fanout = Fanout::new(Arc::new(Presence::new()));
        let (_a, sending) = attach(&fanout, 1, 10, Dialect::Json);
        let (_b, other) = attach(&fanout, 1, 11, Dialect::Json);
        let (_c, json) = attach(&fanout, 2, 20, Dialect::Json);
        let (_d, pipe) = attach(&fanout, 2, 21, Dialect::Pipe);
        let effect = Effect::Message {
            sender: 1,
            recipient: 2,
            sending_session: Some(10),
            message: message(5),
        };
        fanout.publish(vec![
            effect,
            Effect::Delivered {
                sender: 1,
                through: 5,
                by: "bob".into(),
            },
        ]);
        let event = "{\"event\":\"message\",\"message\":{\"id\":5,\"from\":\"ann\",\"to\":\"bob\",\"body\":\"hi\",\"sent_at\":1}}\n";
        let delivered = "{\"event\":\"delivered\",\"through\":5,\"by\":\"bob\"}\n";
        assert_eq!(drain(&sending).await, delivered);
        assert_eq!(drain(&other).await, format!("{event}{delivered}"));
        assert_eq!(drain(&json).await, event);
        assert_eq!(drain(&pipe).await, "MSG ann 1970-01-01T00:00:00.001Z hi\n");
    }

    #[tokio::test]
    async fn the_senders_other_sessions_hear_of_it_when_the_recipient_is_away() {
        let fanout = Fanout::new(Arc::new(Presence::new()));
        let (_a, other) = attach(&fanout, 1, 11, Dialect::Json);
        let effect = Effect::Message {
            sender: 1,
            recipient: 2,
            sending_session: Some(10),
            message: message(5),
        };
        fanout.publish(vec![effect]);
        assert_eq!(drain(&other).await.lines().count(), 1);
    }

    #[tokio::test]
    async fn a_message_to_oneself_comes_once_to_every_session() {
        let fanout = Fanout::new(Arc::new(Presence::new()));
        let (_a, one) = attach(&fanout, 1, 10, Dialect::Pipe);
        let effect = Effect::Message {
            sender: 1,
            recipient: 1,
            sending_session: Some(10),
            message: message(5),
        };
        fanout.publish(vec![effect]);
        assert_eq!(drain(&one).await.lines().count(), 1);
    }

    #[test]
    fn the_end_of_a_session_closes_its_connections_alone() {
        let presence = Arc::new(Presence::new());
        let fanout = Fanout::new(presence.clone());
        let (a, first) = attach(&fanout, 1, 10, Dialect::Json);
        let (b, second) = attach(&fanout, 1, 10, Dialect::Json);
        let (_c, other) = attach(&fanout, 1, 11, Dialect::Json);
        fanout.publish(vec![Effect::SessionEnded {
            session: 10,
            reason: ClosingReason::Logout,
        }]);
        assert_eq!(first.closing_reason(), Some(ClosingReason::Logout));
        assert_eq!(second.closing_reason(), Some(ClosingReason::Logout));
        assert_eq!(other.closing_reason(), None);
        assert_eq!(fanout.sessions(), 2);
        drop((a, b));
        assert_eq!(fanout.sessions(), 1);
        assert!(presence.is_online(1));
        fanout.resync();
        assert_eq!(other.closing_reason(), Some(ClosingReason::Resync));
        assert_eq!(
            first.closing_reason(),
            Some(ClosingReason::Logout),
            "the first reason stays"
        );
    }
}
