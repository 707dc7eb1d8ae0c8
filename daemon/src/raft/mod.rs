//! Replication: openraft behind a facade. Only this room names openraft. The async runtime is a type parameter
//! everywhere, so that the simulation runs the same code in virtual time.

pub mod api;
