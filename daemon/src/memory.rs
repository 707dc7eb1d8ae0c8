//! What the allocator is told before anything else: how much of what is freed goes back to the system.
//!
//! glibc raises by itself the size from which an allocation gets pages of its own, up to 32 MiB, once such a one was
//! freed; from then on the 19 MiB of a password hash lie in an arena, which keeps them. Naming the sizes stops that.

/// Allocations from here on have their own pages and give them back at once.
#[cfg(target_env = "gnu")]
const OWN_PAGES_FROM_BYTES: libc::c_int = 4 * 1024 * 1024;
/// What an arena may keep unused at its end. More of it saves asking the system again.
#[cfg(target_env = "gnu")]
const KEPT_UNUSED_BYTES: libc::c_int = 2 * 1024 * 1024;
/// Arenas where there are few processors: as many threads may allocate at a time without waiting. glibc would make eight
/// a processor, each with what its threads once needed: most of ours read for a moment and rest.
#[cfg(target_env = "gnu")]
const ARENAS_MIN: usize = 4;

/// To be called before the first thread is started.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "nobody offers a safe way to set glibc's own parameters")]
pub fn bound() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let arenas = libc::c_int::try_from(processors.max(ARENAS_MIN)).unwrap_or(libc::c_int::MAX);
    // Safe: takes two numbers and changes parameters of the allocator that are meant to be changed; it refuses what it
    // doesn't know, and nothing depends on its having agreed.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES_FROM_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_UNUSED_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, arenas);
    }
}

/// Other allocators have their own ways.
#[cfg(not(target_env = "gnu"))]
pub fn bound() {}
