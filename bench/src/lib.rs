//! Measures a running cluster through the real client library: what `mbctl bench` prints.
//!
//! - [`failover`] - the time from a fault to the next acknowledged send.

#![deny(missing_docs)]

pub mod failover;
