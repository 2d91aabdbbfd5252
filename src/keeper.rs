//! The process that removes a session's folder when all ranks of its host are gone, however they went: a killed rank
//! removes nothing, and Open MPI's own thread ends a rank with _exit(2) the moment the launcher dies.
//!
//! It waits for the lock that every rank holds shared, and the kernel gives it away with the last of them. So nothing is
//! said between them, and an idle keeper costs nothing but its memory. Every rank starts one, and all but the host's first
//! end at once. Where ranks are started again when they die, it waits for [`LINGER`] whether others come.

use crate::paths::Installation;
use crate::signals;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigHandler, Signal, signal};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

/// The file whose lock the keeper has.
const OFFICE: &str = "keeper";

/// A file that ranks make when their session is over, and nobody returns.
pub const OVER: &str = "over";

/// With this begin the names of sessions' folders.
pub const PREFIX: &str = "mpicc-proxy-";

/// How long ranks that are started again may take to come. Longer than `upkeep` takes to notice that ranks died, to call all
/// hosts, and to start a job on hundreds of them.
const LINGER: Duration = Duration::from_secs(60);

/// What the user's command is called with, and a folder, to be a keeper.
pub const COMMAND: &str = "keep";

/// Starts the keeper of the folder `root`, to which other ranks may return. Where that cannot be, the folder of killed ranks stays until the next session:
/// nothing else depends on it.
pub fn start(root: &Path, returns: bool) {
    let Ok(program) = Installation::of_this_program().and_then(|installation| installation.command()) else { return };
    // It must not hold connections of the MPI library open.
    signals::close_all_on_exec();
    let mut command = Command::new(program);
    command
        .arg(COMMAND)
        .arg(root)
        .args(returns.then_some(RETURNS))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Ends as soon as the keeper is in the background.
    let _ = command.status();
}

/// The option for folders to which other ranks may return.
pub const RETURNS: &str = "--returns";

/// Goes into the background, waits until no rank holds the folder `root` (and if others may return, whether they do), and
/// removes it if it is still there. Returns at once if another keeper does.
///
/// # Errors
/// `InvalidInput`: no session's folder. Else no process can be made, or the folder cannot be removed.
pub fn keep(root: &Path, returns: bool) -> io::Result<()> {
    let is_ours = root.file_name().is_some_and(|name| name.as_bytes().starts_with(PREFIX.as_bytes()));
    if !is_ours || !root.join("lock").is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no folder of a session"));
    }
    let Ok(_office) = lock(&root.join(OFFICE), FlockArg::LockExclusiveNonblock) else { return Ok(()) };
    // Out of the session and the process group of the ranks: what ends them is not to end this.
    nix::unistd::daemon(false, false)?;
    for end in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: no handler runs.
        unsafe { signal(end, SigHandler::SigIgn) }?;
    }
    match wait_for_last(root, returns) {
        Ok(_last) => remove(root),
        // The last rank did it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn wait_for_last(root: &Path, returns: bool) -> io::Result<Flock<File>> {
    const LOOK: Duration = Duration::from_secs(1);
    let mut last = lock_folder(root, FlockArg::LockExclusive)?;
    let mut until = Instant::now() + LINGER;
    while returns && !root.join(OVER).exists() && Instant::now() < until {
        drop(last);
        thread::sleep(LOOK);
        last = match lock_folder(root, FlockArg::LockExclusiveNonblock) {
            // Some came. When they are gone, it begins again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let last = lock_folder(root, FlockArg::LockExclusive)?;
                until = Instant::now() + LINGER;
                last
            }
            last => last?,
        };
    }
    Ok(last)
}

/// Has the folder a keeper?
pub fn has(root: &Path) -> bool {
    matches!(lock(&root.join(OFFICE), FlockArg::LockExclusiveNonblock), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Compilers of killed ranks end with them, but not at once, and may still make files.
fn remove(root: &Path) -> io::Result<()> {
    const TRIES: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 1..TRIES {
        match fs::remove_dir_all(root) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => thread::sleep(PAUSE),
            result => return result,
        }
    }
    fs::remove_dir_all(root)
}

/// The lock of the folder `root`. `NotFound`: the folder went, or another one is there now.
pub fn lock_folder(root: &Path, how: FlockArg) -> io::Result<Flock<File>> {
    let path = root.join("lock");
    let held = lock(&path, how)?;
    if fs::metadata(&path)?.ino() == held.metadata()?.ino() { Ok(held) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Makes the file if need be, and locks it.
///
/// # Errors
/// It cannot be made, or somebody else has the lock (`WouldBlock`).
pub fn lock(path: &Path, how: FlockArg) -> io::Result<Flock<File>> {
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    Flock::lock(file, how).map_err(|(_, errno)| errno.into())
}
