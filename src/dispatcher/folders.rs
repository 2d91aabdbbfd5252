//! The folders on the way to the files of the head's tree: does a name still lead where it led? A folder that becomes
//! a symbolic link, or another folder, changes realpath(3) of everything below, even where the very same files are
//! still there. And may a name have appeared in them? Knows no records.
//!
//! Each folder is looked at once a round, however many files of it are validated in that round. What a symbolic link
//! points to is not followed: the folders on *that* way are watched only as far as somebody uses their names.
//!
//! # What is absent stays absent
//! Most of what a compiler asks for is absent: it searches every folder of its search path for every header. A name
//! that appears in a directory gives it a new mtime and ctime, and nobody can set a ctime back. So a name that was
//! absent after its directory was looked at is absent at the next look that finds the same directory with the same
//! times, if these were of the past at the first one ([`times`]); else a name could have come within the same time
//! stamp. Where the directory itself is absent, so is all that is in it. Only some file systems are believed; what
//! others say of their directories may be older than what they say of a name.

use crate::times::{self, Past};
use nix::sys::statfs;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;

/// Index of a folder.
pub type FolderId = u32;

/// Device, inode and kind, from lstat(2). `None`: nothing there.
type Identity = Option<(u64, u64, u32)>;

/// What the names in a folder depend on, links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// There is no folder.
    Nowhere,
    /// Device, inode, mtime and ctime of a directory whose times will tell of a change.
    Of(u64, u64, [[i64; 2]; 2]),
    Unknown,
}

/// What a folder looks like in a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Another number after a name on the way to here, or its own, led elsewhere.
    pub way: u64,
    /// Another number unless it is certain that no name appeared in it.
    pub names: u64,
}

struct Folder {
    path: Rc<[u8]>,
    parent: Option<FolderId>,
    identity: Identity,
    parent_way: u64,
    names: Names,
    /// Will the directory tell when its names change?
    is_believed: bool,
    look: Look,
    looked_in: u64,
    /// Where it really is, and the round in which it was.
    real: (u64, Option<Rc<[u8]>>),
}

/// All folders that were ever on the way to a file.
#[derive(Default)]
pub struct Folders {
    ids: HashMap<Rc<[u8]>, FolderId>,
    folders: Vec<Folder>,
    round: u64,
    /// As of the beginning of the round.
    past: Past,
}

impl Folders {
    /// From now on every folder is looked at again.
    pub fn begin_round(&mut self) {
        self.round += 1;
        self.past = Past::now();
    }

    /// The number of the round.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// The folder that `path`, which is absolute, lies in; `None` for what lies in `/`, which nobody replaces.
    pub fn of(&mut self, path: &[u8]) -> Option<FolderId> {
        let slash = path.iter().rposition(|byte| *byte == b'/').filter(|at| *at > 0)?;
        let name = &path[..slash];
        if let Some(id) = self.ids.get(name) {
            return Some(*id);
        }
        let parent = self.of(name);
        let name: Rc<[u8]> = name.into();
        let id = self.folders.len() as FolderId;
        self.folders.push(Folder {
            path: Rc::clone(&name),
            parent,
            identity: None,
            parent_way: 0,
            names: Names::Unknown,
            is_believed: false,
            look: Look::default(),
            looked_in: 0,
            real: (0, None),
        });
        self.ids.insert(name, id);
        Some(id)
    }

    /// realpath(3) of `path`, which is in the folder and no symbolic link, if that can be told from the folder. It is asked
    /// once a round: where a link on the way leads to may change without a trace in the folders that are watched.
    pub fn real(&mut self, id: FolderId, path: &[u8]) -> Option<Vec<u8>> {
        let round = self.round;
        let folder = &mut self.folders[id as usize];
        let name = path.get(folder.path.len()..)?;
        if matches!(name, b"/" | b"/." | b"/..") {
            return None;
        }
        if folder.real.0 != round {
            let real = std::fs::canonicalize(OsStr::from_bytes(&folder.path)).ok();
            folder.real = (round, real.map(|real| real.into_os_string().into_vec().into()));
        }
        let real = folder.real.1.as_ref().filter(|real| real.len() + name.len() < libc::PATH_MAX as usize)?;
        // Everything but the root lacks the last slash.
        Some([real.strip_suffix(b"/").unwrap_or(real), name].concat())
    }

    /// The folder as it is in this round.
    pub fn look(&mut self, id: FolderId) -> Look {
        let folder = &self.folders[id as usize];
        if folder.looked_in == self.round {
            return folder.look;
        }
        let parent_way = folder.parent.map_or(0, |parent| self.look(parent).way);
        let past = self.past;
        let folder = &mut self.folders[id as usize];
        let found = std::fs::symlink_metadata(OsStr::from_bytes(&folder.path));
        let identity = found.as_ref().ok().map(|found| (found.dev(), found.ino(), found.mode() & libc::S_IFMT));
        if identity != folder.identity || parent_way != folder.parent_way {
            folder.look.way += 1;
            (folder.identity, folder.parent_way) = (identity, parent_way);
        }
        let names = names_in(&folder.path, found, past);
        let is_same = names == folder.names;
        if !is_same {
            (folder.names, folder.is_believed) = (names, is_believed(&folder.path, names));
        }
        if !is_same || !folder.is_believed {
            folder.look.names += 1;
        }
        folder.looked_in = self.round;
        folder.look
    }
}

/// `found`: what lstat(2) says of the folder.
fn names_in(path: &[u8], found: io::Result<Metadata>, past: Past) -> Names {
    let found = match found {
        Ok(link) if link.is_symlink() => std::fs::metadata(OsStr::from_bytes(path)),
        other => other,
    };
    match found {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Names::Nowhere,
        Ok(folder) if folder.is_dir() => {
            let (mtime, ctime) = ([folder.mtime(), folder.mtime_nsec()], [folder.ctime(), folder.ctime_nsec()]);
            if past.has(mtime, ctime) { Names::Of(folder.dev(), folder.ino(), [mtime, ctime]) } else { Names::Unknown }
        }
        _ => Names::Unknown,
    }
}

fn is_believed(path: &[u8], names: Names) -> bool {
    match names {
        Names::Nowhere => true,
        Names::Of(..) => statfs::statfs(path).is_ok_and(|found| times::are_kept_by(found.filesystem_type())),
        Names::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    #[test]
    fn a_change_on_the_way_is_seen_in_the_next_round() {
        let dir = tempfile::tempdir().unwrap();
        let (a, elsewhere) = (dir.path().join("a"), dir.path().join("elsewhere"));
        fs::create_dir_all(a.join("b")).unwrap();
        let mut folders = Folders::default();
        folders.begin_round();
        let b = folders.of(a.join("b/file").as_os_str().as_bytes()).unwrap();
        assert_eq!(folders.of(a.join("b/other").as_os_str().as_bytes()), Some(b));
        let first = folders.look(b).way;
        fs::write(a.join("b/file"), "").unwrap();
        folders.begin_round();
        assert_eq!(folders.look(b).way, first, "what lies in it does not matter");

        fs::rename(&a, &elsewhere).unwrap();
        std::os::unix::fs::symlink("elsewhere", &a).unwrap();
        assert_eq!(folders.look(b).way, first, "once a round");
        folders.begin_round();
        let second = folders.look(b).way;
        assert_ne!(second, first);
        folders.begin_round();
        assert_eq!(folders.look(b).way, second);

        fs::remove_dir_all(&elsewhere).unwrap();
        folders.begin_round();
        assert_ne!(folders.look(b).way, second, "it leads nowhere");
        assert_eq!(folders.of(b"/x"), None);
    }

    #[test]
    fn where_a_file_really_is() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        for folder in ["a", "b"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("file"), "").unwrap();
        }
        let file = dir.path().canonicalize().unwrap().join("a/file");
        let [to_root, moving] = ["root", "moving"].map(|name| dir.path().join(name));
        symlink("/", &to_root).unwrap();
        symlink("a", &moving).unwrap();
        let mut folders = Folders::default();
        folders.begin_round();
        let real = |folders: &mut Folders, path: &std::path::Path| {
            let path = path.as_os_str().as_bytes();
            let folder = folders.of(path).unwrap();
            folders.real(folder, path).map(|real| std::path::PathBuf::from(std::ffi::OsString::from_vec(real)))
        };
        for path in [
            file.clone(),
            moving.join("file"),
            dir.path().join("b/../a/file"),
            to_root.join("etc/passwd"),
            to_root.join("etc"),
        ] {
            assert_eq!(real(&mut folders, &path), path.canonicalize().ok(), "{}", path.display());
        }
        for path in [dir.path().join("a/."), dir.path().join("a/.."), dir.path().join("nowhere/file")] {
            assert_eq!(real(&mut folders, &path), None, "{}", path.display());
        }
        fs::remove_file(&moving).unwrap();
        symlink("b", &moving).unwrap();
        folders.begin_round();
        assert_eq!(
            real(&mut folders, &moving.join("file")),
            moving.join("file").canonicalize().ok(),
            "in another round"
        );
    }

    #[test]
    fn a_settled_folder_tells_when_names_appear() {
        let dir = tempfile::tempdir().unwrap();
        let (d, link, absent) = (dir.path().join("d"), dir.path().join("l"), dir.path().join("a"));
        fs::create_dir(&d).unwrap();
        std::os::unix::fs::symlink("d", &link).unwrap();
        let mut folders = Folders::default();
        let ids = [&d, &link, &absent].map(|path| folders.of(path.join("h.h").as_os_str().as_bytes()).unwrap());
        let mut next = || {
            folders.begin_round();
            ids.map(|id| folders.look(id).names)
        };
        let (first, second) = (next(), next());
        assert!(first[0] != second[0] && first[1] != second[1], "its time stamp may yet serve for another name");
        assert_eq!(first[2], second[2], "nothing is in what is not there");
        std::thread::sleep(times::RACY + Duration::from_millis(100));
        let settled = next();
        assert_eq!(next(), settled);
        fs::write(d.join("h.h"), "").unwrap();
        fs::create_dir(&absent).unwrap();
        let later = next();
        assert!((0..3).all(|at| later[at] != settled[at]), "{settled:?} {later:?}");
    }

    #[test]
    fn a_file_system_that_may_not_tell_is_not_believed() {
        let mut folders = Folders::default();
        let id = folders.of(b"/proc/sys/kernel/absent").unwrap();
        let mut next = || {
            folders.begin_round();
            folders.look(id).names
        };
        assert_ne!(next(), next());
    }
}
