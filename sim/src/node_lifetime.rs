//! A node's lifetime, from its start to its crash: it owns all tasks that the node spawned and ends them at one instant.
//!
//! [`NodeRuntime`] is the async runtime that nodes run on: openraft's simulated one, except that a task spawned within
//! a lifetime belongs to it. A lifetime counts the polls of its tasks as STEPS and can end at a chosen step. So a crash can
//! happen between any two polls: at any await of the writer, of openraft or of our own tasks. No task of an ended lifetime
//! runs again; its files stay as they are, see [`NodeLifetime::kill`].
//!
//! After every step of a lifetime its probe runs, which is where the invariants look.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_sim::{SimInstant, SimRuntime};
use tokio::sync::oneshot;

thread_local! {
    /// The lifetime whose task is being polled.
    static HERE: RefCell<Option<Arc<NodeLifetime>>> = const { RefCell::new(None) };
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs after each step of a lifetime.
pub type Probe = Arc<dyn Fn() + Send + Sync>;
/// Runs at the instant of a lifetime's end, before its tasks are dropped.
pub type LastWord = Box<dyn FnOnce() + Send>;
/// Hears of a task that panicked.
pub type OnPanic = Box<dyn Fn(&str) + Send + Sync>;

/// One lifetime of one node.
pub struct NodeLifetime {
    dead: AtomicBool,
    steps: AtomicU64,
    /// The step that is the last one.
    ends_at: AtomicU64,
    next_task: AtomicU64,
    tasks: Mutex<BTreeMap<u64, Arc<dyn Body>>>,
    probe: Mutex<Option<Probe>>,
    last_word: Mutex<Option<LastWord>>,
    on_panic: OnPanic,
}

impl NodeLifetime {
    /// Begins; `last_word` runs at its end.
    pub fn begin(last_word: LastWord, on_panic: OnPanic) -> Arc<NodeLifetime> {
        Arc::new(NodeLifetime {
            dead: AtomicBool::new(false),
            steps: AtomicU64::new(0),
            ends_at: AtomicU64::new(u64::MAX),
            next_task: AtomicU64::new(0),
            tasks: Mutex::default(),
            probe: Mutex::default(),
            last_word: Mutex::new(Some(last_word)),
            on_panic,
        })
    }

    /// Whether it goes on.
    pub fn lives(&self) -> bool {
        !self.dead.load(Ordering::SeqCst)
    }

    /// Polls of its tasks so far.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    /// Ends the lifetime after this many more steps.
    pub fn end_after(&self, steps: u64) {
        self.ends_at
            .store(self.steps().saturating_add(steps), Ordering::SeqCst);
    }

    /// What looks after each step.
    pub fn set_probe(&self, probe: Probe) {
        *lock(&self.probe) = Some(probe);
    }

    /// Ends at once, as by SIGKILL: no task is polled again, all are dropped. The task that is being polled, if it is
    /// one of them, ends with this poll.
    pub fn kill(&self) {
        if self.dead.swap(true, Ordering::SeqCst) {
            return;
        }
        let last_word = lock(&self.last_word).take();
        if let Some(last_word) = last_word {
            last_word();
        }
        // Taken out first: dropping may look here again.
        let probe = lock(&self.probe).take();
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        drop(probe);
        for task in tasks.into_values() {
            task.clear();
        }
    }

    /// Runs `work` as a task of this lifetime. Resolves to `None` when the lifetime ends first.
    pub fn run<T: Send + 'static>(
        self: &Arc<NodeLifetime>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send + 'static {
        let (done, ended) = oneshot::channel();
        SimRuntime::spawn(self.confine(async move {
            // The caller may have gone.
            let _ = done.send(work.await);
        }));
        async move { ended.await.ok() }
    }

    fn confine<F: Future + Send + 'static>(self: &Arc<NodeLifetime>, future: F) -> Confined<F> {
        let task = self.next_task.fetch_add(1, Ordering::SeqCst);
        // In an ended lifetime nothing begins. The future is dropped, which wakes its waiter.
        let body = Arc::new(Mutex::new(self.lives().then(|| Box::pin(future))));
        if self.lives() {
            lock(&self.tasks).insert(task, body.clone());
        }
        Confined {
            body,
            lifetime: self.clone(),
            task,
        }
    }

    /// Counts a step; false if there is none any more.
    fn step(&self) -> bool {
        if !self.lives() {
            return false;
        }
        if self.steps.fetch_add(1, Ordering::SeqCst) >= self.ends_at.load(Ordering::SeqCst) {
            self.kill();
            return false;
        }
        true
    }

    fn look(&self) {
        let probe = lock(&self.probe).clone();
        if let Some(probe) = probe {
            probe();
        }
    }
}

/// A task's future, where its lifetime can reach it.
trait Body: Send + Sync {
    fn clear(&self);
}

impl<F: Send> Body for Mutex<Option<Pin<Box<F>>>> {
    fn clear(&self) {
        // Out of the lock before it is dropped.
        let future = lock(self).take();
        drop(future);
    }
}

/// A future that ends with its lifetime.
struct Confined<F> {
    /// Empty while it is being polled, and once it ended.
    body: Arc<Mutex<Option<Pin<Box<F>>>>>,
    lifetime: Arc<NodeLifetime>,
    task: u64,
}

impl<F: Future + Send> Future for Confined<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if !self.lifetime.step() {
            return Poll::Pending;
        }
        let Some(mut future) = lock(&self.body).take() else {
            return Poll::Pending;
        };
        let outer = HERE.replace(Some(self.lifetime.clone()));
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        HERE.set(outer);
        let result = match polled {
            Ok(Poll::Ready(output)) if self.lifetime.lives() => Poll::Ready(output),
            Ok(Poll::Pending) if self.lifetime.lives() => {
                *lock(&self.body) = Some(future);
                Poll::Pending
            }
            Ok(_) => Poll::Pending,
            Err(panic) => {
                (self.lifetime.on_panic)(panic_message(panic.as_ref()));
                Poll::Pending
            }
        };
        if result.is_ready() {
            lock(&self.lifetime.tasks).remove(&self.task);
        }
        self.lifetime.look();
        result
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// The runtime that nodes run on.
pub struct NodeRuntime(SimRuntime);

impl fmt::Debug for NodeRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeRuntime")
    }
}

type Sim = SimRuntime;

impl AsyncRuntime for NodeRuntime {
    type JoinError = <Sim as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Sim as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Sim as AsyncRuntime>::Sleep;
    type Instant = SimInstant;
    type TimeoutError = <Sim as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Sim as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Sim as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Sim as AsyncRuntime>::Mpsc;
    type Watch = <Sim as AsyncRuntime>::Watch;
    type Oneshot = <Sim as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Sim as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match HERE.with_borrow(Clone::clone) {
            Some(lifetime) => Sim::spawn(lifetime.confine(future)),
            None => Sim::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Sim::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Sim::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Sim::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Sim::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Sim::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Sim::thread_rng()
    }

    fn new(threads: usize) -> Self {
        NodeRuntime(Sim::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Sim::spawn_blocking(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn lifetime(ends: &Arc<AtomicU32>) -> Arc<NodeLifetime> {
        let ends = ends.clone();
        NodeLifetime::begin(
            Box::new(move || {
                ends.fetch_add(1, Ordering::SeqCst);
            }),
            Box::new(|message| panic!("a task panicked: {message}")),
        )
    }

    /// A task of the lifetime that counts, and spawns another one that does.
    async fn count(counter: Arc<AtomicU32>) {
        let other = counter.clone();
        NodeRuntime::spawn(async move {
            loop {
                NodeRuntime::sleep(Duration::from_millis(1)).await;
                other.fetch_add(1, Ordering::SeqCst);
            }
        });
        loop {
            NodeRuntime::sleep(Duration::from_millis(1)).await;
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_kill_ends_all_tasks_of_a_life_and_those_that_they_spawned() {
        SimRuntime::with_seed(1).block_on(async {
            let (ends, counter) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
            let lifetime = lifetime(&ends);
            let running = lifetime.run(count(counter.clone()));
            SimRuntime::sleep(Duration::from_millis(10)).await;
            let before = counter.load(Ordering::SeqCst);
            assert!(before >= 18, "both count: {before}");
            lifetime.kill();
            assert_eq!(running.await, None, "whoever waits is told");
            SimRuntime::sleep(Duration::from_millis(10)).await;
            assert_eq!(counter.load(Ordering::SeqCst), before);
            // Nothing of the tasks is left.
            assert_eq!(Arc::strong_count(&counter), 1);
            assert_eq!(ends.load(Ordering::SeqCst), 1);
            assert_eq!(
                lifetime.run(async { 7 }).await,
                None,
                "nothing begins in a dead lifetime"
            );
        });
    }

    #[test]
    fn a_life_ends_at_the_step_that_was_chosen() {
        for steps in 0..20 {
            SimRuntime::with_seed(1).block_on(async {
                let (ends, counter) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
                let lifetime = lifetime(&ends);
                lifetime.end_after(steps);
                assert_eq!(lifetime.run(count(counter)).await, None);
                assert!(!lifetime.lives());
                assert_eq!(
                    lifetime.steps(),
                    steps + 1,
                    "the step that was the end is counted and not made"
                );
            });
        }
    }
}
