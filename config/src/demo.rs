//! Where `mbctl demo` records its cluster, so that a client finds it from any directory: one line, the absolute path of
//! the demo's `messagebase.toml`. `mbctl` writes the record, `mbclient` reads it when nothing else names a
//! configuration. The same directory has the clients' state, one directory per cluster.

use std::path::{Path, PathBuf};

/// The record's name in `$XDG_STATE_HOME/messagebase/`.
const DEMO_RECORD: &str = "demo-config";
/// Longest record: it is one path.
const DEMO_RECORD_MAX_BYTES: u64 = 4 * 1024;

/// The directory for state that survives a program: `$XDG_STATE_HOME/messagebase`, or below `~/.local/state`. `None`:
/// neither variable names an absolute path.
pub fn state_dir() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("messagebase"))
}

/// The file that records the demo's configuration, whether it exists or not.
pub fn demo_record() -> Option<PathBuf> {
    state_dir().map(|dir| dir.join(DEMO_RECORD))
}

/// The demo's configuration, if one is recorded and the file is still there.
pub fn demo_config() -> Option<PathBuf> {
    recorded_demo(&demo_record()?).filter(|config| config.is_file())
}

/// What `record` says, an absolute path, whether or not a file is still there.
pub fn recorded_demo(record: &Path) -> Option<PathBuf> {
    if std::fs::metadata(record).ok()?.len() > DEMO_RECORD_MAX_BYTES {
        return None;
    }
    let text = std::fs::read_to_string(record).ok()?;
    let config = PathBuf::from(text.lines().next()?);
    config.is_absolute().then_some(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_an_absolute_path() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("record");
        assert_eq!(recorded_demo(&record), None);

        std::fs::write(&record, "/gone/messagebase.toml\n").unwrap();
        assert_eq!(
            recorded_demo(&record),
            Some("/gone/messagebase.toml".into())
        );

        std::fs::write(&record, "messagebase.toml\n").unwrap();
        assert_eq!(recorded_demo(&record), None, "a relative path");
    }
}
