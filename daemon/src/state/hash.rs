//! The hashing of the maps that every send asks several times. foldhash is seeded at random like std's SipHash, takes a
//! fifth of its time, and promises less against somebody who picks colliding keys: it would take many thousand keys of
//! one user between two merges, and cost the time to compare them.

/// A map with the faster hashing.
pub type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
