//! Ending jobs that are not carried out.

use super::{Job, StoreError};

impl Job {
    /// Tells whoever waits for the job that it was not done.
    pub(super) fn fail(self, error: &StoreError) {
        let done = match self {
            Job::SaveVote { done, .. }
            | Job::Append { done, .. }
            | Job::Truncate { done, .. }
            | Job::Purge { done, .. }
            | Job::Apply { done, .. }
            | Job::InstallSnapshot { done, .. }
            | Job::Local { done, .. }
            | Job::SaveIdentity { done, .. } => done,
        };
        done(Err(error.clone()));
    }
}
