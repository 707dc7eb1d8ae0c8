//! The daemon `mbd`: a map of its rooms. Data flows down once (line → request → change → log → row) and up once
//! (outcome → reply, events); nothing reaches around a layer.
//!
//! `door` → `service` → `raft` → `store`; `state` sees a transaction and `change` alone; `peer` carries `raft`'s
//! bytes and operators' requests; `node` builds one node of all of them. `watch` is a channel, `memory` the allocator,
//! `background` a thread that gives way.

pub mod admin;
pub mod background;
pub mod change;
pub mod cli;
pub mod context;
pub mod door;
pub mod fanout;
pub mod http;
pub mod memory;
pub mod node;
pub mod peer;
pub mod planted;
pub mod presence;
pub mod raft;
pub mod service;
pub mod state;
pub mod store;
mod throttle;
pub mod watch;
