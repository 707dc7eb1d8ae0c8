//! Defects on purpose, so that tests can prove that the checker finds them. The feature `planted`, which only
//! dev-dependencies turn on, compiles them in: the mbd that `cargo test` leaves in its target directory has them, one that
//! `cargo build` or `cargo install` makes has not, and there [`planted`] is `false`.
//!
//! A process takes the one named by `MESSAGEBASE_PLANTED`; a simulation plants one on its own thread with
//! `plant`.

/// A promise to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// A repeated key is taken for a new request.
    KeyUniqueness,
    /// The log is called durable before it is on disk.
    SyncBeforeAck,
    /// The writes of one connection overtake each other.
    Order,
    /// A session taken up by its token misses what arrived in between.
    TokenResume,
    /// A linear read does not wait for what was acknowledged before it.
    StaleRead,
}

impl Defect {
    /// All of them.
    pub const ALL: [Defect; 5] = [
        Defect::KeyUniqueness,
        Defect::SyncBeforeAck,
        Defect::Order,
        Defect::TokenResume,
        Defect::StaleRead,
    ];

    /// As `MESSAGEBASE_PLANTED` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Defect::KeyUniqueness => "key-uniqueness",
            Defect::SyncBeforeAck => "sync-before-ack",
            Defect::Order => "order",
            Defect::TokenResume => "token-resume",
            Defect::StaleRead => "stale-read",
        }
    }
}

#[cfg(feature = "planted")]
mod switch {
    use std::cell::Cell;
    use std::sync::LazyLock;

    use super::Defect;

    thread_local!(static HERE: Cell<Option<Defect>> = const { Cell::new(None) });

    static PROCESS: LazyLock<Option<Defect>> = LazyLock::new(|| {
        let name = std::env::var("MESSAGEBASE_PLANTED").ok()?;
        let found = Defect::ALL.into_iter().find(|defect| defect.name() == name);
        assert!(
            found.is_some(),
            "MESSAGEBASE_PLANTED={name} names no defect"
        );
        found
    });

    /// Whether this defect is planted, in the process or on this thread.
    pub fn planted(defect: Defect) -> bool {
        HERE.get() == Some(defect) || *PROCESS == Some(defect)
    }

    /// Plants on this thread until the guard is dropped.
    pub fn plant(defect: Defect) -> Planted {
        HERE.set(Some(defect));
        Planted(())
    }

    /// While it lives the defect is there.
    #[must_use]
    pub struct Planted(());

    impl Drop for Planted {
        fn drop(&mut self) {
            HERE.set(None);
        }
    }
}

#[cfg(feature = "planted")]
pub use switch::{Planted, plant, planted};

/// Without the feature nothing is planted.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn planted(_: Defect) -> bool {
    false
}
