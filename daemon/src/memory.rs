//! The allocator, SQLite's too: mimalloc. Under load it saves a node a tenth of its processor time (docs/BENCHMARKS.md).

use std::ffi::c_long;

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_arena_purge_mult` (mimalloc 2.3's include/mimalloc.h; the crate does not name it): how many times longer than
/// single pages whole segments and large blocks are kept after they were freed.
const ARENA_PURGE_MULT: mi_option_t = 24;
/// No time at all. A block that is kept is only returned when another one is freed: a node that has no more logins would
/// keep the 19 MiB of its last password hash.
const AT_ONCE: c_long = 0;

/// Makes the allocator return freed memory to the system. To be called before anything is allocated; the environment variable
/// `MIMALLOC_ARENA_PURGE_MULT` takes precedence.
#[allow(unsafe_code, reason = "no crate has a safe call that sets an option")]
pub fn return_freed_at_once() {
    // Safe: takes two numbers, and refuses an option that it doesn't know.
    unsafe { mi_option_set_default(ARENA_PURGE_MULT, AT_ONCE) }
}
