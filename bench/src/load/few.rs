//! Many things to do, a few at a time.

use tokio::task::JoinSet;

use super::LoadError;

/// Does the deed with every item, `at_a_time` of them at once, and tells after each how many are done. The results come
/// in the order of the items.
///
/// # Errors
/// The first that a deed failed with; those under way are dropped.
pub async fn few_at_a_time<I, T, F>(
    items: impl IntoIterator<Item = I>,
    at_a_time: usize,
    deed: impl Fn(usize, I) -> F,
    mut tell: impl FnMut(usize),
) -> Result<Vec<T>, LoadError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, LoadError>> + Send + 'static,
{
    let mut items = items.into_iter().enumerate();
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    loop {
        while running.len() < at_a_time
            && let Some((at, item)) = items.next()
        {
            let doing = deed(at, item);
            running.spawn(async move { doing.await.map(|result| (at, result)) });
        }
        match running.join_next().await {
            None => break,
            Some(Err(panicked)) => return Err(LoadError::Refused(panicked.to_string())),
            Some(Ok(result)) => done.push(result?),
        }
        tell(done.len());
    }
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn results_come_in_order_and_no_more_than_a_few_run() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let deed = |at: usize, item: usize| {
            let (running, most) = (running.clone(), most.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // The later ones are done first.
                for _ in 0..(10 - item % 10) {
                    tokio::task::yield_now().await;
                }
                running.fetch_sub(1, Ordering::SeqCst);
                assert_eq!(at, item);
                Ok(item)
            }
        };
        let mut told = Vec::new();
        let results = few_at_a_time(0..20, 3, deed, |done| told.push(done))
            .await
            .expect("all done");
        assert_eq!(results, (0..20).collect::<Vec<_>>());
        assert_eq!(told, (1..=20).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_failure_ends_it() {
        let deed = |_, item: usize| async move {
            if item == 5 {
                Err(LoadError::Refused("no".into()))
            } else {
                Ok(item)
            }
        };
        assert!(few_at_a_time(0.., 2, deed, |_| {}).await.is_err());
    }
}
