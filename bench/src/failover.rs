//! The time from a fault to the next acknowledged send.
