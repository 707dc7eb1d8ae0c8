//! The peer door: mutual TLS between nodes and from `mbctl`. Carries `raft`'s frames as opaque bytes, presence,
//! formation probes and operators' requests. Decides who may speak; what is said is decided elsewhere.
//!
//! Where to go next: [`wire`] dials, [`server`] listens, [`frame`] is the bytes on the socket, [`identify`] checks
//! certificates, [`gossip`] spreads presence.

pub mod complaints;
pub mod frame;
pub mod gossip;
pub mod identify;
pub mod ledger;
pub mod server;
pub mod wire;
