//! Rules for Rust files: a header, no long file, no long function.

use crate::sources::Source;

/// A file that is longer has more than one subject.
const FILE_LINES: usize = 600;
/// A function that is longer does more than one thing.
const FUNCTION_LINES: usize = 70;
/// A test may tell a longer story.
const TEST_LINES: usize = 100;

pub fn check(source: &Source, broken: &mut Vec<String>) {
    let Source { path, text } = source;
    if !text.starts_with("//!") {
        broken.push(format!(
            "{path}: does not begin with `//!`, what the file is for"
        ));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES {
        broken.push(format!("{path}: {lines} lines, {FILE_LINES} at most"));
    }
    let is_test = path.contains("tests/") || path.ends_with("tests.rs");
    let most = if is_test { TEST_LINES } else { FUNCTION_LINES };
    for (line, name, length) in functions(text) {
        if length > most {
            broken.push(format!(
                "{path}:{line}: `{name}` has {length} lines, {most} at most"
            ));
        }
    }
}

/// (line, name, lines) of every function. rustfmt puts the brace that closes an item below the item's first column.
fn functions(text: &str) -> Vec<(usize, &str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let Some(name) = function_name(code) else {
            continue;
        };
        let closes = |l: &&str| {
            l.len() > indent && l.as_bytes()[indent] == b'}' && l[..indent].trim().is_empty()
        };
        let declared_only = |l: &&str| l.len() - l.trim_start().len() == indent && l.ends_with(';');
        let end = lines[at..]
            .iter()
            .position(|l| closes(l) || declared_only(l));
        found.extend(end.map(|end| (at + 1, name, end + 1)));
    }
    found
}

fn function_name(code: &str) -> Option<&str> {
    let (before, after) = code.split_once("fn ")?;
    let only_modifiers = before.split_whitespace().all(|word| {
        matches!(word, "async" | "const" | "unsafe" | "extern") || word.starts_with("pub")
    });
    let named = only_modifiers && after.starts_with(|c: char| c.is_alphabetic() || c == '_');
    named.then(|| after.split(['(', '<']).next().unwrap_or(after))
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::sources::Source;

    fn broken(text: String) -> Vec<String> {
        let path = "x.rs".to_owned();
        let mut broken = Vec::new();
        check(&Source { path, text }, &mut broken);
        broken
    }

    #[test]
    fn headers_and_lengths_are_held() {
        let long = |lines: usize| {
            format!(
                "//! X.\nimpl A {{\n    pub async fn long(\n        a: B,\n    ) {{\n{}    }}\n    fn short() {{}}\n}}\n",
                "        x;\n".repeat(lines)
            )
        };
        assert!(broken(long(60)).is_empty());
        assert_eq!(
            broken(long(70)),
            ["x.rs:3: `long` has 74 lines, 70 at most"]
        );
        assert_eq!(broken("//! X.\n".repeat(601)).len(), 1);
        assert_eq!(broken("fn x() {}\n".into()).len(), 1);
    }
}
