//! Finds which modules of its own crate a source file names: `crate::x::y`, `super::x` and groups such as
//! `crate::{x, y::z}`. It reads the text, not the syntax tree: that is enough for arrows and needs no dependency.

/// A path of a crate's module tree, without the leading `crate`.
pub type ModulePath = Vec<String>;

/// The module that a file below `src/` is: `raft/mod.rs` is `[raft]`, `raft/core.rs` is `[raft, core]`.
pub fn module_of(file_below_src: &str) -> ModulePath {
    let without_extension = file_below_src.strip_suffix(".rs").unwrap_or(file_below_src);
    let mut path: ModulePath = without_extension.split('/').map(str::to_owned).collect();
    if matches!(
        path.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        path.pop();
    }
    path
}

/// The lines that are not comments, with their 1-based numbers; what follows `//` is cut off. Ends at the first inline
/// module of tests, which by convention stands last in a file.
pub fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut test_attribute = false;
    text.lines()
        .enumerate()
        .map_while(move |(at, line)| {
            let begins_tests = test_attribute && line.starts_with("mod ") && line.ends_with('{');
            test_attribute =
                line.trim() == "#[cfg(test)]" || (test_attribute && line.starts_with('#'));
            (!begins_tests).then_some((at + 1, line))
        })
        .filter_map(|(number, line)| {
            let code = line.split("//").next().unwrap_or_default();
            (!code.trim().is_empty()).then_some((number, code))
        })
}

/// (line, path) of every path outside comments and tests that begins with `crate` or `super`, as seen from `module`.
pub fn named(text: &str, module: &[String]) -> Vec<(usize, ModulePath)> {
    // One string, so that a group may span lines; a parallel list says where each line begins in it.
    let mut code = String::new();
    let mut starts = Vec::new();
    for (number, line) in code_lines(text) {
        starts.push((code.len(), number));
        code.push_str(line);
        code.push('\n');
    }
    let mut found = Vec::new();
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            let inside_a_path = code[..at].ends_with("::") || code[..at].ends_with(is_word);
            if inside_a_path {
                continue;
            }
            let line = starts.partition_point(|(start, _)| *start <= at);
            let line = starts.get(line.saturating_sub(1)).map_or(0, |(_, n)| *n);
            for written in expand(&code[at..]) {
                found.push((line, resolve(&written, module)));
            }
        }
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `crate` is the root; each `super` is one module up.
fn resolve(written: &[String], module: &[String]) -> ModulePath {
    let mut base = module.to_vec();
    let mut rest = written;
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "crate" => base.clear(),
            "super" => drop(base.pop()),
            "self" => {}
            _ => break,
        }
        rest = after;
    }
    base.extend_from_slice(rest);
    base
}

/// All paths that the text begins with: `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn expand(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    read_tree(text, &[], &mut found);
    found
}

/// Reads one path or group behind `prefix`; returns the text behind it.
fn read_tree<'a>(text: &'a str, prefix: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let mut path = prefix.to_vec();
    let mut rest = text.trim_start();
    loop {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        path.extend((!word.is_empty()).then(|| word.to_owned()));
        match behind.strip_prefix("::") {
            Some(after) if after.starts_with('{') => return read_group(&after[1..], &path, found),
            Some(after) => rest = after,
            None => {
                found.push(path);
                return behind;
            }
        }
    }
}

/// Reads the members of a group up to the brace that closes it.
fn read_group<'a>(text: &'a str, prefix: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let mut rest = text.trim_start();
    while !rest.is_empty() && !rest.starts_with('}') {
        rest = read_tree(rest, prefix, found);
        // `*`, `as OTHER_NAME` and the comma lead to the next member.
        let end = rest.find([',', '}']).unwrap_or(rest.len());
        rest = rest[end..].trim_start_matches(',').trim_start();
    }
    rest.strip_prefix('}').unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::{module_of, named};

    fn names(text: &str, module: &str) -> Vec<String> {
        named(text, &module_of(module))
            .into_iter()
            .map(|(_, path)| path.join("::"))
            .collect()
    }

    #[test]
    fn paths_groups_and_nested_groups_are_seen() {
        assert_eq!(
            names("use crate::raft::Handle;", "door/x.rs"),
            ["raft::Handle"]
        );
        assert_eq!(
            names(
                "use crate::{change::{Change, Outcome as O},\n    door, service::x};\nfn f() {}",
                "door/x.rs"
            ),
            ["change::Change", "change::Outcome", "door", "service::x"]
        );
        assert_eq!(
            names("fn f() -> super::store::Writer {}", "door/x.rs"),
            ["door::store::Writer"]
        );
        assert_eq!(
            names("use super::super::super::raft;", "door/a/b.rs"),
            ["raft"]
        );
        assert_eq!(names("use super::x;", "door/mod.rs"), ["x"]);
        assert_eq!(names("if a == crate::b { c }", "door/mod.rs"), ["b"]);
    }

    #[test]
    fn comments_and_tests_do_not_count_and_lines_are_right() {
        let text = "// crate::door\n/// crate::door\nuse crate::door;\n#[cfg(test)]\nmod tests {\nuse crate::raft;\n}";
        assert_eq!(named(text, &[]), [(3, vec!["door".to_owned()])]);
    }
}
