//! Puts what arrives in order: messages come as events, as pages of the inbox and, after a reconnect, as pages of
//! `sync`; out go ascending ids, each once, none left out. Acknowledging an id is therefore safe: every message below
//! it was handed on. Pure: it fetches nothing itself.

use std::collections::BTreeMap;

use messagebase_protocol::json::Message;

/// Events that are kept while pages are being fetched; beyond it another round of pages brings them.
pub const HELD_EVENTS_MAX: usize = 1_024;

/// A page that must be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    /// Undelivered messages with a greater id.
    Inbox {
        /// Exclusive.
        after: u64,
    },
    /// All messages with a greater id: also those that another session of the user acknowledged meanwhile.
    Sync {
        /// Exclusive.
        after: u64,
    },
}

/// The order of one user's incoming messages.
#[derive(Debug, Default)]
pub struct Feed {
    /// Greatest id that went out.
    last: u64,
    /// Greatest id up to which pages were asked for in this round.
    paged: u64,
    /// Whether the inbox was emptied once: from then on a reconnect asks `sync`, which leaves nothing out.
    complete_once: bool,
    /// `Some` while pages are fetched: the events that came meanwhile, by id.
    catching_up: Option<BTreeMap<u64, Message>>,
    /// An event was dropped: one more round is needed.
    again: bool,
}

impl Feed {
    /// Greatest id that went out; acknowledging up to it is safe.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether pages are being fetched.
    pub fn is_catching_up(&self) -> bool {
        self.catching_up.is_some()
    }

    /// A session began on a connection (or a gap was noticed): which page to ask first.
    pub fn begin(&mut self) -> Fetch {
        self.catching_up.get_or_insert_default();
        self.again = false;
        self.paged = self.last;
        self.fetch()
    }

    /// An event arrived. Returns what goes out now, which is nothing while pages are being fetched.
    pub fn event(&mut self, message: Message) -> Option<Message> {
        if message.id <= self.last {
            return None;
        }
        match &mut self.catching_up {
            None => Some(message),
            Some(held) if held.len() < HELD_EVENTS_MAX => {
                held.insert(message.id, message);
                None
            }
            Some(_) => {
                self.again = true;
                None
            }
        }
    }

    /// A page arrived: what goes out, in order, and the next page if there is one to ask. `reached` is the greatest
    /// id on the page, which with `sync` may be that of a message the user sent.
    pub fn page(
        &mut self,
        messages: Vec<Message>,
        reached: Option<u64>,
        more: bool,
    ) -> (Vec<Message>, Option<Fetch>) {
        let Some(held) = &mut self.catching_up else {
            return (Vec::new(), None);
        };
        for message in messages {
            held.insert(message.id, message);
        }
        if let Some(reached) = reached {
            self.paged = self.paged.max(reached);
        }
        // What has a greater id than this page may be followed on the next page by something smaller.
        let later = if more {
            held.split_off(&(self.paged + 1))
        } else {
            BTreeMap::new()
        };
        let last = self.last;
        let out: Vec<Message> = std::mem::replace(held, later)
            .into_values()
            .filter(|message| message.id > last)
            .collect();
        if more {
            return (out, Some(self.fetch()));
        }
        self.complete_once = true;
        if std::mem::take(&mut self.again) {
            // Everything that was held goes out now, so the round begins behind it.
            self.paged = out
                .last()
                .map_or(self.paged, |message| self.paged.max(message.id));
            let next = self.fetch();
            return (out, Some(next));
        }
        self.catching_up = None;
        (out, None)
    }

    /// A message was handed on.
    pub fn went_out(&mut self, id: u64) {
        self.last = self.last.max(id);
    }

    /// The connection was lost, or what went out could not be handed on: forget the round. [`Feed::begin`] follows.
    pub fn interrupt(&mut self) {
        self.catching_up = None;
        self.again = false;
    }

    /// Another user or another cluster: start from nothing.
    pub fn reset(&mut self) {
        *self = Feed::default();
    }

    fn fetch(&self) -> Fetch {
        // `sync` from 0 would bring the whole history; a user who never got anything has missed nothing but the inbox.
        if self.complete_once && self.last > 0 {
            Fetch::Sync { after: self.paged }
        } else {
            Fetch::Inbox { after: self.paged }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u64) -> Message {
        Message {
            id,
            from: "bob".into(),
            to: "alice".into(),
            body: String::new(),
            sent_at: 0,
        }
    }

    fn messages(ids: &[u64]) -> Vec<Message> {
        ids.iter().map(|id| message(*id)).collect()
    }

    /// Hands on what came out, as the session does.
    fn hand_on(feed: &mut Feed, out: Vec<Message>) -> Vec<u64> {
        let ids: Vec<u64> = out.iter().map(|m| m.id).collect();
        ids.iter().for_each(|id| feed.went_out(*id));
        ids
    }

    fn page(feed: &mut Feed, ids: &[u64], more: bool) -> (Vec<u64>, Option<Fetch>) {
        let (out, next) = feed.page(messages(ids), ids.last().copied(), more);
        (hand_on(feed, out), next)
    }

    fn caught_up(ids: &[u64]) -> Feed {
        let mut feed = Feed::default();
        feed.begin();
        page(&mut feed, ids, false);
        feed
    }

    #[test]
    fn the_inbox_first_then_events() {
        let mut feed = Feed::default();
        assert_eq!(feed.begin(), Fetch::Inbox { after: 0 });
        assert!(
            feed.event(message(5)).is_none(),
            "held while the inbox is read"
        );
        let (ids, next) = page(&mut feed, &[2, 3], false);
        assert_eq!((ids, next), (vec![2, 3, 5], None));
        assert_eq!(feed.event(message(6)).map(|m| m.id), Some(6));
    }

    #[test]
    fn a_message_that_comes_both_ways_goes_out_once() {
        let mut feed = Feed::default();
        feed.begin();
        feed.event(message(3));
        let (ids, _) = page(&mut feed, &[2, 3], false);
        assert_eq!(ids, [2, 3]);
        assert!(feed.event(message(3)).is_none());
    }

    #[test]
    fn an_event_waits_for_the_pages_before_it() {
        let mut feed = Feed::default();
        feed.begin();
        feed.event(message(9));
        let (ids, next) = page(&mut feed, &[1, 2], true);
        assert_eq!((ids, next), (vec![1, 2], Some(Fetch::Inbox { after: 2 })));
        let (ids, _) = page(&mut feed, &[3, 4], false);
        assert_eq!(ids, [3, 4, 9]);
    }

    #[test]
    fn an_event_that_another_session_acknowledged_meanwhile_is_not_lost() {
        let mut feed = Feed::default();
        feed.begin();
        feed.event(message(2));
        // 2 is no longer in the inbox, 3 is.
        assert_eq!(page(&mut feed, &[1, 3], false).0, [1, 2, 3]);
    }

    #[test]
    fn a_reconnect_asks_sync_for_what_other_sessions_acknowledged() {
        let mut feed = caught_up(&[4]);
        feed.interrupt();
        assert_eq!(feed.begin(), Fetch::Sync { after: 4 });
        let (ids, next) = page(&mut feed, &[5], true);
        assert_eq!((ids, next), (vec![5], Some(Fetch::Sync { after: 5 })));
        // The next page holds only what the user sent: nothing goes out, but the cursor moves on.
        let (out, next) = feed.page(Vec::new(), Some(9), true);
        assert_eq!((out.len(), next), (0, Some(Fetch::Sync { after: 9 })));
    }

    #[test]
    fn a_reconnect_before_anything_arrived_asks_the_inbox_not_the_whole_history() {
        let mut feed = caught_up(&[]);
        feed.interrupt();
        assert_eq!(feed.begin(), Fetch::Inbox { after: 0 });
    }

    #[test]
    fn a_round_that_was_cut_off_goes_on_behind_what_went_out() {
        let mut feed = Feed::default();
        feed.begin();
        page(&mut feed, &[1, 2], true);
        feed.interrupt();
        assert_eq!(feed.begin(), Fetch::Inbox { after: 2 });
    }

    #[test]
    fn too_many_events_cost_another_round_not_a_message() {
        let mut feed = Feed::default();
        feed.begin();
        let many = HELD_EVENTS_MAX as u64;
        for id in 1..=many + 3 {
            assert!(feed.event(message(id)).is_none());
        }
        let (ids, next) = page(&mut feed, &[], false);
        assert_eq!(ids.len() as u64, many);
        assert_eq!(next, Some(Fetch::Inbox { after: many }));
        let (ids, next) = page(&mut feed, &[many + 1, many + 2, many + 3], false);
        assert_eq!((ids, next), (vec![many + 1, many + 2, many + 3], None));
    }

    #[test]
    fn what_could_not_be_handed_on_comes_again() {
        let mut feed = caught_up(&[1]);
        let (out, _) = {
            feed.begin();
            feed.page(messages(&[2, 3]), Some(3), false)
        };
        feed.went_out(out[0].id);
        feed.interrupt();
        assert_eq!(feed.begin(), Fetch::Sync { after: 2 });
    }
}
