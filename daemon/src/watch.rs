//! tokio's watch with a known order: a change wakes those who wait in the order in which they began to. tokio picks at
//! random, so under simulation one seed would be two runs. Used by what runs there, `store/` and `raft/`; the calls
//! are those of `tokio::sync::watch` that they need, under the same names.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

struct Versioned<T> {
    value: T,
    version: u64,
}

struct Channel<T> {
    current: RwLock<Versioned<T>>,
    /// `notify_waiters` is first in, first out.
    changed: Notify,
    closed: AtomicBool,
}

impl<T> Channel<T> {
    fn read(&self) -> RwLockReadGuard<'_, Versioned<T>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Versioned<T>> {
        self.current.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sender is gone; nothing changes any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sender of a watched value is gone")]
pub struct Closed;

/// The only one who changes the value.
pub struct Sender<T>(Arc<Channel<T>>);

impl<T> Sender<T> {
    /// With a first value, which counts as seen by those who subscribe now.
    pub fn new(value: T) -> Self {
        let current = RwLock::new(Versioned { value, version: 0 });
        Sender(Arc::new(Channel {
            current,
            changed: Notify::new(),
            closed: AtomicBool::new(false),
        }))
    }

    /// Replaces the value and returns the one before.
    pub fn send_replace(&self, value: T) -> T {
        let mut old = value;
        self.send_modify(|current| std::mem::swap(current, &mut old));
        old
    }

    /// Changes the value in place.
    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        {
            let mut current = self.0.write();
            modify(&mut current.value);
            current.version += 1;
        }
        self.0.changed.notify_waiters();
    }

    /// The value. Not to be held across an await.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.0.read())
    }

    /// Someone who sees all later values.
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = self.0.read().version;
        Receiver {
            channel: self.0.clone(),
            seen,
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

/// Sees the newest value.
pub struct Receiver<T> {
    channel: Arc<Channel<T>>,
    seen: u64,
}

impl<T> Receiver<T> {
    /// The value. Not to be held across an await.
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.channel.read())
    }

    /// What is there now is not new.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.channel.read().version;
    }

    /// Waits for a value that was not seen.
    ///
    /// # Errors
    /// When there can be none any more.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // Made before the look: it hears of every change from here on.
            let changed = self.channel.changed.notified();
            let version = self.channel.read().version;
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if self.channel.closed.load(Ordering::SeqCst) {
                return Err(Closed);
            }
            changed.await;
        }
    }

    /// Waits for a value that fits; the one that is there counts.
    ///
    /// # Errors
    /// When there can be none any more.
    pub async fn wait_for(&mut self, mut fits: impl FnMut(&T) -> bool) -> Result<(), Closed> {
        loop {
            {
                let current = self.channel.read();
                self.seen = current.version;
                if fits(&current.value) {
                    return Ok(());
                }
            }
            self.changed().await?;
        }
    }
}

/// A look at the value.
pub struct Ref<'a, T>(RwLockReadGuard<'a, Versioned<T>>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;

    struct Named(usize, Arc<Mutex<Vec<usize>>>);

    impl Wake for Named {
        fn wake(self: Arc<Self>) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    #[test]
    fn a_change_wakes_in_the_order_of_waiting() {
        let sender = Sender::new(0);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut receivers: Vec<_> = (0..32).map(|_| sender.subscribe()).collect();
        let mut waiting: Vec<_> = receivers
            .iter_mut()
            .map(|r| Box::pin(r.changed()))
            .collect();
        for (n, waiter) in waiting.iter_mut().enumerate() {
            let waker = Waker::from(Arc::new(Named(n, woken.clone())));
            assert!(
                waiter
                    .as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
        }
        sender.send_replace(1);
        assert_eq!(*woken.lock().unwrap(), (0..32).collect::<Vec<_>>());
    }

    #[test]
    fn what_changed_before_the_look_is_seen_and_the_end_is_an_error() {
        let sender = Sender::new(0);
        let mut receiver = sender.subscribe();
        sender.send_modify(|n| *n += 1);
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(
            pin!(receiver.changed()).poll(&mut context),
            Poll::Ready(Ok(()))
        );
        assert_eq!(
            pin!(receiver.wait_for(|n| *n == 1)).poll(&mut context),
            Poll::Ready(Ok(()))
        );
        let mut waiting = Box::pin(receiver.changed());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        drop(sender);
        assert_eq!(
            waiting.as_mut().poll(&mut context),
            Poll::Ready(Err(Closed))
        );
    }
}
