//! What arrives for the program: messages in order, once, and acknowledged when they were shown. It asks no node: the
//! connection brings pages and events, and takes the acknowledgements out.

use messagebase_protocol::json::Message;
use tokio::sync::mpsc;

use crate::feed::{Feed, Fetch};
use crate::notice::{ClientEvent, Notice};

/// Everything that goes to the program.
pub(crate) struct Mailbox {
    events: mpsc::Sender<ClientEvent>,
    pub feed: Feed,
    /// Whether messages are wanted.
    pub receive: bool,
    /// Messages up to this id may be acknowledged.
    shown: u64,
    /// Messages up to this id are acknowledged.
    acknowledged: u64,
    /// A message could not be handed to the program: it will come again from the inbox.
    pub stalled: bool,
}

impl Mailbox {
    pub fn new(events: mpsc::Sender<ClientEvent>, receive: bool) -> Mailbox {
        Mailbox {
            events,
            feed: Feed::default(),
            receive,
            shown: 0,
            acknowledged: 0,
            stalled: false,
        }
    }

    /// Another user's messages follow.
    pub fn reset(&mut self) {
        self.feed.reset();
        (self.shown, self.acknowledged) = (0, 0);
    }

    /// The connection is lost: what was under way comes again.
    pub fn interrupt(&mut self) {
        self.feed.interrupt();
        self.stalled = false;
    }

    /// The program showed messages up to this id.
    pub fn show(&mut self, through: u64) {
        self.shown = self.shown.max(through.min(self.feed.last()));
    }

    /// The id up to which messages are to be acknowledged now.
    pub fn to_acknowledge(&self) -> Option<u64> {
        (self.shown > self.acknowledged).then_some(self.shown)
    }

    /// A node acknowledged messages up to this id, or refused to for good.
    pub fn acknowledged(&mut self, through: u64) {
        self.acknowledged = self.acknowledged.max(through);
    }

    /// A message came as an event.
    pub fn event(&mut self, message: Message) {
        let out = self.feed.event(message);
        self.hand_on(out.into_iter().collect());
    }

    /// A page of the inbox came; the next one to ask for, if there is more and the program has room.
    pub fn page(
        &mut self,
        messages: Vec<Message>,
        reached: Option<u64>,
        more: bool,
    ) -> Option<Fetch> {
        let (out, next) = self.feed.page(messages, reached, more);
        self.hand_on(out).then_some(next).flatten()
    }

    /// Hands messages to the program. False: there is no room; they will come again from the inbox.
    fn hand_on(&mut self, messages: Vec<Message>) -> bool {
        for message in messages {
            let id = message.id;
            match self.events.try_send(ClientEvent::Message(message)) {
                Ok(()) => self.feed.went_out(id),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    // From here on the feed holds events back, or a later one could overtake this message.
                    self.feed.interrupt();
                    self.feed.begin();
                    self.stalled = true;
                    return false;
                }
                // Nobody wants messages; they stay unacknowledged and therefore in the inbox.
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
            }
        }
        true
    }

    /// Reports something that a program may miss.
    pub fn tell(&self, event: ClientEvent) {
        // A program with a full queue shows nothing now. News get old, and messages come again.
        let _ = self.events.try_send(event);
    }

    /// Reports news of the cluster or the session.
    pub fn notice(&self, notice: Notice) {
        self.tell(ClientEvent::Notice(notice));
    }

    /// Waits until there is room for messages. False: the program wants none any more.
    pub async fn room(&self) -> bool {
        self.events.reserve().await.is_ok()
    }
}
