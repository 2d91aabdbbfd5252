//! The files of a toolchain as they were when they were looked at: enough to notice before a compile that one of them was
//! replaced, on the head and on a worker alike.

use crate::wire::Bytes;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// How often the libraries, which are many, are compared again.
const LIBRARIES_EVERY: Duration = Duration::from_secs(1);

/// A file's identity without its content: enough to notice that it was replaced. Times are in seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    pub device: u64,
    pub inode: u64,
    pub bytes: u64,
    pub mtime: [i64; 2],
    pub ctime: [i64; 2],
}

impl Stamp {
    pub fn of(file: &Metadata) -> Stamp {
        Stamp {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.size(),
            mtime: [file.mtime(), file.mtime_nsec()],
            ctime: [file.ctime(), file.ctime_nsec()],
        }
    }
}

/// A path and its stamp; `None`: there was nothing.
pub type Stamped = (Bytes, Option<Stamp>);

/// The stamp of `path` now; `None` when it is absent.
pub fn stamp(path: &[u8]) -> Option<Stamp> {
    std::fs::metadata(OsStr::from_bytes(path)).ok().as_ref().map(Stamp::of)
}

/// Files with their stamps.
pub struct Stamps {
    programs: Vec<Stamped>,
    libraries: Vec<Stamped>,
    compared: Instant,
}

impl Stamps {
    /// What of `files` is among `programs` is compared each time, the rest every [`LIBRARIES_EVERY`].
    pub fn new(files: impl IntoIterator<Item = Stamped>, programs: &[Bytes]) -> Stamps {
        let (programs, libraries) = files.into_iter().partition(|(path, _)| programs.contains(path));
        Stamps { programs, libraries, compared: Instant::now() }
    }

    /// Are the files what they were? `all`: libraries are compared now as well, whenever that was done before.
    pub fn are_current(&mut self, all: bool) -> bool {
        let same = |files: &[Stamped]| files.iter().all(|(path, then)| stamp(path) == *then);
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
