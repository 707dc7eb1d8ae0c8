//! Every bad input gets its documented error (PROTOCOL.md, OPERATING.md) and harms no other client.

mod config;
mod doors;
mod requests;
mod start;
