//! Questions to the leader over the kept connection: forwarded writes and read indexes.

use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::async_runtime::{Instant, Select3};

use super::api::{Draft, Link, Wire, WireError};
use super::core::Core;
use super::frame::{ForwardReply, Reply, Request, decode, encode};

/// The leader answers this much before the asking node gives up, so that the answer still counts.
const ANSWER_MARGIN: Duration = Duration::from_millis(50);

/// Why a leader gave no answer.
pub(super) enum ForwardError {
    /// Nothing was sent.
    NotAsked,
    /// The leader may have received the question.
    Lost,
}

/// How much of the time until `deadline` the leader may use, ms; `None`: too little to ask.
pub(super) fn time_left<R: AsyncRuntime>(deadline: R::Instant) -> Option<u64> {
    let left = deadline
        .saturating_duration_since(R::Instant::now())
        .checked_sub(ANSWER_MARGIN)?;
    u64::try_from(left.as_millis()).ok().filter(|ms| *ms > 0)
}

/// Has `leader` propose the drafts. `None`: nothing is known of what became of them.
pub(super) async fn forward<R: AsyncRuntime, W: Wire>(
    core: &Core<R, W>,
    leader: u64,
    drafts: Vec<Draft>,
    deadline: R::Instant,
) -> Option<ForwardReply> {
    let Some(wait_ms) = time_left::<R>(deadline) else {
        return Some(ForwardReply::NotLeader { hint: None });
    };
    let asked = drafts.len();
    let request = Request::Forward { drafts, wait_ms };
    match ask_leader(core, leader, &request, deadline).await {
        Ok(Reply::Forward(ForwardReply::Answered(answers))) if answers.len() != asked => None,
        Ok(Reply::Forward(reply)) => Some(reply),
        Err(ForwardError::NotAsked) => Some(ForwardReply::NotLeader { hint: None }),
        Ok(_) | Err(ForwardError::Lost) => None,
    }
}

/// Asks `leader`; gives up when another one leads.
pub(super) async fn ask_leader<R: AsyncRuntime, W: Wire>(
    core: &Core<R, W>,
    leader: u64,
    request: &Request,
    deadline: R::Instant,
) -> Result<Reply, ForwardError> {
    let target = core.target(leader).ok_or(ForwardError::NotAsked)?;
    let link = core.links.forward.to(target);
    let frame = encode(request).map_err(|error| {
        tracing::error!(%error);
        ForwardError::NotAsked
    })?;
    let left = deadline.saturating_duration_since(R::Instant::now());
    let call = link.call(frame, left);
    let deposed = core.leader_changed(Some(leader));
    match R::select3(call, deposed, R::sleep_until(deadline)).await {
        Select3::First(Ok(answer)) => decode(&answer).map_err(|error| {
            tracing::warn!(%error, leader);
            ForwardError::Lost
        }),
        Select3::First(Err(error)) => {
            tracing::debug!(%error, leader, "failed to reach the leader");
            Err(match error {
                WireError::Refused(_) | WireError::Unreachable(_) => ForwardError::NotAsked,
                WireError::Lost(_) => ForwardError::Lost,
            })
        }
        Select3::Second(()) | Select3::Third(()) => Err(ForwardError::Lost),
    }
}
