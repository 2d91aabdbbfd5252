//! A session's own folder on the head, for its socket and its log. Who has it keeps a lock in it: what was left behind by
//! sessions that were killed is known by that, and removed by the next one.

use crate::environment::variable;
use crate::keeper::lock;
use crate::paths::SOCKET_PATH_BYTES_MAX;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// With this begins its name.
const PREFIX: &str = "mpicc-proxy.";
const LOCK_NAME: &str = "lock";

/// How long it may take from the lock's file to the lock.
const MAKING: Duration = Duration::from_secs(60);

/// Removed with all that is in it when it is dropped.
pub struct PrivateFolder {
    folder: TempDir,
    _lock: Flock<File>,
}

impl PrivateFolder {
    /// Makes one, mode 0700, under a name short enough for a `socket` in it. Removes those beside it whose sessions were
    /// killed.
    ///
    /// # Errors
    /// A sentence: where it was tried, and why in vain.
    pub fn make(socket: &str) -> Result<PrivateFolder, String> {
        let runtime = variable(b"XDG_RUNTIME_DIR").map(PathBuf::from);
        let mut tried = Vec::new();
        for base in runtime.into_iter().chain([PathBuf::from("/tmp")]) {
            remove_abandoned(&base);
            let private = fs::Permissions::from_mode(0o700);
            let made =
                tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(&base).and_then(|folder| {
                    let lock = lock(&folder.path().join(LOCK_NAME), FlockArg::LockExclusiveNonblock)?;
                    Ok(PrivateFolder { folder, _lock: lock })
                });
            match made {
                Ok(made) if made.path().join(socket).as_os_str().len() <= SOCKET_PATH_BYTES_MAX => return Ok(made),
                Ok(_) => tried.push(format!("{} is too long for a socket", base.display())),
                Err(e) => tried.push(format!("{}: {e}", base.display())),
            }
        }
        Err(format!("cannot make a directory for the session: {}", tried.join("; ")))
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Removes all but `name`, and returns its path. It stays.
    pub fn keep(self, name: &str) -> PathBuf {
        let folder = self.folder.keep();
        let kept = folder.join(name);
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.path() != kept {
                let _ = fs::remove_file(entry.path());
            }
        }
        kept
    }
}

/// Removes what sessions of ours left in `base` that were killed.
fn remove_abandoned(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let is_ours = || entry.metadata().is_ok_and(|facts| facts.is_dir() && facts.uid() == geteuid().as_raw());
        if entry.file_name().as_bytes().starts_with(PREFIX.as_bytes()) && is_ours() && is_abandoned(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// One that is kept for its user has no lock.
fn is_abandoned(folder: &Path) -> bool {
    // Whatever else has that name is not waited for.
    let open =
        File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(folder.join(LOCK_NAME));
    let Ok(file) = open else { return false };
    let made = file.metadata().and_then(|facts| facts.modified());
    made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > MAKING))
        && Flock::lock(file, FlockArg::LockSharedNonblock).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn what_was_killed_is_removed_by_the_next() {
        let base = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let folder = base.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("log"), "").unwrap();
            folder
        };
        let mark = |folder: &Path, age: Duration| {
            let file = File::create(folder.join(LOCK_NAME)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
            file
        };
        let [killed, living, new] = ["killed", "living", "new"].map(|name| make(&format!("{PREFIX}{name}")));
        let (kept, other) = (make("mpicc-proxy.kept"), make("mpicc.other"));
        mark(&killed, 2 * MAKING);
        let _lock = Flock::lock(mark(&living, 2 * MAKING), FlockArg::LockExclusive).unwrap();
        mark(&new, Duration::ZERO);
        mark(&other, 2 * MAKING);
        let odd = make("mpicc-proxy.odd");
        nix::unistd::mkfifo(&odd.join(LOCK_NAME), nix::sys::stat::Mode::S_IRWXU).unwrap();
        remove_abandoned(base.path());
        assert!(!killed.exists());
        for folder in [living, new, kept, other, odd] {
            assert!(folder.join("log").exists(), "{}", folder.display());
        }
    }

    #[test]
    fn what_is_kept_has_no_owner() {
        let made = PrivateFolder::make("s").unwrap();
        let path = made.path().to_path_buf();
        fs::write(path.join("log"), "x").unwrap();
        assert_eq!(made.keep("log"), path.join("log"));
        assert!(!path.join(LOCK_NAME).exists());
        fs::remove_dir_all(path).unwrap();
        let made = PrivateFolder::make("s").unwrap();
        let path = made.path().to_path_buf();
        drop(made);
        assert!(!path.exists());
    }
}
