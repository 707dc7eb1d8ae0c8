//! `cargo xtask tidy`: the rules of the house that a machine can hold, for sources and documents. Each failure names the
//! rule and the line.

mod citations;
mod documents;
mod rust;

use std::path::Path;
use std::process::ExitCode;

use crate::sources::sources;

pub fn run(root: &Path) -> ExitCode {
    let mut broken = Vec::new();
    let code = sources(root, "rs");
    let prose = sources(root, "md");
    for source in &code {
        rust::check(source, &mut broken);
        citations::check(source, &prose, &mut broken);
    }
    for document in &prose {
        documents::check(root, document, &mut broken);
        citations::check(document, &prose, &mut broken);
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
