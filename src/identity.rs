//! Which file a path means, whatever it is called: device and inode, stat(2).

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Device and inode.
pub type Identity = (u64, u64);

/// # Errors
/// There is no such file that can be seen.
pub fn of(path: impl AsRef<Path>) -> io::Result<Identity> {
    fs::metadata(path).map(|facts| among(&facts))
}

/// As a part of what stat(2) says.
pub fn among(facts: &Metadata) -> Identity {
    (facts.dev(), facts.ino())
}

/// Does the path mean this file?
pub fn is(path: impl AsRef<Path>, file: Identity) -> bool {
    of(path).is_ok_and(|found| found == file)
}

/// Do both mean one file that is there?
pub fn is_same(one: impl AsRef<Path>, other: impl AsRef<Path>) -> bool {
    of(one).is_ok_and(|one| is(other, one))
}
