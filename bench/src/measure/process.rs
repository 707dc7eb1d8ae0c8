//! Processor time, writes and memory of processes, as `/proc` has them.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

/// Ticks a second of the times in `/proc/PID/stat`: part of Linux' interface to programs, whatever the kernel's own.
const TICKS_A_SECOND: u64 = 100;
/// Fields of `/proc/PID/stat` between the command's closing bracket and `utime`.
const FIELDS_BEFORE_UTIME: usize = 11;

/// What processes have used since they began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, in user and kernel mode, all threads; in steps of 10 ms.
    pub cpu: Duration,
    /// System calls that write: to files and sockets alike.
    pub write_calls: u64,
    /// Bytes that they caused to be written to storage, page by page.
    pub storage_bytes: u64,
}

impl Usage {
    /// With what another process used.
    #[must_use]
    pub fn and(self, other: Usage) -> Usage {
        Usage {
            cpu: self.cpu + other.cpu,
            write_calls: self.write_calls + other.write_calls,
            storage_bytes: self.storage_bytes + other.storage_bytes,
        }
    }

    /// What was used between `earlier` and this.
    pub fn since(self, earlier: Usage) -> Usage {
        Usage {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            write_calls: self.write_calls.saturating_sub(earlier.write_calls),
            storage_bytes: self.storage_bytes.saturating_sub(earlier.storage_bytes),
        }
    }
}

/// Resident memory of one process, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Now (`VmRSS`).
    pub now: u64,
    /// The most since it began (`VmHWM`).
    pub peak: u64,
}

/// Of one process; `None`: it is gone.
///
/// # Errors
/// It belongs to somebody else.
pub fn usage(pid: u32) -> io::Result<Option<Usage>> {
    unless_gone(usage_in(Path::new(&format!("/proc/{pid}"))))
}

/// A process that ends while its files are read makes reading fail with ESRCH.
fn unless_gone<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    const ESRCH: i32 = 3;
    match read {
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(ESRCH) => {
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// Of the process that measures: the clients' side.
///
/// # Errors
/// There is no `/proc`.
pub fn usage_of_this() -> io::Result<Usage> {
    usage_in(Path::new("/proc/self"))
}

fn usage_in(dir: &Path) -> io::Result<Usage> {
    let stat = std::fs::read_to_string(dir.join("stat"))?;
    if has_ended(&stat) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let cpu = cpu(&stat).ok_or_else(|| unreadable("stat"))?;
    let io = std::fs::read_to_string(dir.join("io"))?;
    let field = |name| number_after(&io, name).ok_or_else(|| unreadable("io"));
    Ok(Usage {
        cpu,
        write_calls: field("syscw:")?,
        storage_bytes: field("write_bytes:")?,
    })
}

/// Ended, and not yet waited for by its parent.
fn has_ended(stat: &str) -> bool {
    stat.rsplit_once(')')
        .is_some_and(|(_, fields)| fields.trim_start().starts_with(['Z', 'X']))
}

fn cpu(stat: &str) -> Option<Duration> {
    // The command may hold spaces and brackets; what follows its last closing bracket holds neither.
    let mut fields = stat
        .rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .skip(FIELDS_BEFORE_UTIME);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1_000 / TICKS_A_SECOND))
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn unreadable(file: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("/proc/PID/{file} does not read as expected"),
    )
}

/// Resident memory of a process; `None`: it is gone.
///
/// # Errors
/// It belongs to somebody else.
pub fn memory(pid: u32) -> io::Result<Option<Memory>> {
    const KIB: u64 = 1_024;
    let Some(status) = unless_gone(std::fs::read_to_string(format!("/proc/{pid}/status")))? else {
        return Ok(None);
    };
    let field = |name| number_after(&status, name).map(|kib| kib * KIB);
    match (field("VmRSS:"), field("VmHWM:")) {
        (Some(now), Some(peak)) => Ok(Some(Memory { now, peak })),
        // One that has ended and was not waited for has no memory.
        _ if status.contains("\nState:\tZ") => Ok(None),
        _ => Err(unreadable("status")),
    }
}

/// Bytes as MiB.
#[allow(
    clippy::cast_precision_loss,
    reason = "bytes of memory and disk are below 2^52"
)]
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1_024.0 * 1_024.0)
}

/// Bytes that the files below a directory occupy on disk, holes not counted. Files that vanish meanwhile don't count.
///
/// # Errors
/// The directory can't be read.
pub fn directory_bytes(dir: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    const BLOCK_BYTES: u64 = 512;
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        sum += if metadata.is_dir() {
            directory_bytes(&entry.path())?
        } else {
            metadata.blocks() * BLOCK_BYTES
        };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 9 9 20 0 4 0 1 1 1";
        assert_eq!(cpu(stat), Some(Duration::from_millis(2_000)));
        assert_eq!(cpu("7 (cut"), None);
    }

    #[test]
    fn this_process_can_be_measured() {
        let (used, held) = (
            usage_of_this().unwrap(),
            memory(std::process::id()).unwrap().unwrap(),
        );
        assert_eq!(
            usage(std::process::id())
                .unwrap()
                .unwrap()
                .since(used)
                .storage_bytes,
            0
        );
        assert!(held.now > 0 && held.peak >= held.now);
    }

    #[test]
    fn a_process_that_is_gone_uses_nothing() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        assert!(has_ended("7 (a) S) Z 1 7") && !has_ended("7 (a) Z) S 1 7"));
        child.wait().unwrap();
        assert_eq!((usage(pid).unwrap(), memory(pid).unwrap()), (None, None));
    }
}
