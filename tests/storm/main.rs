//! Faults and load from seeds over real processes; see docs/TESTING.md, "Storm".

#![allow(clippy::expect_used, reason = "a test that can't go on fails")]

mod seeds;
