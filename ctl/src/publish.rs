//! Files appear whole or not at all: written beside, synced, renamed, the directory synced.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Mode of files: keys and configuration are their owner's alone.
pub const FILE_MODE: u32 = 0o600;
/// Mode of directories.
pub const DIR_MODE: u32 = 0o700;

/// Writes a new file. Never replaces one.
///
/// # Errors
/// The file is there already, or the disk says no.
pub fn publish(path: &Path, content: &[u8]) -> io::Result<()> {
    if path.try_exists()? {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is there already"));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = directory.join(format!(".{name}.{}.new", std::process::id()));
    let written = write_synced(&beside, content).and_then(|()| std::fs::rename(&beside, path));
    if let Err(e) = written {
        // Best effort: the error that matters is the first one.
        let _ = std::fs::remove_file(&beside);
        return Err(e);
    }
    File::open(directory)?.sync_all()
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes a directory and those above it, if they are not there.
///
/// # Errors
/// The disk says no, or something else has that name.
pub fn directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_private_whole_and_never_replaced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let place = dir.path().join("a/b");
        directory(&place).expect("made");
        directory(&place).expect("made already");
        let file = place.join("key");
        publish(&file, b"secret").expect("written");
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&place), mode(&file)), (DIR_MODE, FILE_MODE));
        assert_eq!(publish(&file, b"other").map_err(|e| e.kind()), Err(io::ErrorKind::AlreadyExists));
        assert_eq!(std::fs::read(&file).expect("there"), b"secret");
        assert_eq!(std::fs::read_dir(&place).expect("there").count(), 1, "nothing is left beside it");
    }
}
