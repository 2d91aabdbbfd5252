//! What the time stamps of a file tell about its changes, where somebody wants to believe them. Knows no paths.
//!
//! A change gives a file a new ctime, which nobody can set back. (Of several stores through a shared mapping the first
//! one does; a file that somebody still writes like that is none to compile with.) But stamps are coarse: what changes
//! twice within one of them looks the same after both. So whoever looks at a file can go by its times later only if
//! they were of the [`Past`] at that look: a change after it then brings another ctime.

use nix::sys::statfs::{self, FsType};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Twice the coarsest time stamp of file systems that people build on (a second), which also covers a file server whose
/// clock is a little behind.
pub const RACY: Duration = Duration::from_secs(2);

/// Local file systems, which keep a ctime of their own for every file, and on which a directory's times tell of every
/// name that is made in it.
const KEEPS_TIMES: [FsType; 5] = [
    statfs::EXT4_SUPER_MAGIC,
    statfs::XFS_SUPER_MAGIC,
    statfs::BTRFS_SUPER_MAGIC,
    statfs::TMPFS_MAGIC,
    statfs::OVERLAYFS_SUPER_MAGIC,
];

/// Does this file system keep times that can be believed?
pub fn are_kept_by(file_system: FsType) -> bool {
    KEEPS_TIMES.contains(&file_system)
}

/// All that was more than [`RACY`] ago at some moment. By default nothing is.
#[derive(Clone, Copy, Default)]
pub struct Past {
    end: Duration,
}

impl Past {
    /// As of now.
    pub fn now() -> Past {
        Past { end: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(RACY) }
    }

    /// Are both times of a file, each in seconds and nanoseconds, of the past? A time in the future says nothing about
    /// the past.
    pub fn has(&self, mtime: [i64; 2], ctime: [i64; 2]) -> bool {
        mtime.max(ctime) < [self.end.as_secs() as i64, i64::from(self.end.subsec_nanos())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_over_is_past() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let at = |offset_s: i64| [now.as_secs() as i64 + offset_s, 0];
        let past = Past::now();
        assert!(past.has(at(-4), at(-4)));
        assert!(past.has([-1, 0], [0, 0]));
        for [mtime, ctime] in [[-4, 0], [0, -4], [-4, 4], [4, -4]] {
            assert!(!past.has(at(mtime), at(ctime)), "{mtime} {ctime}");
        }
        assert!(!Past::default().has([0, 0], [0, 0]));
    }
}
