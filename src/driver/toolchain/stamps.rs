//! The files of a toolchain as they were when they were looked at: enough to notice before a compile that one of them was
//! replaced, on the head and on a worker alike.

use crate::wire::Bytes;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// How often the libraries, which are many, are compared again.
const LIBRARIES_EVERY: Duration = Duration::from_secs(1);

/// A file's identity without its content: enough to notice that it was replaced.
pub type Stamp = Option<(u64, u64, u64, [i64; 4])>;

/// The stamp of `path` now; `None` when it is absent.
pub fn stamp(path: &[u8]) -> Stamp {
    let m = std::fs::metadata(OsStr::from_bytes(path)).ok()?;
    Some((m.dev(), m.ino(), m.size(), [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()]))
}

/// Files with their stamps.
pub struct Stamps {
    programs: Vec<(Bytes, Stamp)>,
    libraries: Vec<(Bytes, Stamp)>,
    compared: Instant,
}

impl Stamps {
    /// What of `files` is among `programs` is compared each time, the rest every [`LIBRARIES_EVERY`].
    pub fn new(files: impl IntoIterator<Item = (Bytes, Stamp)>, programs: &[Bytes]) -> Stamps {
        let (programs, libraries) = files.into_iter().partition(|(path, _)| programs.contains(path));
        Stamps { programs, libraries, compared: Instant::now() }
    }

    /// Are the files what they were? `all`: libraries are compared now as well, whenever that was done before.
    pub fn are_current(&mut self, all: bool) -> bool {
        let same = |files: &[(Bytes, Stamp)]| files.iter().all(|(path, then)| stamp(path) == *then);
        if !same(&self.programs) {
            return false;
        }
        if !all && self.age() < LIBRARIES_EVERY {
            return true;
        }
        self.compared = Instant::now();
        same(&self.libraries)
    }

    /// Time since all were compared.
    pub fn age(&self) -> Duration {
        self.compared.elapsed()
    }
}
