//! The daemon `mbd`: a map of its modules. A request goes down once (line → request → change → log → row) and its result up
//! once (outcome → reply, events).
//!
//! - `door` → `service` → `raft` → `store`; `state` applies changes inside a transaction of the store; `fanout` and `presence`
//!   are the live sessions.
//! - `peer` carries `raft`'s bytes and operators' requests; `admin` answers operators.
//! - `change` and `entry` are the values that those rooms hand to each other.
//! - `node` builds one node of all of them and starts and stops it; `context` is what `node` and `admin` share; `hooks` let a
//!   test program step in.
//! - `watch` is a channel, `memory` the allocator, `background` the priority of threads, `throttle` bounds on repetition.

pub mod admin;
pub mod background;
pub mod change;
pub mod cli;
pub mod context;
pub mod door;
pub mod entry;
pub mod fanout;
pub mod hooks;
pub mod http;
pub mod memory;
pub mod node;
pub mod peer;
pub mod presence;
pub mod raft;
pub mod service;
pub mod state;
pub mod store;
mod throttle;
pub mod watch;
