//! What the user sent and no node has answered: bounded, in order, each entry under the key it was given first. Pure:
//! it sends nothing itself. It lives in memory, so it survives every reconnect but not the process.
//!
//! One entry is on its way at a time. With more, the first could be refused for want of a quorum while the second gets
//! through, and sending the first again would then deliver them in the wrong order.

use std::collections::VecDeque;

/// Unanswered messages that are kept; at 16 KiB each at most 16 MiB.
pub const OUTBOX_MAX: usize = 1_000;

/// The outbox has [`OUTBOX_MAX`] entries.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// One message on its way.
#[derive(Debug)]
pub struct Entry<W> {
    /// Names the entry within this process.
    pub ticket: u64,
    /// Recipient.
    pub to: String,
    /// Text.
    pub body: String,
    /// Never changes, so that a node recognizes the repetition.
    pub key: String,
    /// Gets the answer.
    pub waiter: W,
}

/// A bounded queue; only its head may be on its way.
#[derive(Debug)]
pub struct Outbox<W> {
    entries: VecDeque<Entry<W>>,
    /// Ticket of the entry whose answer is awaited.
    in_flight: Option<u64>,
    /// The cluster changed its identity: nothing goes out before the user agrees.
    held: bool,
    limit: usize,
}

impl<W> Default for Outbox<W> {
    fn default() -> Self {
        Outbox::with_limit(OUTBOX_MAX)
    }
}

impl<W> Outbox<W> {
    /// An empty outbox for at most `limit` entries.
    pub fn with_limit(limit: usize) -> Self {
        Outbox {
            entries: VecDeque::new(),
            in_flight: None,
            held: false,
            limit,
        }
    }

    /// Adds a message behind all others.
    ///
    /// # Errors
    /// `Full`, with the entry's waiter given back.
    pub fn push(&mut self, entry: Entry<W>) -> Result<(), (Full, W)> {
        if self.entries.len() >= self.limit {
            return Err((Full, entry.waiter));
        }
        self.entries.push_back(entry);
        Ok(())
    }

    /// The message to send now, marked as on its way; `None` while one is, while held, or when empty.
    pub fn next_to_send(&mut self) -> Option<&Entry<W>> {
        if self.held || self.in_flight.is_some() {
            return None;
        }
        let head = self.entries.front()?;
        self.in_flight = Some(head.ticket);
        Some(head)
    }

    /// The answer is final: takes the entry out. `None` if it was withdrawn meanwhile.
    pub fn answered(&mut self, ticket: u64) -> Option<Entry<W>> {
        self.retry(ticket);
        self.take(ticket)
    }

    /// The answer was "ask again": the entry stays the head and may be sent again.
    pub fn retry(&mut self, ticket: u64) {
        if self.in_flight == Some(ticket) {
            self.in_flight = None;
        }
    }

    /// The connection is gone: the head has to be sent again.
    pub fn lost(&mut self) {
        self.in_flight = None;
    }

    /// Takes a message out before it was answered. If it was on its way, the next one still waits for its answer.
    pub fn withdraw(&mut self, ticket: u64) -> Option<Entry<W>> {
        self.take(ticket)
    }

    /// Holds everything back until [`Outbox::release`].
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// The user agreed.
    pub fn release(&mut self) {
        self.held = false;
    }

    /// Whether the user has to agree first.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Empties it.
    pub fn drain(&mut self) -> Vec<Entry<W>> {
        self.held = false;
        self.in_flight = None;
        self.entries.drain(..).collect()
    }

    /// Unanswered messages.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether everything was answered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn take(&mut self, ticket: u64) -> Option<Entry<W>> {
        let at = self
            .entries
            .iter()
            .position(|entry| entry.ticket == ticket)?;
        self.entries.remove(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(ticket: u64) -> Entry<()> {
        Entry {
            ticket,
            to: "bob".into(),
            body: format!("{ticket}"),
            key: format!("key-{ticket}"),
            waiter: (),
        }
    }

    fn filled(count: u64) -> Outbox<()> {
        let mut outbox = Outbox::default();
        for ticket in 1..=count {
            outbox.push(entry(ticket)).unwrap();
        }
        outbox
    }

    #[test]
    fn one_at_a_time_in_order() {
        let mut outbox = filled(3);
        for ticket in 1..=3 {
            assert_eq!(outbox.next_to_send().unwrap().ticket, ticket);
            assert!(
                outbox.next_to_send().is_none(),
                "the second must wait for the first one's answer"
            );
            outbox.answered(ticket).unwrap();
        }
        assert!(outbox.next_to_send().is_none());
    }

    #[test]
    fn what_was_lost_goes_again_first_and_under_its_key() {
        let mut outbox = filled(2);
        let key = outbox.next_to_send().unwrap().key.clone();
        outbox.push(entry(3)).unwrap();
        outbox.lost();
        let again = outbox.next_to_send().unwrap();
        assert_eq!((again.ticket, &again.key), (1, &key));
        outbox.answered(1);
        assert_eq!(outbox.next_to_send().unwrap().ticket, 2);
    }

    #[test]
    fn a_retryable_answer_keeps_the_head() {
        let mut outbox = filled(2);
        outbox.next_to_send();
        outbox.retry(1);
        assert_eq!(outbox.next_to_send().unwrap().ticket, 1);
    }

    #[test]
    fn a_late_answer_of_a_lost_attempt_does_not_free_the_next_one() {
        let mut outbox = filled(2);
        outbox.next_to_send();
        outbox.answered(1);
        outbox.next_to_send();
        outbox.retry(1);
        assert!(outbox.next_to_send().is_none(), "2 is still on its way");
    }

    #[test]
    fn it_is_bounded() {
        let mut outbox = Outbox::with_limit(1);
        outbox.push(entry(1)).unwrap();
        assert_eq!(outbox.push(entry(2)).unwrap_err().0, Full);
        outbox.next_to_send();
        outbox.answered(1);
        outbox.push(entry(2)).unwrap();
    }

    #[test]
    fn held_until_the_user_agrees() {
        let mut outbox = filled(1);
        outbox.hold();
        assert!(outbox.next_to_send().is_none());
        outbox.release();
        assert_eq!(outbox.next_to_send().unwrap().ticket, 1);
    }

    #[test]
    fn a_withdrawn_message_on_its_way_still_blocks_the_next() {
        let mut outbox = filled(2);
        outbox.next_to_send();
        assert!(outbox.withdraw(1).is_some());
        assert!(
            outbox.next_to_send().is_none(),
            "1 may still be applied; 2 must not overtake it"
        );
        assert!(outbox.answered(1).is_none());
        assert_eq!(outbox.next_to_send().unwrap().ticket, 2);
    }

    #[test]
    fn draining_forgets_everything() {
        let mut outbox = filled(2);
        outbox.next_to_send();
        outbox.hold();
        assert_eq!(outbox.drain().len(), 2);
        assert!(outbox.is_empty() && !outbox.is_held());
    }
}
