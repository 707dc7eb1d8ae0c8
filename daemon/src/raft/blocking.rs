//! Work that blocks on the disk, off the async threads.

use std::io;
use std::sync::Arc;

use openraft::AsyncRuntime;
use parking_lot::Mutex;

/// Runs `work` on a blocking thread. The simulated runtime has one thread and refuses: there it runs at once, as
/// virtual time needs.
pub(crate) async fn blocking<R, F, T>(work: F) -> io::Result<T>
where
    R: AsyncRuntime,
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let slot = Arc::new(Mutex::new(Some(work)));
    let theirs = slot.clone();
    let take = |slot: &Mutex<Option<F>>| slot.lock().take();
    let result = R::spawn_blocking(move || take(&theirs).map(|work| work())).await;
    match result {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(io::Error::other("the blocking work was taken twice")),
        Err(error) => match take(&slot) {
            Some(work) => Ok(work()),
            None => Err(error),
        },
    }
}
