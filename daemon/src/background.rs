//! Threads at a lower priority than all others, for work that can wait: hashing passwords, copying for operators.

/// The threads' nice value. On busy processors they get about a twentieth of the time of other threads, never none.
const NICE: i32 = 14;

/// Lowers the priority of the calling thread. The thread works without that too, so a refusal is only logged.
pub fn lower_priority() {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::warn!(%error, "a background thread runs at the same priority as everything else");
    }
}
