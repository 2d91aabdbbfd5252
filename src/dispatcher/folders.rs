//! The folders on the way to the files of the head's tree: does a name still lead where it led? A folder that becomes
//! a symbolic link, or another folder, changes realpath(3) of everything below, even where the very same files are
//! still there. Knows no records.
//!
//! Each folder is looked at once a round, however many files of it are validated in that round. What a symbolic link
//! points to is not followed: the folders on *that* way are watched only as far as somebody uses their names.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;

/// Index of a folder.
pub type FolderId = u32;

/// Device, inode and kind, from lstat(2). `None`: nothing there.
type Identity = Option<(u64, u64, u32)>;

struct Folder {
    path: Rc<[u8]>,
    parent: Option<FolderId>,
    identity: Identity,
    /// Counts the changes on the whole way to here.
    version: u64,
    parent_version: u64,
    looked_in: u64,
}

/// All folders that were ever on the way to a file.
#[derive(Default)]
pub struct Folders {
    ids: HashMap<Rc<[u8]>, FolderId>,
    folders: Vec<Folder>,
    round: u64,
}

impl Folders {
    /// From now on every folder is looked at again.
    pub fn begin_round(&mut self) {
        self.round += 1;
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
            version: 0,
            parent_version: 0,
            looked_in: 0,
        });
        self.ids.insert(name, id);
        Some(id)
    }

    /// A number that is another one after a name on the way to here, or its own, led elsewhere.
    pub fn version(&mut self, id: FolderId) -> u64 {
        let folder = &self.folders[id as usize];
        if folder.looked_in == self.round {
            return folder.version;
        }
        let parent_version = folder.parent.map_or(0, |parent| self.version(parent));
        let folder = &mut self.folders[id as usize];
        let identity = identity_of(&folder.path);
        if identity != folder.identity || parent_version != folder.parent_version {
            folder.version += 1;
            (folder.identity, folder.parent_version) = (identity, parent_version);
        }
        folder.looked_in = self.round;
        folder.version
    }
}

fn identity_of(path: &[u8]) -> Identity {
    let found = std::fs::symlink_metadata(OsStr::from_bytes(path)).ok()?;
    Some((found.dev(), found.ino(), found.mode() & libc::S_IFMT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_change_on_the_way_is_seen_in_the_next_round() {
        let dir = tempfile::tempdir().unwrap();
        let (a, elsewhere) = (dir.path().join("a"), dir.path().join("elsewhere"));
        fs::create_dir_all(a.join("b")).unwrap();
        let mut folders = Folders::default();
        folders.begin_round();
        let b = folders.of(a.join("b/file").as_os_str().as_bytes()).unwrap();
        assert_eq!(folders.of(a.join("b/other").as_os_str().as_bytes()), Some(b));
        let first = folders.version(b);
        fs::write(a.join("b/file"), "").unwrap();
        folders.begin_round();
        assert_eq!(folders.version(b), first, "what lies in it does not matter");

        fs::rename(&a, &elsewhere).unwrap();
        std::os::unix::fs::symlink("elsewhere", &a).unwrap();
        assert_eq!(folders.version(b), first, "once a round");
        folders.begin_round();
        let second = folders.version(b);
        assert_ne!(second, first);
        folders.begin_round();
        assert_eq!(folders.version(b), second);

        fs::remove_dir_all(&elsewhere).unwrap();
        folders.begin_round();
        assert_ne!(folders.version(b), second, "it leads nowhere");
        assert_eq!(folders.of(b"/x"), None);
    }
}
