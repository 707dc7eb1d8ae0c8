//! The checks, one promise a module. All of them are near-linear in the history: what they look up is sorted once by
//! [`Index`]. Each says only what no keeping of the promise could explain: an operation without an answer may have
//! happened at any time after it was asked, or never.

mod accounts;
mod content;
mod delivery;
mod describe;
mod index;
mod keys;
mod nodes;
mod order;
mod reads;
mod sessions;

#[cfg(test)]
mod tests;

use crate::History;
use index::Index;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise, in a word or two.
    pub promise: &'static str,
    /// What happened, in a sentence.
    pub what: String,
    /// What in the history shows it.
    pub evidence: Vec<String>,
}

impl Violation {
    fn new(promise: &'static str, what: String, evidence: Vec<String>) -> Violation {
        Violation {
            promise,
            what,
            evidence,
        }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)?;
        self.evidence
            .iter()
            .try_for_each(|line| write!(f, "\n    {line}"))
    }
}

/// Every violation in a history; none if nothing in it contradicts the promises.
pub fn check(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let index = Index::new(history, &mut found);
    content::check(&index, &mut found);
    keys::check(&index, &mut found);
    order::check(&index, &mut found);
    reads::check(&index, &mut found);
    delivery::check(&index, &mut found);
    accounts::check(&index, &mut found);
    sessions::check(&index, &mut found);
    nodes::check(history, &mut found);
    found
}

/// The violations as text for people, the first ones in full.
pub fn report(violations: &[Violation]) -> String {
    const IN_FULL: usize = 10;
    let mut text = format!("{} violations", violations.len());
    for violation in violations.iter().take(IN_FULL) {
        text.push_str(&format!("\n- {violation}"));
    }
    text
}
