//! Raw TOML to a valid [`crate::Config`].
