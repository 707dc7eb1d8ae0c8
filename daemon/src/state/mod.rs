//! Deterministic apply.
pub mod effect;
