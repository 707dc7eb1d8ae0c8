//! The files of the workspace that are read as text, build output and patched crates left out.

use std::path::{Path, PathBuf};

/// One text file.
pub struct Source {
    /// From the workspace's root, with `/`.
    pub path: String,
    pub text: String,
}

/// All files with that extension, sorted by path.
pub fn sources(root: &Path, extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut pending: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let left_out = name == "target" || name == "patches" || name.starts_with('.');
            if path.is_dir() && !left_out {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let shown = path.strip_prefix(root).unwrap_or(&path);
                let shown = shown.to_string_lossy().replace('\\', "/");
                let text = std::fs::read_to_string(&path).ok();
                found.extend(text.map(|text| Source { path: shown, text }));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}
