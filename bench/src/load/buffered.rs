//! Work on many items, some of them at a time.

use std::future::Future;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::LoadError;

/// Runs `work` for every item, `at_a_time` of them at once, and tells after each how many are done. The results are in the
/// order of the items.
///
/// # Errors
/// The first error; work in progress is dropped.
pub async fn buffered<I, T, F>(
    items: impl IntoIterator<Item = I>,
    at_a_time: usize,
    work: impl Fn(usize, I) -> F,
    mut tell: impl FnMut(usize),
) -> Result<Vec<T>, LoadError>
where
    F: Future<Output = Result<T, LoadError>>,
{
    let mut done = 0;
    let work = |(at, item)| work(at, item);
    stream::iter(items.into_iter().enumerate())
        .map(work)
        .buffered(at_a_time)
        .inspect_ok(|_| {
            done += 1;
            tell(done);
        })
        .try_collect()
        .await
}
