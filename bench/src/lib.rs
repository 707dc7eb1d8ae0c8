//! Measures a running cluster through the real client library: what `mbctl bench` prints. It starts and kills no
//! node itself: whoever calls it does, and says how it went.
//!
//! - [`failover`] - the time from a fault to the next acknowledged send.
//! - [`connections`] - what idle sessions hold of a node's memory, and how soon a message reaches any of them.
//! - [`logins`] - sends beside a storm of logins.
//! - [`growth`] - what questions and sends cost a cluster that holds millions of messages, beside one that holds few.
//! - [`load`] - throughput and latency of sends, closed loop and pipelined, and the proof that none was lost.
//! - [`etcd`] - an etcd cluster under the same load, to compare with.
//! - [`measure`] - what the operating system and the nodes' counters say meanwhile.

#![deny(missing_docs)]

pub mod connections;
pub mod etcd;
pub mod failover;
pub mod growth;
pub mod load;
pub mod logins;
pub mod measure;
