//! A node's directory: its files, their modes and its lock. Modes are set explicitly, because the umask may be too
//! open.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// The lock of a node's directory.
pub(super) const LOCK_FILE: &str = "lock";

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Bytes that are read from the lock file for a process id.
const PID_MAX_BYTES: u64 = 16;

/// Creates a directory, and those above it, if it is missing. Its mode is 0700 in both cases.
pub(super) fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(DIR_MODE))
}

/// Opens a file for writing; creates it if it is missing. Its mode is 0600 in both cases. SQLite gives `-wal` and
/// `-shm` the mode of the database.
pub(super) fn open_private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// The file that SQLite keeps beside a database: the database's path with `ending` appended.
pub(super) fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.to_owned().into_os_string();
    name.push(ending);
    name.into()
}

/// Makes a rename or a new name in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Held while the directory is in use. The kernel releases it when the process ends, however it ends.
pub(super) struct DirLock {
    _file: Flock<File>,
}

/// Why the lock could not be taken.
pub(super) enum LockError {
    /// Another process holds it; its id, if the file has it.
    Held(Option<u32>),
    /// The file can't be opened or written.
    Io(io::Error),
}

impl DirLock {
    /// Takes the lock and writes the process id into the file. A refused attempt writes nothing.
    pub fn take(path: &Path) -> Result<DirLock, LockError> {
        let file = open_private_file(path).map_err(LockError::Io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let text = format!("{}\n", std::process::id());
                let written = file
                    .set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| file.write_all(text.as_bytes()));
                written.map_err(LockError::Io)?;
                Ok(DirLock { _file: file })
            }
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let _unreadable_is_unknown = file.take(PID_MAX_BYTES).read_to_string(&mut text);
                Err(LockError::Held(text.trim().parse().ok()))
            }
            Err((_, errno)) => Err(LockError::Io(errno.into())),
        }
    }
}
