//! Applies: at most [`APPLY_ROWS_MAX`] rows in one transaction; after COMMIT effects, then responders, then
//! acknowledgements.

use super::{APPLY_BYTES_MAX, APPLY_ROWS_MAX, StateJob, Writer};
use crate::change::Outcome;
use crate::state::{self, Counters};
use crate::store::shared::fatal;
use crate::store::{ApplyItem, StoreError, rows};

impl Writer {
    /// Applies what stands at the front of the queue. Not synced: a lost apply is replayed from the log, because the
    /// applied id is lost with it.
    pub(super) fn apply_piece(&mut self) -> Result<(), StoreError> {
        let items = self.choose_items();
        let mut effects = Vec::new();
        let mut answers: Vec<(Box<dyn FnOnce(Outcome) + Send>, Outcome)> = Vec::new();
        if !items.is_empty() {
            let failed = |e: rusqlite::Error| fatal("apply", e);
            self.db.begin(false).map_err(failed)?;
            let mut counters = Counters::load(&self.db.conn).map_err(failed)?;
            for item in items {
                let applied = state::apply(&self.db.conn, &mut counters, &item.row)
                    .map_err(|e| StoreError::Fatal(e.to_string().into()))?;
                effects.extend(applied.effects);
                answers.extend(item.respond.map(|respond| (respond, applied.outcome)));
            }
            counters.save(&self.db.conn).map_err(failed)?;
            self.db.commit().map_err(failed)?;
            self.shared.applied.send_replace(counters.applied);
        }
        if !effects.is_empty() {
            self.effects.publish(effects);
        }
        for (respond, outcome) in answers {
            respond(outcome);
        }
        self.acknowledge();
        Ok(())
    }

    /// The items of one transaction; jobs of which none is left are acknowledged with it.
    fn choose_items(&mut self) -> Vec<ApplyItem> {
        let mut chosen = Vec::new();
        let mut bytes = 0;
        while let Some(StateJob::Apply { items, .. }) = self.state.front_mut() {
            while chosen.len() < APPLY_ROWS_MAX
                && bytes < APPLY_BYTES_MAX
                && let Some(item) = items.pop_front()
            {
                bytes += rows::memory_bytes(&item.row);
                chosen.push(item);
            }
            if !items.is_empty() {
                break;
            }
            if let Some(StateJob::Apply { done, .. }) = self.state.pop_front() {
                self.unacknowledged.push(done);
            }
        }
        chosen
    }
}
