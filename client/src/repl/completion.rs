//! Completion and hints of the line editor, from the one definition of the commands. Pure.

use std::collections::BTreeSet;

use crate::command::{COMMANDS, Mode};

/// Pipe lines that a newcomer may not know by heart.
const PIPE_HINTS: &[(&str, &str)] = &[
    ("1|", "USER|PASSWORD  register"),
    ("2|", "USER|PASSWORD  log in"),
    ("3|", "USER  delete the account"),
    ("5|", "PATTERN  search users"),
    ("d|", "TO|MESSAGE  send"),
];

/// Commands whose first argument is a user's name.
const NAME_FIRST: &[&str] = &["/msg ", "/history ", "/login ", "d|"];

/// What Tab offers for the word under the cursor: where it begins, and its completions.
pub fn complete(line: &str, at: usize, names: &BTreeSet<String>) -> (usize, Vec<String>) {
    let Some(before) = line.get(..at) else {
        return (at, Vec::new());
    };
    if before.starts_with('/') && !before.contains(' ') {
        let word = &before[1..];
        let offered = COMMANDS
            .iter()
            .filter(|spec| spec.mode != Mode::Script && spec.name.starts_with(word))
            .map(|spec| {
                format!(
                    "/{}{}",
                    spec.name,
                    if spec.arguments.is_empty() { "" } else { " " }
                )
            })
            .collect();
        return (0, offered);
    }
    for start in NAME_FIRST {
        let Some(typed) = before.strip_prefix(start) else {
            continue;
        };
        if typed.contains([' ', '|']) {
            continue;
        }
        let end = if *start == "d|" { "|" } else { " " };
        let lower = typed.to_ascii_lowercase();
        let matching = names
            .iter()
            .filter(|name| name.to_ascii_lowercase().starts_with(&lower));
        return (
            start.len(),
            matching.map(|name| format!("{name}{end}")).collect(),
        );
    }
    (at, Vec::new())
}

/// What stands in grey behind the cursor.
pub fn hint(line: &str, at: usize) -> Option<String> {
    if at < line.len() || line.is_empty() {
        return None;
    }
    if let Some((_, rest)) = PIPE_HINTS.iter().find(|(start, _)| *start == line) {
        return Some((*rest).to_owned());
    }
    let word = line.strip_prefix('/')?;
    if let Some(word) = word.strip_suffix(' ') {
        let spec = COMMANDS.iter().find(|spec| spec.name == word)?;
        return Some(
            format!("{}  {}", spec.arguments, spec.help)
                .trim_start()
                .to_owned(),
        );
    }
    let mut matching = COMMANDS
        .iter()
        .filter(|spec| spec.mode != Mode::Script && spec.name.starts_with(word));
    let spec = matching.next()?;
    if word.is_empty() || matching.next().is_some() {
        return None;
    }
    Some(
        format!("{} {}", &spec.name[word.len()..], spec.arguments)
            .trim_end()
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> BTreeSet<String> {
        ["Bob", "bea", "carol"]
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn commands_and_names_complete() {
        assert_eq!(
            complete("/hi", 3, &names()),
            (0, vec!["/history ".to_owned()])
        );
        assert_eq!(
            complete("/msg b", 6, &names()),
            (5, vec!["Bob ".to_owned(), "bea ".to_owned()])
        );
        assert_eq!(
            complete("d|ca", 4, &names()),
            (2, vec!["carol|".to_owned()])
        );
        assert_eq!(complete("d|carol|b", 9, &names()).1, Vec::<String>::new());
        assert_eq!(complete("hello", 5, &names()).1, Vec::<String>::new());
    }

    #[test]
    fn a_cursor_inside_a_character_does_not_panic() {
        assert_eq!(complete("é", 1, &names()).1, Vec::<String>::new());
    }

    #[test]
    fn hints_say_what_comes_next() {
        assert_eq!(hint("d|", 2).as_deref(), Some("TO|MESSAGE  send"));
        assert_eq!(hint("/hist", 5).as_deref(), Some("ory NAME"));
        assert!(hint("/msg ", 5).is_some_and(|hint| hint.starts_with("NAME [TEXT]")));
        assert_eq!(hint("/", 1), None);
        assert_eq!(hint("hello", 5), None);
    }
}
