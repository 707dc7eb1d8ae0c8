//! Applies: at most [`APPLY_ROWS_MAX`] rows in one transaction; after COMMIT effects, then responders, then
//! acknowledgements.

use super::{APPLY_BYTES_MAX, StateJob, Writer};
use crate::change::{Change, Outcome};
use crate::entry::{LogId, LogPayload};
use crate::state::effect::Effect;
use crate::store::api::fatal;
use crate::store::{ApplyItem, BoxedDone, Job, StoreError, rows};

/// Rows that one transaction applies at most.
const APPLY_ROWS_MAX: usize = 2_000;
/// Rows that are applied in a log transaction at most: what waits for the log must not wait for them long.
const RIDERS_MAX: usize = 256;

/// A responder and what it is to be told.
type Answer = (Box<dyn FnOnce(Outcome) + Send>, Outcome);

/// What the open transaction applied; told after its COMMIT.
#[derive(Default)]
pub(super) struct Applying {
    effects: Vec<Effect>,
    answers: Vec<Answer>,
    /// The last entry.
    applied: Option<LogId>,
    /// Of jobs of which nothing is left.
    pub(super) ended: Vec<BoxedDone<()>>,
}

impl Writer {
    /// Applies what stands at the front of the queue. Not synced: a lost apply is replayed from the log, because the
    /// applied id is lost with it.
    pub(super) fn apply_piece(&mut self) -> Result<(), StoreError> {
        let items = self.choose_items(APPLY_ROWS_MAX, |_| true);
        if !items.is_empty() {
            let failed = |e: rusqlite::Error| fatal("apply", e);
            self.db.begin(false).map_err(failed)?;
            self.apply_items(items)?;
            self.db.commit().map_err(failed)?;
        }
        self.settle();
        Ok(())
    }

    /// Applies, in the open log transaction, some of what waits: under load that saves a transaction of its own. Not
    /// while a snapshot is being installed, whose transactions come between, nor while log jobs are left over, which
    /// were submitted earlier. What is submitted meanwhile comes along, up to the next log job, which must not be
    /// overtaken; a vote doesn't wait for anybody.
    pub(super) fn apply_riders(&mut self) -> Result<(), StoreError> {
        if self.install.is_some() || !self.log.is_empty() {
            return Ok(());
        }
        while self.log.is_empty()
            && let Some(job) = self.try_recv()
        {
            self.take(job);
        }
        if self
            .log
            .iter()
            .any(|job| matches!(job, Job::SaveVote { .. }))
        {
            return Ok(());
        }
        let items = self.choose_items(RIDERS_MAX, is_quick);
        self.apply_items(items)
    }

    fn apply_items(&mut self, items: Vec<ApplyItem>) -> Result<(), StoreError> {
        if items.is_empty() {
            return Ok(());
        }
        for item in items {
            let applied = self.machine.apply(&self.db.conn, &item.row);
            let applied = applied.map_err(|e| StoreError::Fatal(e.to_string().into()))?;
            self.applying.effects.extend(applied.effects);
            self.applying
                .answers
                .extend(item.respond.map(|respond| (respond, applied.outcome)));
        }
        self.applying.applied = self
            .machine
            .save(&self.db.conn)
            .map_err(|e| fatal("apply", e))?;
        Ok(())
    }

    /// COMMIT has happened: tell everybody who waits for what it applied.
    pub(super) fn settle(&mut self) {
        let Applying {
            effects,
            answers,
            applied,
            ended,
        } = std::mem::take(&mut self.applying);
        if applied.is_some() {
            self.shared.applied.send_replace(applied);
        }
        if !effects.is_empty() {
            self.effects.publish(effects);
        }
        for (respond, outcome) in answers {
            respond(outcome);
        }
        for done in ended {
            done(Ok(()));
        }
    }

    /// At most so many items for one transaction, up to the first that may not; jobs of which none is left are
    /// acknowledged with it.
    fn choose_items(
        &mut self,
        at_most: usize,
        may: impl Fn(&LogPayload) -> bool,
    ) -> Vec<ApplyItem> {
        let mut chosen = Vec::new();
        let mut bytes = 0;
        while let Some(StateJob::Apply { items, .. }) = self.state.front_mut() {
            while chosen.len() < at_most
                && bytes < APPLY_BYTES_MAX
                && let Some(item) = items.pop_front_if(|item| may(&item.row.payload))
            {
                bytes += rows::memory_bytes(&item.row);
                chosen.push(item);
            }
            if !items.is_empty() {
                break;
            }
            if let Some(StateJob::Apply { done, .. }) = self.state.pop_front() {
                self.applying.ended.push(done);
            }
        }
        chosen
    }
}

/// Whether applying it costs no more than a few rows. An acknowledgement may be of ten thousand messages, and so may
/// the end of an account.
fn is_quick(payload: &LogPayload) -> bool {
    match payload {
        LogPayload::Blank | LogPayload::Membership(_) => true,
        LogPayload::Change(envelope) => matches!(envelope.body, Change::Send { .. }),
    }
}
