//! Cited documents must be in the repository: a reader could not follow the others. Found are names of Markdown files
//! anywhere, and in comments and prose a name in capitals with the number of a section.

use crate::sources::Source;

/// Letters that a name in capitals has at least; `RFC 1` and `SHA 2` cite no document of a repository.
const NAME_LETTERS: usize = 5;

pub fn check(source: &Source, documents: &[Source], broken: &mut Vec<String>) {
    let is_there = |name: &str| {
        let file = name.rsplit('/').next().unwrap_or(name);
        let named = |document: &Source| document.path.rsplit('/').next() == Some(file);
        documents.iter().any(named)
    };
    let is_code = source.path.ends_with(".rs");
    let mut in_block = false;
    for (at, line) in source.text.lines().enumerate() {
        in_block ^= line.trim_start().starts_with("```");
        let prose = match line.split_once("//") {
            Some((_, comment)) if is_code => comment,
            _ if is_code || in_block => "",
            _ => line,
        };
        let files = words(line)
            .filter(|word| word.ends_with(".md"))
            .map(str::to_owned);
        let sections = sections(prose).map(|name| format!("{name}.md"));
        for name in files.chain(sections).filter(|name| !is_there(name)) {
            broken.push(format!(
                "{}:{}: cites {name}, which is not in the repository",
                source.path,
                at + 1
            ));
        }
    }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/')))
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| !word.starts_with('.') || word.contains('/'))
}

/// Names in capitals before a number, outside of code in backticks.
fn sections(prose: &str) -> impl Iterator<Item = &str> {
    prose.split('`').step_by(2).flat_map(|text| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let pairs: Vec<(&str, &str)> = words.windows(2).map(|pair| (pair[0], pair[1])).collect();
        pairs.into_iter().filter_map(|(name, number)| {
            let is_name =
                name.len() >= NAME_LETTERS && name.chars().all(|c| c.is_ascii_uppercase());
            (is_name && number.starts_with(|c: char| c.is_ascii_digit())).then_some(name)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::sources::Source;

    fn broken(path: &str, text: &str) -> usize {
        let source = |path: &str, text: &str| Source {
            path: path.into(),
            text: text.into(),
        };
        let documents = [source("docs/PROTOCOL.md", "")];
        let mut broken = Vec::new();
        check(&source(path, text), &documents, &mut broken);
        broken.len()
    }

    #[test]
    fn a_document_that_is_elsewhere_is_found() {
        assert_eq!(broken("a.rs", "//! See PROTOCOL 7, docs/PROTOCOL.md."), 0);
        assert_eq!(broken("a.rs", concat!("//! As PROMISE", " 1 says.")), 1);
        assert_eq!(broken("a.rs", "let sql = \"SELECT 1\"; // `SELECT 1`"), 0);
        assert_eq!(broken("PROTOCOL.md", concat!("in ELSEWHERE", ".md")), 1);
    }
}
