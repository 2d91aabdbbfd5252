//! The promise that a dispatcher that is gone will be replaced: `mpicc-proxy run` keeps a lock as long as it starts its ranks
//! again when they die, and the kernel gives it away when `run` dies itself. Without the promise clients compile where they
//! are at once.

use crate::keeper::lock;
use crate::paths;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long a client waits for a new dispatcher. One over local ranks is there after a second, one over hundreds of hosts
/// after some 20 s.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Time between two looks, twice as long each time.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Made by who starts the ranks again; kept until dropped.
pub struct Promise {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Promise {
    /// Promises a new dispatcher on `socket` whenever one is gone.
    ///
    /// # Errors
    /// The file beside the socket cannot be made.
    pub fn make(socket: &Path) -> io::Result<Promise> {
        let path = paths::promise_mark(socket);
        let lock = lock(&path, FlockArg::LockExclusiveNonblock)?;
        Ok(Promise { path, _lock: lock })
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Is somebody there to start the ranks again?
fn is_promised(socket: &Path) -> bool {
    let Ok(file) = File::open(paths::promise_mark(socket)) else { return false };
    matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, nix::Error::EWOULDBLOCK)))
}

/// Waits until somebody listens on `socket`, as long as that is promised. `false`: nobody will, for all that can be waited,
/// and others need not wait for it.
pub fn wait(socket: &Path) -> bool {
    let until = Instant::now() + WAIT_MAX;
    let silent = paths::silence_mark(socket);
    let mut pause = LOOK;
    while is_promised(socket) && !silent.exists() {
        if UnixStream::connect(socket).is_ok() {
            return true;
        }
        if Instant::now() >= until {
            let _ = File::create(silent);
            return false;
        }
        thread::sleep(pause);
        pause = (2 * pause).min(LOOK_MAX);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn without_a_promise_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        assert!(!wait(&socket));
        let promise = Promise::make(&socket).unwrap();
        assert!(is_promised(&socket));
        assert!(Promise::make(&socket).is_err(), "one is enough");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(wait(&socket));
        let silent = paths::silence_mark(&socket);
        File::create(&silent).unwrap();
        assert!(!wait(&socket), "somebody has waited in vain");
        std::fs::remove_file(silent).unwrap();
        drop(promise);
        assert!(!is_promised(&socket));
        assert!(!wait(&socket), "whoever listens there now will not be replaced");
    }

    #[test]
    fn a_client_waits_for_who_comes() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let promise = Promise::make(&socket).unwrap();
        let waiting = thread::spawn({
            let socket = socket.clone();
            move || wait(&socket)
        });
        thread::sleep(3 * LOOK);
        assert!(!waiting.is_finished());
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(waiting.join().unwrap());
        drop(promise);
    }
}
