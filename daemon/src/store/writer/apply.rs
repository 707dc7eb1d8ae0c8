//! Applies: at most [`APPLY_ROWS_MAX`] rows in one transaction. After COMMIT come the effects, then the responses, then
//! the acknowledgements.

use super::{APPLY_BYTES_MAX, StateJob, Writer};
use crate::change::{Change, Outcome};
use crate::entry::{LogId, LogPayload};
use crate::state::effect::Effect;
use crate::store::api::fatal;
use crate::store::{ApplyItem, BoxedDone, Job, StoreError, log_rows};

/// Rows that a transaction of its own applies at most.
const APPLY_ROWS_MAX: usize = 2_000;
/// Rows that a log transaction applies at most: its acknowledgements wait for them.
const PIGGYBACK_ROWS_MAX: usize = 256;

/// A responder and the outcome that it is to get.
type Response = (Box<dyn FnOnce(Outcome) + Send>, Outcome);

/// What the open transaction applied; published after its COMMIT.
#[derive(Default)]
pub(super) struct Applying {
    effects: Vec<Effect>,
    responses: Vec<Response>,
    /// The last entry.
    applied: Option<LogId>,
    /// Acknowledgements of jobs whose last item is in it.
    pub(super) finished: Vec<BoxedDone<()>>,
}

impl Writer {
    /// Applies the items at the front of the queue. Not synced: with a lost apply its applied id is lost, and the log
    /// is replayed from there.
    pub(super) fn apply_piece(&mut self) -> Result<(), StoreError> {
        let items = self.take_items(APPLY_ROWS_MAX, |_| true);
        if !items.is_empty() {
            let failed = |e: rusqlite::Error| fatal("apply", e);
            self.db.begin(false).map_err(failed)?;
            self.apply_items(items)?;
            self.db.commit().map_err(failed)?;
        }
        self.publish_applied();
        Ok(())
    }

    /// Applies some of the waiting items in the open log transaction: under load that saves a transaction. Not while a
    /// snapshot is being installed, whose transactions come between. Nor while log jobs are left over, which were
    /// submitted earlier. Jobs that were submitted meanwhile are included up to the next log job, which must not be
    /// overtaken. If a vote came, nothing is applied: it must not wait.
    pub(super) fn piggyback_applies(&mut self) -> Result<(), StoreError> {
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
        let items = self.take_items(PIGGYBACK_ROWS_MAX, is_quick);
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
                .responses
                .extend(item.respond.map(|respond| (respond, applied.outcome)));
        }
        self.applying.applied = self
            .machine
            .save(&self.db.conn)
            .map_err(|e| fatal("apply", e))?;
        Ok(())
    }

    /// After COMMIT: publishes what the transaction applied.
    pub(super) fn publish_applied(&mut self) {
        let Applying {
            effects,
            responses,
            applied,
            finished,
        } = std::mem::take(&mut self.applying);
        if applied.is_some() {
            self.shared.applied.send_replace(applied);
        }
        if !effects.is_empty() {
            self.effects.publish(effects);
        }
        for (respond, outcome) in responses {
            respond(outcome);
        }
        for done in finished {
            done(Ok(()));
        }
    }

    /// Takes at most `at_most` items for one transaction, up to the first that `may` refuses. Jobs with no item left
    /// are acknowledged after it.
    fn take_items(&mut self, at_most: usize, may: impl Fn(&LogPayload) -> bool) -> Vec<ApplyItem> {
        let mut chosen = Vec::new();
        let mut bytes = 0;
        while let Some(StateJob::Apply { items, .. }) = self.state.front_mut() {
            while chosen.len() < at_most
                && bytes < APPLY_BYTES_MAX
                && let Some(item) = items.pop_front_if(|item| may(&item.row.payload))
            {
                bytes += log_rows::memory_bytes(&item.row);
                chosen.push(item);
            }
            if !items.is_empty() {
                break;
            }
            if let Some(StateJob::Apply { done, .. }) = self.state.pop_front() {
                self.applying.finished.push(done);
            }
        }
        chosen
    }
}

/// Whether applying it costs a few rows at most. An acknowledgement, or the end of an account, may concern ten thousand
/// messages.
fn is_quick(payload: &LogPayload) -> bool {
    match payload {
        LogPayload::Blank | LogPayload::Membership(_) => true,
        LogPayload::Change(envelope) => matches!(envelope.body, Change::Send { .. }),
    }
}
