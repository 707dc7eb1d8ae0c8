//! The one waiting loop: asks again until something holds or a deadline has passed, and says meanwhile what is awaited.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::output::Output;

/// How long to wait and how often to speak.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Give up after this long.
    pub limit: Duration,
    /// Ask again after this long.
    pub every: Duration,
    /// Say what is awaited after this long, and again each time.
    pub speak: Duration,
}

/// What one look found.
pub enum Look<T> {
    /// It holds.
    Found(T),
    /// Not yet; what is missing, for people.
    Missing(String),
}

/// Looks until something is found; `Err` holds what was missing last.
///
/// # Errors
/// What the last look missed, when the limit has passed; or what `look` itself failed with.
pub async fn until<T, E, F>(
    output: &Output,
    patience: Patience,
    mut look: impl FnMut() -> F,
) -> Result<Result<T, String>, E>
where
    F: Future<Output = Result<Look<T>, E>>,
{
    let start = Instant::now();
    let mut spoken = start;
    let mut ticks = interval(patience.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match look().await? {
            Look::Found(found) => return Ok(Ok(found)),
            Look::Missing(what) if start.elapsed() >= patience.limit => return Ok(Err(what)),
            Look::Missing(what) if spoken.elapsed() >= patience.speak => {
                spoken = Instant::now();
                output.note(format!("waiting: {what}"));
            }
            Look::Missing(_) => {}
        }
    }
}
