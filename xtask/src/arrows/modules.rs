//! Finds which sibling modules a source file names: `crate::x`, `super::x` and the groups `crate::{x, y::z}`. A reading
//! of the text, not of the syntax tree: good enough for arrows, and it needs no dependency.

/// The lines that are not comments, with their 1-based numbers; what follows `//` is cut off.
pub fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(at, line)| {
        let code = line.split("//").next().unwrap_or_default();
        (!code.trim().is_empty()).then_some((at + 1, code))
    })
}

/// (line, first path segment after `crate::` or `super::`) for every such path outside comments.
pub fn named(text: &str) -> Vec<(usize, String)> {
    // One string, so that a group may span lines; a parallel list says where each line begins in it.
    let mut code = String::new();
    let mut starts = Vec::new();
    for (number, line) in code_lines(text) {
        starts.push((code.len(), number));
        code.push_str(line);
        code.push('\n');
    }
    let line_of = |at: usize| {
        starts
            .iter()
            .take_while(|(start, _)| *start <= at)
            .last()
            .map_or(0, |(_, line)| *line)
    };
    let mut found = Vec::new();
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(
                    group_heads(group)
                        .into_iter()
                        .map(|name| (line_of(at), name)),
                ),
                None => found.push((line_of(at), identifier(rest))),
            }
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

/// The first segments of the members of `a::{b, c}, d}…`, read up to the brace that closes the group.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0_usize;
    let mut member_begins = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                heads.push(identifier(group[member_begins..at].trim_start()));
                member_begins = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::named;

    fn names(text: &str) -> Vec<String> {
        named(text).into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn paths_groups_and_nested_groups_are_seen() {
        assert_eq!(names("use crate::raft::Handle;"), ["raft"]);
        assert_eq!(
            names("use crate::{change::{Change, Outcome},\n    door, service::x};"),
            ["change", "door", "service"]
        );
        assert_eq!(names("fn f() -> super::store::Writer {}"), ["store"]);
    }

    #[test]
    fn comments_do_not_count_and_lines_are_right() {
        assert_eq!(
            named("// crate::door\n/// crate::door\nuse crate::door;"),
            [(3, "door".to_owned())]
        );
    }
}
