//! `cargo xtask tidy`: the rules of the house that a machine can hold, for sources and documents. Each failure names the
//! rule and the line.

mod documents;
mod rust;

use std::path::Path;
use std::process::ExitCode;

use crate::sources::sources;

/// Documents that are no part of the repository, and ways to cite them: a reader could not follow them.
const ELSEWHERE: &[&str] = &[
    "CONTRACT",
    "DESIGN.md",
    "DESIGN 0",
    "DESIGN 1",
    "DESIGN 2",
    "DESIGN 3",
    "DESIGN 4",
    "DESIGN 5",
    "DESIGN 6",
    "DESIGN 7",
    "DESIGN 8",
    "DESIGN 9",
    "STYLE.md",
    "IRC.md",
    "../shared",
];

pub fn run(root: &Path) -> ExitCode {
    let mut broken = Vec::new();
    let code = sources(root, "rs");
    let prose = sources(root, "md");
    for source in &code {
        rust::check(source, &mut broken);
        check_citations(&source.path, &source.text, &mut broken);
    }
    for document in &prose {
        documents::check(root, document, &mut broken);
        check_citations(&document.path, &document.text, &mut broken);
    }
    if broken.is_empty() {
        println!("tidy: {} sources and {} documents", code.len(), prose.len());
        return ExitCode::SUCCESS;
    }
    for line in &broken {
        eprintln!("untidy: {line}");
    }
    ExitCode::FAILURE
}

fn check_citations(path: &str, text: &str, broken: &mut Vec<String>) {
    if path == "xtask/src/tidy.rs" {
        return;
    }
    for (at, line) in text.lines().enumerate() {
        if let Some(word) = ELSEWHERE.iter().find(|word| line.contains(**word)) {
            broken.push(format!(
                "{path}:{}: cites {word}, which is not in the repository",
                at + 1
            ));
        }
    }
}
