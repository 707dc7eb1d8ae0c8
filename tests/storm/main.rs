//! Faults and load from seeds over real processes; see docs/TESTING.md, "Storm".

mod seeds;
