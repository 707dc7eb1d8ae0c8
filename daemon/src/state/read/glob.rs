//! Globs over names: `*` any run of characters, `?` one character, all else literal.
//!
//! Not SQLite's GLOB: that backtracks once per `*`, so that a pattern of 64 bytes could keep a connection busy for
//! minutes inside one function call, where no progress handler is asked. This takes pattern × name steps at worst.

/// A compiled pattern.
pub(super) struct Glob<'a> {
    pattern: &'a [u8],
    prefix: &'a str,
}

impl<'a> Glob<'a> {
    pub fn new(pattern: &'a str) -> Self {
        let end = pattern.find(['*', '?']).unwrap_or(pattern.len());
        Glob {
            pattern: pattern.as_bytes(),
            prefix: &pattern[..end],
        }
    }

    /// What every match begins with.
    pub fn prefix(&self) -> &'a str {
        self.prefix
    }

    /// Bytewise, which is right for names: they are ASCII.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.pattern, name.as_bytes());
        let (mut p, mut n) = (0, 0);
        // Where to go on when a literal fails: after the last `*`, which then takes one byte more.
        let mut retry: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    retry = Some((p + 1, n));
                    p += 1;
                }
                Some(&c) if c == b'?' || c == name[n] => {
                    p += 1;
                    n += 1;
                }
                _ => match retry {
                    Some((after_star, taken)) => {
                        retry = Some((after_star, taken + 1));
                        p = after_star;
                        n = taken + 1;
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|c| *c == b'*')
    }
}

#[cfg(test)]
mod tests {
    use super::Glob;

    #[test]
    fn globs_match_as_people_expect() {
        let cases = [
            ("*", "ann", true),
            ("", "ann", false),
            ("ann", "ann", true),
            ("ann", "anna", false),
            ("a*", "anna", true),
            ("*na", "anna", true),
            ("a?n*", "anna", true),
            ("?", "ab", false),
            ("*a*a*", "anna", true),
            ("*a*a*a*", "anna", false),
            ("[a]*", "anna", false),
            ("a**", "a", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(
                Glob::new(pattern).matches(name),
                expected,
                "{pattern} on {name}"
            );
        }
    }

    #[test]
    fn the_prefix_ends_at_the_first_wildcard() {
        assert_eq!(Glob::new("an?a*").prefix(), "an");
        assert_eq!(Glob::new("*").prefix(), "");
        assert_eq!(Glob::new("anna").prefix(), "anna");
    }
}
