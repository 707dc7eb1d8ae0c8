//! The peer port: mutual TLS between nodes and from `mbctl`. Carries `raft`'s frames as opaque bytes, presence,
//! formation probes and operators' requests. It decides who may speak; `node` decides what happens.
//!
//! Where to go next: [`wire`] dials, [`server`] listens, [`frame`] reads and writes frames, [`identify`] checks
//! certificates, [`incarnations`] recognizes copied data directories.

pub mod frame;
pub mod identify;
pub mod incarnations;
pub mod server;
pub mod wire;
