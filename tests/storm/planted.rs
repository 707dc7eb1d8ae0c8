//! Defects on purpose over real processes.
