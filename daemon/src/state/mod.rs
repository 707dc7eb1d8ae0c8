//! Deterministic apply and the queries on what it wrote. Apply sees a transaction and `change` alone.
//!
//! **Invariant:** apply knows no clock, no chance and no I/O but its transaction.
pub mod effect;
pub mod read;
