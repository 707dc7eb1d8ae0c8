//! The rooms above see replication through this: a node without an identity answers that there is no quorum.

use std::sync::Arc;

use super::Shared;

/// Implements what `service/` asks of replication.
pub struct Replicated(pub Arc<Shared>);
