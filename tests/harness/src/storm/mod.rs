//! Storms: real processes under faults and load that a seed chooses, judged by `messagebase-checker`.
//!
//! [`Plan`] says what a seed means, [`run`] does it and returns a [`Report`]. Inside, the conductor (`faults`) hurts the
//! cluster; guests (`guest`, `habits`; what they share: `world`) use it meanwhile and take everything down, [`Caller`] is
//! one such connection; `verdict` looks at the healed cluster and judges, `report` counts. It decides nothing about right
//! and wrong: that is the checker's, except for what only shows from outside (processes that end, nodes that never serve
//! again).

mod caller;
mod faults;
mod guest;
mod habits;
mod plan;
mod report;
mod run;
mod verdict;
mod world;

pub use caller::{Caller, Heard};
pub use plan::{Fault, Guest, Habit, Plan, Scheduled, Slot, Trouble, Wish};
pub use report::{Report, Sum};
pub use run::run;
pub use verdict::{Findings, examine, take_mailbox};
