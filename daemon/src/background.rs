//! Threads of the daemon that give way to all others: hashing and copying for operators have time.

/// The threads' nice value. When the processors are busy they get a twentieth of what others get, but they get it.
const NICE: i32 = 14;

/// From now on the calling thread gives way. Without that it still works, so a refusal is only said.
pub fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::warn!(%error, "a background thread runs at the same priority as everything else");
    }
}
