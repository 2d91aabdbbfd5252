//! The file of an event log. It is a regular file, since readers come back to it, and who writes to it has it locked
//! (flock(2), shared), so that readers know whether anybody still does.

use std::fs::{File, OpenOptions, TryLockError, metadata};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Who only looks has the lock for a moment.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(5);

/// Opens the log of a new session, and empties it.
///
/// # Errors
/// It cannot be written, is no regular file, or another session writes it.
pub fn begin(path: &Path) -> io::Result<File> {
    let file = open(path, OpenOptions::new().append(true).create(true))?;
    if patiently(|| file.try_lock()).is_err() {
        return Err(io::Error::other("another session writes there"));
    }
    file.set_len(0)?;
    // Where there are no locks, nobody asks for them either.
    let _ = file.unlock();
    share(&file);
    Ok(file)
}

/// Opens a log that others may have begun, to go on with it.
///
/// # Errors
/// It cannot be written, or is no regular file.
pub fn append(path: &Path) -> io::Result<File> {
    let file = open(path, OpenOptions::new().append(true).create(true))?;
    share(&file);
    Ok(file)
}

/// Opens a log to read it.
///
/// # Errors
/// It cannot be read, or is no regular file.
pub fn read(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().read(true))
}

/// Has anybody the log open to write? Where that cannot be told: yes.
pub fn is_written(file: &File) -> bool {
    let locked = file.try_lock();
    let _ = locked.is_ok() && file.unlock().is_ok();
    locked.is_err()
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let irregular = || io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
    // To open a device may do something, and to open a FIFO waits for somebody at its other end.
    if metadata(path).is_ok_and(|facts| !facts.is_file()) {
        return Err(irregular());
    }
    let file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(irregular()) }
}

/// Marks it as one that is written, where there are locks.
fn share(file: &File) {
    let _ = patiently(|| file.try_lock_shared());
}

/// The error: somebody has the lock and keeps it.
fn patiently(lock: impl Fn() -> Result<(), TryLockError>) -> Result<(), ()> {
    for _ in 0..TRIES {
        match lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(PAUSE),
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(()),
        }
    }
    Err(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    #[test]
    fn a_log_is_written_until_all_its_writers_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut first = begin(&path).unwrap();
        let second = append(&path).unwrap();
        let reader = read(&path).unwrap();
        first.write_all(b"x\n").unwrap();
        assert!(is_written(&reader) && begin(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"x\n", "nobody empties the log of another session");
        drop(first);
        assert!(is_written(&reader));
        drop(second);
        assert!(!is_written(&reader) && !is_written(&reader));
        drop(begin(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn only_regular_files_are_logs() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&*fifo, folder.path(), Path::new("/dev/null")] {
            for open in [begin, append, read] {
                assert_eq!(open(path).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{}", path.display());
            }
        }
    }
}
