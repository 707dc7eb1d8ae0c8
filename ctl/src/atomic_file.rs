//! Files appear whole or not at all: written beside, synced, renamed, the directory synced.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Mode of files: keys and configuration are their owner's alone.
pub const FILE_MODE: u32 = 0o600;
/// Mode of directories.
pub const DIR_MODE: u32 = 0o700;

/// Writes a new file. Never replaces one.
///
/// # Errors
/// The file is there already, or the disk says no.
pub fn publish(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut new = Unpublished::begin(path)?;
    new.file().write_all(content)?;
    new.finish()
}

/// A new file that is still being written, beside its place. Dropped unfinished, it is removed.
pub struct Unpublished {
    file: File,
    beside: PathBuf,
    path: PathBuf,
}

impl Unpublished {
    /// Begins a new file. Never replaces one.
    ///
    /// # Errors
    /// As [`publish`].
    pub fn begin(path: &Path) -> io::Result<Unpublished> {
        refuse_existing(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let beside = directory_of(path).join(format!(".{name}.{}.new", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&beside)?;
        Ok(Unpublished {
            file,
            beside,
            path: path.to_owned(),
        })
    }

    /// What is written to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// As [`publish`].
    pub fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        refuse_existing(&self.path)?;
        std::fs::rename(&self.beside, &self.path)?;
        File::open(directory_of(&self.path))?.sync_all()
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        // Nothing is there any more once it has its name.
        let _ = std::fs::remove_file(&self.beside);
    }
}

fn refuse_existing(path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the file is there already",
        ));
    }
    Ok(())
}

fn directory_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Makes a directory and those above it, if they are not there.
///
/// # Errors
/// The disk says no, or something else has that name.
pub fn directory(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(path)
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
        let mode =
            |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&place), mode(&file)), (DIR_MODE, FILE_MODE));
        assert_eq!(
            publish(&file, b"other").map_err(|e| e.kind()),
            Err(io::ErrorKind::AlreadyExists)
        );
        assert_eq!(std::fs::read(&file).expect("there"), b"secret");
        assert_eq!(
            std::fs::read_dir(&place).expect("there").count(),
            1,
            "nothing is left beside it"
        );
    }
}
