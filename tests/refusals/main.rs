//! Every bad input gets its documented error (PROTOCOL.md, OPERATING.md) and harms no other client.

#![allow(clippy::expect_used, reason = "a test that can't go on fails")]

mod config;
mod doors;
mod requests;
mod start;
