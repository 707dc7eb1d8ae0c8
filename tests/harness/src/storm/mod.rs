//! Storms: real processes under faults and load that a seed chooses, judged by `messagebase-checker`.
//!
//! [`StormPlan`] says what a seed means; [`run`] does it and returns a [`StormReport`]. Inside, the conductor (`faults`)
//! hurts the cluster while clients use it and record everything: `storm_client` keeps one served, `workload` chooses its
//! operations, `context` is what all share, and a [`RecordedClient`] is one connection. `shipped_client` is a program on the
//! client library, whose lines `recorded_stream` records below it; `tape` records the lines of one connection. `verdict` examines the healed
//! cluster and `report` counts. Right and wrong are the checker's to decide, except for what shows only from outside:
//! processes that end and nodes that never serve again.

mod context;
mod faults;
mod plan;
mod recorded_client;
mod recorded_stream;
mod report;
mod run;
mod shipped_client;
mod storm_client;
mod tape;
mod verdict;
mod workload;

pub use plan::{Behavior, ClientPlan, Fault, LinkFault, Scheduled, Slot, StormPlan, Wish};
pub use recorded_client::RecordedClient;
pub use report::{StormReport, Sum};
pub use run::run;
pub use tape::Heard;
pub use verdict::{Findings, examine, take_mailbox};
