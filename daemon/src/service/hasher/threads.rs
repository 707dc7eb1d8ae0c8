//! The threads that hash, and their queue. Not tokio's blocking pool: these are few, run at a low priority, keep their
//! memory while there is work and return it soon after.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use argon2::Argon2;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::argon2_worker::Argon2Worker;
use crate::background;

/// A thread without work keeps its memory for this long: logins come in bursts.
const MEMORY_KEPT: Duration = Duration::from_secs(1);

/// One hash. Called once, with a thread's memory.
pub(super) type Job = Box<dyn FnOnce(&mut Argon2Worker) + Send>;

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// Nobody will bring another job.
    closed: bool,
}

#[derive(Default)]
struct Queue {
    /// Held to put in and take out, never while hashing.
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

/// The threads. They end when this is dropped and all jobs are done.
pub(super) struct Threads(Arc<Queue>);

impl Threads {
    /// Starts `count` threads. Fails when the system gives none.
    pub(super) fn start(count: usize, argon2: &Argon2<'static>) -> std::io::Result<Self> {
        let threads = Threads(Arc::default());
        for number in 0..count {
            let (queue, worker) = (threads.0.clone(), Argon2Worker::new(argon2.clone()));
            std::thread::Builder::new()
                .name(format!("hasher-{number}"))
                .spawn(move || run(&queue, worker))?;
        }
        Ok(threads)
    }

    /// Puts a job behind those that wait. The caller bounds their number.
    pub(super) fn give(&self, job: Job) {
        self.0.waiting.lock().jobs.push_back(job);
        self.0.arrived.notify_one();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.0.waiting.lock().closed = true;
        self.0.arrived.notify_all();
    }
}

impl Queue {
    /// The next job; `None` when there will be none. Calls `idle_for_long` after waiting for [`MEMORY_KEPT`].
    fn next(&self, mut idle_for_long: impl FnMut()) -> Option<Job> {
        let idle = |waiting: &mut Waiting| waiting.jobs.is_empty() && !waiting.closed;
        let mut waiting = self.waiting.lock();
        self.arrived.wait_while_for(&mut waiting, idle, MEMORY_KEPT);
        if idle(&mut waiting) {
            MutexGuard::unlocked(&mut waiting, &mut idle_for_long);
            self.arrived.wait_while(&mut waiting, idle);
        }
        waiting.jobs.pop_front()
    }
}

fn run(queue: &Queue, mut worker: Argon2Worker) {
    background::lower_priority();
    while let Some(job) = queue.next(|| worker.free_memory()) {
        // A panic answers its own request, by dropping what that waits for, and leaves the thread to the others.
        if catch_unwind(AssertUnwindSafe(|| job(&mut worker))).is_err() {
            tracing::error!("hashing a password panicked");
        }
    }
}
