//! The checks. One promise a module.

use crate::History;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise; one word or two.
    pub promise: &'static str,
    /// What happened, in a sentence.
    pub what: String,
    /// The lines of the history that show it.
    pub evidence: Vec<String>,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)?;
        self.evidence.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

/// Every violation in a history, none if it keeps all promises.
pub fn check(_: &History) -> Vec<Violation> {
    Vec::new()
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
