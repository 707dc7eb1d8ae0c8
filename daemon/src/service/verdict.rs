//! Maps what became of a change to an answer or a refusal with its certainty. The one place that does.

use messagebase_protocol::code::{Code, Failure};

use crate::change::{Outcome, Refusal};
use crate::raft::api::Verdict;

/// Why a change has no outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unapplied {
    /// Apply refused it: nothing was changed.
    Refused(Refusal),
    /// Everything else.
    Failed(Failure),
}

impl From<Unapplied> for Failure {
    fn from(why: Unapplied) -> Self {
        match why {
            Unapplied::Refused(refusal) => refused(refusal),
            Unapplied::Failed(failure) => failure,
        }
    }
}

/// The outcome of an applied change; refusals and lost verdicts as failures.
pub(super) fn outcome(verdict: Verdict) -> Result<Outcome, Failure> {
    Ok(applied(verdict)?)
}

/// As [`outcome`], for a caller that tells the refusals apart.
pub(super) fn applied(verdict: Verdict) -> Result<Outcome, Unapplied> {
    let failure = match verdict {
        Verdict::Applied {
            outcome: Outcome::Refused(refusal),
            ..
        } => return Err(Unapplied::Refused(refusal)),
        Verdict::Applied {
            outcome: Outcome::Rejected,
            index,
        } => internal_unknown(&format!(
            "the change at index {index} could not be applied; see the node's log"
        )),
        Verdict::Applied { outcome, .. } => return Ok(outcome),
        Verdict::InDoubt(_) => in_doubt(),
        Verdict::NoQuorum => no_quorum(),
        Verdict::Closing => Failure::unknown(
            Code::Closing,
            "the node is stopping; repeat on another node under the same key",
        ),
    };
    Err(Unapplied::Failed(failure))
}

/// Whether this verdict proves that the acting session was alive when the change was applied. Only a new message does: a
/// repetition is answered by its key alone.
pub(super) fn proves_session(verdict: &Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Applied {
            outcome: Outcome::Sent {
                duplicate: false,
                ..
            },
            ..
        }
    )
}

/// A refusal of apply: nothing was changed.
pub(super) fn refused(refusal: Refusal) -> Failure {
    let (code, message) = match refusal {
        Refusal::NotLoggedIn => return not_logged_in(),
        Refusal::BadCredentials => return bad_credentials(),
        Refusal::Locked => return locked(),
        Refusal::NameTaken => (
            Code::NameTaken,
            "that name belongs to somebody or is reserved",
        ),
        Refusal::NoSuchUser => (Code::NoSuchUser, "there is no account of that name"),
        Refusal::KeyReused => (
            Code::BadRequest,
            "that key was used for another recipient or body",
        ),
        Refusal::NoSuchMessage => (
            Code::BadRequest,
            "`through` must be the id of a message to you",
        ),
        Refusal::QueueFull => (
            Code::Busy,
            "the recipient's queue is full; try again when they have read",
        ),
        Refusal::NotPermitted => (Code::NotPermitted, "the operator has closed registration"),
        Refusal::NameInUse => (Code::BadRequest, "that name is in use, not reserved"),
    };
    Failure::not_done(code, message)
}

/// No majority answered. Always `unknown`: the client may repeat under the same key.
pub fn no_quorum() -> Failure {
    Failure::unknown(
        Code::NoQuorum,
        "no majority of the nodes answered in time; repeat under the same key",
    )
}

/// Refused after an attempt whose answer was lost. The refusal itself would say `not_done`, which may be false.
fn in_doubt() -> Failure {
    Failure::unknown(
        Code::NoQuorum,
        "an answer was lost inside the cluster; repeat under the same key",
    )
}

/// The operation needs a session.
pub(super) fn not_logged_in() -> Failure {
    Failure::not_done(Code::NotLoggedIn, "log in first")
}

/// Unknown user and wrong password alike, and a dead token.
pub(super) fn bad_credentials() -> Failure {
    Failure::not_done(
        Code::BadCredentials,
        "unknown user, wrong password or dead token",
    )
}

/// Right password, locked account.
pub(super) fn locked() -> Failure {
    Failure::not_done(Code::Locked, "the operator has locked this account")
}

/// A defect found before anything was proposed.
pub(super) fn internal(what: &str) -> Failure {
    tracing::error!(what, "a request failed inside the node");
    Failure::not_done(
        Code::Internal,
        "the node failed to answer; its log says why",
    )
}

/// A defect found after something was proposed.
pub(super) fn internal_unknown(what: &str) -> Failure {
    tracing::error!(what, "a proposed change failed inside the node");
    Failure::unknown(
        Code::Internal,
        "the node failed to answer; its log says why",
    )
}

/// A failure to read what a change did, after it was applied: no longer `not_done`.
pub(super) fn after_apply(failure: Failure) -> Failure {
    match failure.code {
        Code::Busy | Code::Internal => Failure::unknown(Code::Internal, failure.message),
        _ => failure,
    }
}

/// An outcome that does not belong to its change.
pub(super) fn unexpected(outcome: &Outcome) -> Failure {
    internal_unknown(&format!(
        "an outcome of another kind of change: {outcome:?}"
    ))
}

#[cfg(test)]
mod tests {
    use messagebase_protocol::code::Certainty;

    use super::*;

    #[test]
    fn a_failed_read_after_the_change_does_not_say_that_nothing_was_done() {
        for code in [Code::Busy, Code::Internal] {
            let failure = after_apply(Failure::not_done(code, "the node is busy reading"));
            assert_eq!(
                (failure.code, failure.certainty),
                (Code::Internal, Certainty::Unknown)
            );
        }
        assert_eq!(after_apply(not_logged_in()).certainty, Certainty::NotDone);
    }

    #[test]
    fn refusals_are_not_done_and_lost_verdicts_unknown() {
        let all = [
            (Refusal::NotLoggedIn, Code::NotLoggedIn),
            (Refusal::BadCredentials, Code::BadCredentials),
            (Refusal::Locked, Code::Locked),
            (Refusal::NameTaken, Code::NameTaken),
            (Refusal::NoSuchUser, Code::NoSuchUser),
            (Refusal::KeyReused, Code::BadRequest),
            (Refusal::NoSuchMessage, Code::BadRequest),
            (Refusal::QueueFull, Code::Busy),
            (Refusal::NotPermitted, Code::NotPermitted),
            (Refusal::NameInUse, Code::BadRequest),
        ];
        for (refusal, code) in all {
            let failure = outcome(Verdict::Applied {
                index: 1,
                outcome: Outcome::Refused(refusal),
            })
            .unwrap_err();
            assert_eq!(
                (failure.code, failure.certainty),
                (code, Certainty::NotDone),
                "{refusal:?}"
            );
        }
        for (verdict, code) in [
            (Verdict::NoQuorum, Code::NoQuorum),
            (Verdict::InDoubt(Refusal::NotLoggedIn), Code::NoQuorum),
            (Verdict::Closing, Code::Closing),
            (
                Verdict::Applied {
                    index: 1,
                    outcome: Outcome::Rejected,
                },
                Code::Internal,
            ),
        ] {
            let failure = outcome(verdict).unwrap_err();
            assert_eq!(
                (failure.code, failure.certainty),
                (code, Certainty::Unknown)
            );
        }
    }
}
