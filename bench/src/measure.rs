//! What the operating system and the servers' own counters say about a stretch of load. Reads `/proc` and `/metrics`;
//! starts and stops nothing.

mod counters;
mod machine;
mod process;
mod spread;

pub use counters::{Counters, CountersError};
pub use machine::{Machine, Ticks};
pub use process::{Memory, Usage, directory_bytes, memory, mib, usage, usage_of_this};
pub use spread::{Spread, median};
