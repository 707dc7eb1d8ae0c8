//! Rules for Markdown files: lines of readable width, links that lead somewhere.

use std::path::Path;

use crate::sources::Source;

/// In columns. Tables, code and lines that are mostly one link may be wider.
const WIDTH: usize = 110;

pub fn check(root: &Path, document: &Source, broken: &mut Vec<String>) {
    let mut in_code = false;
    for (at, line) in document.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let place = format!("{}:{}", document.path, at + 1);
        let width = line.chars().count();
        if width > WIDTH && !line.starts_with('|') && !line.contains("](") {
            broken.push(format!("{place}: {width} columns, {WIDTH} at most"));
        }
        for link in links(line) {
            if let Some(why) = dead(root, document, link) {
                broken.push(format!("{place}: the link {link} {why}"));
            }
        }
    }
}

/// The targets of the Markdown links of a line that lead into the repository.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.contains("://") && !link.starts_with("mailto:"))
}

/// Why a link leads nowhere, if it does.
fn dead(root: &Path, document: &Source, link: &str) -> Option<String> {
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let folder = Path::new(&document.path).parent().unwrap_or(Path::new(""));
    let target = if file.is_empty() {
        root.join(&document.path)
    } else {
        root.join(folder).join(file)
    };
    if !target.exists() {
        return Some("leads to no file".into());
    }
    if heading.is_empty() || target.extension().is_none_or(|e| e != "md") {
        return None;
    }
    let text = std::fs::read_to_string(&target).unwrap_or_default();
    let found = headings(&text).any(|h| h == heading);
    (!found).then(|| "leads to no heading".into())
}

/// The anchors of a document's headings, as GitHub makes them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::check;
    use crate::sources::Source;

    fn broken(text: &str) -> usize {
        let mut broken = Vec::new();
        let document = Source {
            path: "README.md".into(),
            text: text.into(),
        };
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        check(root, &document, &mut broken);
        broken.len()
    }

    #[test]
    fn wide_lines_and_dead_links_are_found() {
        let wide = "x".repeat(111);
        assert_eq!(broken(&wide), 1);
        assert_eq!(broken(&format!("```\n{wide}\n```\n| {wide} |")), 0);
        assert_eq!(broken("[a](src/main.rs) [b](https://example.org/x)"), 0);
        assert_eq!(broken("[a](src/none.rs)"), 1);
    }
}
