//! The head's tree as the ranks may see it: a record for every path that a compile asked about, checked again for each
//! action that is to believe it. Knows no sockets and no ranks.
//!
//! # When is a record still true?
//! [`HeadTree::validate`] repeats stat(2) (and lstat(2) for a symbolic link) and compares identity, size, mode, owner,
//! mtime and ctime. A change makes a new version with a new id; the old id is never validated again. Directories
//! compare without size and times, which change with every object written beside a source and which no compiler looks
//! at. The folders on the way are looked at once for each action (`folders`), because realpath(3) depends on them; a
//! path that was absent is not looked at itself where its folder tells that no name appeared in it.
//! A file whose times were not of the past when its content was read ([`crate::times`]) may change once more within the
//! same time stamp, so its content is read again at the next validation.
//!
//! # Epochs
//! Ids index the ranks' tables, whose size is fixed. When they are used up a new epoch starts: all records are
//! forgotten and ids begin at 0 again.

use crate::dispatcher::folders::{FolderId, Folders, Look};
use crate::dispatcher::listing;
use crate::times::Past;
use crate::wire::{Digest, Record, RecordId};
use mpicc_proxy_abi::table::{ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE, ENTRIES_MAX, Stat};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

/// Names a path over all its versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathId(u32);

impl PathId {
    /// Small and dense.
    pub fn index(self) -> u32 {
        self.0
    }
}

/// Contents kept in memory for ranks that ask again, in bytes.
const KEPT_BYTES_MAX: u64 = 256 << 20;

/// Largest file whose content a compile on a rank can have, in bytes: it passes through our memory as a whole. What reads a
/// larger one runs on the head.
const CONTENT_BYTES_MAX: u64 = 1 << 30;

struct PathState {
    path: Rc<[u8]>,
    record: Option<RecordId>,
    folder: Option<FolderId>,
    /// At the folder, before the record was made or last confirmed.
    look: Look,
    /// The round in which the record was made or last confirmed.
    validated_in: u64,
    /// A compile opened it: its content will be needed by others.
    opened: bool,
}

struct RecordState {
    record: Rc<Record>,
    path: PathId,
    racy: bool,
}

/// The head's tree.
pub struct HeadTree {
    epoch: u32,
    /// A question that no round has begun for.
    asked: bool,
    folders: Folders,
    path_ids: HashMap<Rc<[u8]>, PathId>,
    paths: Vec<PathState>,
    records: Vec<RecordState>,
    contents: HashMap<Digest, Rc<[u8]>>,
    kept_bytes: u64,
    ids_max: u32,
}

impl Default for HeadTree {
    fn default() -> Self {
        HeadTree::with_capacity(ENTRIES_MAX)
    }
}

impl HeadTree {
    /// A tree whose epochs hold `ids_max` records.
    pub fn with_capacity(ids_max: u32) -> HeadTree {
        HeadTree {
            epoch: 1,
            asked: true,
            folders: Folders::default(),
            path_ids: HashMap::new(),
            paths: Vec::new(),
            records: Vec::new(),
            contents: HashMap::new(),
            kept_bytes: 0,
            ids_max,
        }
    }

    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The name of `path` in this process.
    pub fn path_id(&mut self, path: &[u8]) -> PathId {
        if let Some(id) = self.path_ids.get(path) {
            return *id;
        }
        let path: Rc<[u8]> = path.into();
        let id = PathId(self.paths.len() as u32);
        let folder = self.folders.of(&path);
        self.paths.push(PathState {
            path: Rc::clone(&path),
            record: None,
            folder,
            look: Look::default(),
            validated_in: 0,
            opened: false,
        });
        self.path_ids.insert(path, id);
        id
    }

    pub fn path(&self, path: PathId) -> &[u8] {
        &self.paths[path.0 as usize].path
    }

    pub fn is_opened(&self, path: PathId) -> bool {
        self.paths[path.0 as usize].opened
    }

    /// From now on the path's records carry a digest. Programs and libraries are often looked at but rarely read.
    pub fn mark_opened(&mut self, path: PathId) {
        self.paths[path.0 as usize].opened = true;
    }

    pub fn record(&self, id: RecordId) -> Option<&Rc<Record>> {
        self.records.get(id as usize).map(|state| &state.record)
    }

    /// The path a record is about.
    pub fn path_of(&self, id: RecordId) -> Option<PathId> {
        self.records.get(id as usize).map(|state| state.path)
    }

    /// Somebody asks how the tree is. What was looked at before is no answer to it; what is looked at from now on answers
    /// all that was asked before.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// To be called before an action's paths, at most `needed`, are validated. Where there is no room for so many more
    /// records a new epoch starts, and all ids handed out before are void.
    pub fn reserve(&mut self, needed: usize) {
        if std::mem::take(&mut self.asked) {
            self.folders.begin_round();
        }
        if self.records.len() + needed > self.ids_max as usize {
            self.epoch += 1;
            self.records.clear();
            for path in &mut self.paths {
                path.record = None;
            }
        }
    }

    /// The record of `path` as it is now, or was after the last [`HeadTree::ask`]; the same id as before if nothing changed.
    /// Call [`HeadTree::reserve`] first.
    pub fn validate(&mut self, path: PathId) -> RecordId {
        let state = &mut self.paths[path.0 as usize];
        let is_fresh = std::mem::replace(&mut state.validated_in, self.folders.round()) == self.folders.round();
        let is_complete = state.record.is_some_and(|id| {
            let known = &self.records[id as usize].record;
            let has_content = is_regular(&known.stat) || is_directory(&known.stat);
            !state.opened || known.digest.is_some() || !has_content
        });
        if let Some(id) = state.record.filter(|_| is_fresh && is_complete) {
            return id;
        }
        let name = Rc::clone(&state.path);
        let look = state.folder.map(|folder| self.folders.look(folder));
        let before = std::mem::replace(&mut state.look, look.unwrap_or_default());
        let same_way = before.way == state.look.way;
        let same_names = look.is_some_and(|look| look.names == before.names);
        if let Some(id) = state.record {
            let known = &self.records[id as usize];
            // The names in a directory are read again each time: nothing else tells for sure that they are the same.
            let is_listing = is_directory(&known.record.stat) && known.record.digest.is_some();
            if is_complete && same_way && !known.racy && !is_listing {
                let still_absent = same_names && is_absent(&known.record);
                if still_absent || is_unchanged(&known.record, &name) {
                    return id;
                }
            }
        }
        let (folder, with_content) = (state.folder, state.opened);
        let (record, racy) = self.read(&name, folder, with_content);
        if let Some(id) = self.paths[path.0 as usize].record {
            let known = &mut self.records[id as usize];
            if same_but_id(&known.record, &record) {
                known.racy = racy;
                return id;
            }
        }
        let id = self.records.len() as RecordId;
        self.records.push(RecordState { record: Rc::new(Record { id, ..record }), path, racy });
        self.paths[path.0 as usize].record = Some(id);
        id
    }

    /// The content a record promises.
    ///
    /// # Errors
    /// The file can no longer be read, or holds something else by now.
    pub fn content(&mut self, id: RecordId) -> io::Result<Rc<[u8]>> {
        let record = Rc::clone(self.record(id).ok_or(io::ErrorKind::NotFound)?);
        let digest = record.digest.ok_or(io::ErrorKind::NotFound)?;
        if let Some(content) = self.contents.get(&digest) {
            return Ok(Rc::clone(content));
        }
        let path = Path::new(OsStr::from_bytes(&record.path));
        let content = if is_directory(&record.stat) {
            listing::of(path)?
        } else {
            let mut content = Vec::new();
            std::fs::File::open(path)?.take(digest.bytes + 1).read_to_end(&mut content)?;
            content
        };
        if Digest::of(&content) != digest {
            return Err(io::Error::other("the file changed since it was promised"));
        }
        Ok(self.keep(digest, content))
    }

    fn keep(&mut self, digest: Digest, content: Vec<u8>) -> Rc<[u8]> {
        let content: Rc<[u8]> = content.into();
        if self.kept_bytes + digest.bytes > KEPT_BYTES_MAX {
            self.contents.clear();
            self.kept_bytes = 0;
        }
        if digest.bytes <= KEPT_BYTES_MAX && self.contents.insert(digest, Rc::clone(&content)).is_none() {
            self.kept_bytes += digest.bytes;
        }
        content
    }

    fn read(&mut self, name: &Rc<[u8]>, folder: Option<FolderId>, with_content: bool) -> (Record, bool) {
        let path = Path::new(OsStr::from_bytes(name));
        let (lstat_errno, lstat) = outcome(stat_of(name, false));
        // What is absent, or no link, is so whether links are followed or not.
        let is_absent = lstat_errno == libc::ENOENT;
        let is_plain = lstat_errno == 0 && !is_link(&lstat);
        let (mut stat_errno, mut stat) =
            if is_absent || is_plain { (lstat_errno, lstat) } else { outcome(stat_of(name, true)) };
        let known_way = if is_plain { folder.and_then(|folder| self.folders.real(folder, name)) } else { None };
        let (real_errno, real) = match known_way {
            Some(real) => (0, real),
            None if is_absent => (lstat_errno, Vec::new()),
            None => match std::fs::canonicalize(path) {
                Ok(real) => (0, real.into_os_string().into_vec()),
                Err(error) => (error.raw_os_error().unwrap_or(libc::EIO), Vec::new()),
            },
        };
        let link = if is_link(&lstat) { std::fs::read_link(path).ok() } else { None };
        let mut digest = None;
        if with_content && stat_errno == 0 && is_regular(&stat) {
            // Identity and content come from one open file, so that they belong together whatever happens to the name.
            if let Some((file_stat, content)) = read_file(path) {
                (stat_errno, stat) = (0, file_stat);
                let of_content = Digest::of(&content);
                digest = Some(of_content);
                self.keep(of_content, content);
            }
        }
        if with_content
            && stat_errno == 0
            && is_directory(&stat)
            && let Ok(content) = listing::of(path)
        {
            let of_content = Digest::of(&content);
            digest = Some(of_content);
            self.keep(of_content, content);
        }
        let racy = is_racy(&stat) || is_racy(&lstat);
        let (access, write_errno) = if stat_errno == 0 { access_of(name) } else { (0, 0) };
        let record = Record {
            id: 0,
            path: name.to_vec(),
            stat_errno,
            stat,
            lstat_errno,
            lstat,
            link: link.map(|target| target.into_os_string().into_vec()).unwrap_or_default(),
            real_errno,
            real,
            access,
            write_errno,
            digest,
        };
        (record, racy && digest.is_some())
    }
}

/// Equal but for the id and the access times, which our own reading moves.
fn same_but_id(old: &Record, new: &Record) -> bool {
    let mut new = new.clone();
    new.id = old.id;
    new.stat.atime = old.stat.atime;
    new.lstat.atime = old.lstat.atime;
    if same_stat(&old.stat, &new.stat) && same_stat(&old.lstat, &new.lstat) {
        (new.stat, new.lstat) = (old.stat, old.lstat);
    }
    new == *old
}

fn is_absent(known: &Record) -> bool {
    (known.stat_errno, known.lstat_errno) == (libc::ENOENT, libc::ENOENT)
}

fn is_unchanged(known: &Record, name: &[u8]) -> bool {
    if known.lstat_errno != 0 {
        // Most of what compilers ask for is absent. Where lstat(2) fails, stat(2), which walks the same way, does too.
        return known.stat_errno == known.lstat_errno && stat_of(name, false).err() == Some(known.lstat_errno);
    }
    let (stat_errno, stat) = outcome(stat_of(name, true));
    if known.stat_errno != stat_errno || !same_stat(&known.stat, &stat) {
        return false;
    }
    // A name that was no link has lstat equal to stat; it can only have become one with another identity behind it,
    // or by pointing to the very same file, which lstat tells.
    let was_link = is_link(&known.lstat);
    if was_link || known.stat_errno != 0 || known.stat.nlink > 1 {
        let (lstat_errno, lstat) = outcome(stat_of(name, false));
        return known.lstat_errno == lstat_errno && same_stat(&known.lstat, &lstat);
    }
    true
}

fn same_stat(a: &Stat, b: &Stat) -> bool {
    let identity = |s: &Stat| (s.dev, s.ino, s.mode, s.uid, s.gid);
    identity(a) == identity(b) && (is_directory(a) || (a.size, a.mtime, a.ctime) == (b.size, b.mtime, b.ctime))
}

fn is_regular(stat: &Stat) -> bool {
    stat.mode & libc::S_IFMT == libc::S_IFREG
}

fn is_directory(stat: &Stat) -> bool {
    stat.mode & libc::S_IFMT == libc::S_IFDIR
}

fn is_link(stat: &Stat) -> bool {
    stat.mode & libc::S_IFMT == libc::S_IFLNK
}

fn is_racy(stat: &Stat) -> bool {
    !Past::now().has(stat.mtime, stat.ctime)
}

fn outcome(result: Result<Stat, i32>) -> (i32, Stat) {
    match result {
        Ok(stat) => (0, stat),
        Err(errno) => (errno, Stat::default()),
    }
}

fn stat_of(name: &[u8], follow: bool) -> Result<Stat, i32> {
    let path = Path::new(OsStr::from_bytes(name));
    let metadata = if follow { std::fs::metadata(path) } else { std::fs::symlink_metadata(path) };
    metadata.map(|m| from_metadata(&m)).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
}

fn from_metadata(m: &std::fs::Metadata) -> Stat {
    Stat {
        dev: m.dev(),
        ino: m.ino(),
        rdev: m.rdev(),
        mode: m.mode(),
        uid: m.uid(),
        gid: m.gid(),
        nlink: m.nlink() as u32,
        size: m.size() as i64,
        blksize: m.blksize() as i64,
        blocks: m.blocks() as i64,
        atime: [m.atime(), m.atime_nsec()],
        mtime: [m.mtime(), m.mtime_nsec()],
        ctime: [m.ctime(), m.ctime_nsec()],
    }
}

/// Identity and content of a file, from the same open file; again if it changed while it was read.
/// `None`: it is too large, or changes all the time, or cannot be read.
fn read_file(path: &Path) -> Option<(Stat, Vec<u8>)> {
    const TRIES: u32 = 3;
    for _ in 0..TRIES {
        let mut file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
        let before = from_metadata(&file.metadata().ok()?);
        let bytes = u64::try_from(before.size).ok().filter(|bytes| *bytes <= CONTENT_BYTES_MAX)?;
        // The byte more saves a second allocation at the end of the file.
        let mut content = Vec::with_capacity(bytes as usize + 1);
        file.by_ref().take(bytes + 1).read_to_end(&mut content).ok()?;
        let after = from_metadata(&file.metadata().ok()?);
        if same_stat(&before, &after) && content.len() as i64 == after.size {
            return Some((after, content));
        }
    }
    None
}

/// What access(2) grants, and why it does not grant writing.
fn access_of(name: &[u8]) -> (u32, i32) {
    use nix::unistd::{AccessFlags, access};
    let path = OsStr::from_bytes(name);
    let mut bits = 0;
    let mut write_errno = 0;
    for (how, bit) in
        [(AccessFlags::R_OK, ACCESS_READ), (AccessFlags::W_OK, ACCESS_WRITE), (AccessFlags::X_OK, ACCESS_EXECUTE)]
    {
        match access(path, how) {
            Ok(()) => bits |= bit,
            Err(errno) if how == AccessFlags::W_OK => write_errno = errno as i32,
            Err(_) => {}
        }
    }
    (bits, write_errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::times::RACY;
    use std::fs;
    use std::time::{Duration, UNIX_EPOCH};

    fn id_of(tree: &mut HeadTree, path: &Path) -> RecordId {
        tree.ask();
        tree.reserve(1);
        let id = tree.path_id(path.as_os_str().as_bytes());
        tree.mark_opened(id);
        tree.validate(id)
    }

    #[test]
    fn what_was_asked_before_is_looked_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.h");
        fs::write(&path, "1").unwrap();
        let mut tree = HeadTree::default();
        let first = id_of(&mut tree, &path);
        fs::write(&path, "22").unwrap();
        let id = tree.path_id(path.as_os_str().as_bytes());
        tree.reserve(1);
        assert_eq!(tree.validate(id), first, "for another action that had asked");
        assert_ne!(id_of(&mut tree, &path), first, "for who asks now");
    }

    #[test]
    fn a_record_lives_until_its_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("\u{e9}.h");
        let mut tree = HeadTree::default();
        let absent = id_of(&mut tree, &file);
        assert_eq!(tree.record(absent).unwrap().stat_errno, libc::ENOENT);
        assert_eq!(id_of(&mut tree, &file), absent);

        fs::write(&file, "one").unwrap();
        let first = id_of(&mut tree, &file);
        assert_ne!(first, absent);
        assert_eq!(&tree.content(first).unwrap()[..], b"one");
        assert_eq!(id_of(&mut tree, &file), first, "racy, but the content is the same");

        // Same length, possibly within the same tick of the clock.
        fs::write(&file, "two").unwrap();
        let second = id_of(&mut tree, &file);
        assert_ne!(second, first);
        assert_eq!(&tree.content(second).unwrap()[..], b"two");

        fs::remove_file(&file).unwrap();
        let gone = id_of(&mut tree, &file);
        assert_eq!(tree.record(gone).unwrap().stat_errno, libc::ENOENT);
    }

    #[test]
    fn what_is_too_large_has_no_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        // More than there is memory for, and next to nothing on the disk.
        fs::File::create(&path).unwrap().set_len(1 << 42).unwrap();
        let mut tree = HeadTree::default();
        let id = id_of(&mut tree, &path);
        let record = tree.record(id).unwrap();
        assert_eq!((record.stat.size, record.digest), (1 << 42, None));
        assert_eq!(id_of(&mut tree, &path), id);
        fs::write(&path, "small").unwrap();
        let id = id_of(&mut tree, &path);
        fs::File::options().write(true).open(&path).unwrap().set_len(1 << 42).unwrap();
        tree.contents.clear();
        assert!(tree.content(id).is_err(), "it has grown since");
    }

    #[test]
    fn links_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, link) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("l"));
        fs::write(&a, "same").unwrap();
        fs::write(&b, "same").unwrap();
        std::os::unix::fs::symlink("a", &link).unwrap();
        let mut tree = HeadTree::default();
        let first = id_of(&mut tree, &link);
        let record = Rc::clone(tree.record(first).unwrap());
        assert_eq!(record.link, b"a");
        assert_eq!(record.real, fs::canonicalize(&a).unwrap().as_os_str().as_bytes());
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("b", &link).unwrap();
        assert_ne!(id_of(&mut tree, &link), first);

        tree.reserve(1);
        let looked_at = tree.path_id(dir.path().join(".").as_os_str().as_bytes());
        let directory = tree.validate(looked_at);
        let listed = id_of(&mut tree, dir.path());
        assert_eq!(id_of(&mut tree, dir.path()), listed, "the same names");
        fs::write(dir.path().join("new"), "").unwrap();
        assert_eq!(tree.validate(looked_at), directory, "a directory's times do not matter");
        let later = id_of(&mut tree, dir.path());
        assert_ne!(later, listed, "its names do, to who read them");
        let content = tree.content(later).unwrap();
        assert_eq!(mpicc_proxy_abi::listing::names(&content).count(), 6);
        tree.contents.clear();
        assert_eq!(tree.content(later).unwrap(), content);
        fs::remove_file(dir.path().join("new")).unwrap();
        tree.contents.clear();
        assert!(tree.content(later).is_err());
    }

    #[test]
    fn a_folder_turned_symlink_to_itself_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, moved) = (dir.path().join("folder"), dir.path().join("moved"));
        fs::create_dir(&folder).unwrap();
        let file = folder.join("h.h");
        fs::write(&file, "x").unwrap();
        fs::File::open(&file).unwrap().set_modified(UNIX_EPOCH).unwrap();
        let mut tree = HeadTree::default();
        let first = id_of(&mut tree, &file);
        fs::rename(&folder, &moved).unwrap();
        std::os::unix::fs::symlink("moved", &folder).unwrap();
        let second = id_of(&mut tree, &file);
        assert_ne!(second, first);
        assert_eq!(tree.record(second).unwrap().real, moved.join("h.h").as_os_str().as_bytes());
        assert_eq!(id_of(&mut tree, &file), second);
    }

    #[test]
    fn a_hard_link_turned_symlink_to_the_same_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "x").unwrap();
        fs::hard_link(&a, &b).unwrap();
        let mut tree = HeadTree::default();
        let first = id_of(&mut tree, &b);
        fs::remove_file(&b).unwrap();
        std::os::unix::fs::symlink("a", &b).unwrap();
        assert_ne!(id_of(&mut tree, &b), first);
    }

    #[test]
    fn what_was_absent_and_appears_is_noticed_in_every_shape() {
        let dir = tempfile::tempdir().unwrap();
        let (file, target) = (dir.path().join("f"), dir.path().join("t"));
        let mut tree = HeadTree::default();
        let absent = id_of(&mut tree, &file);
        std::os::unix::fs::symlink("t", &file).unwrap();
        let dangling = id_of(&mut tree, &file);
        assert_ne!(dangling, absent);
        let record = Rc::clone(tree.record(dangling).unwrap());
        assert_eq!((record.stat_errno, record.lstat_errno), (libc::ENOENT, 0));
        fs::write(&target, "x").unwrap();
        let whole = id_of(&mut tree, &file);
        assert_ne!(whole, dangling, "the target of a dangling link appeared");
        // Another error is another record.
        let below = id_of(&mut tree, &dir.path().join("d/x"));
        fs::write(dir.path().join("d"), "").unwrap();
        let not_a_directory = id_of(&mut tree, &dir.path().join("d/x"));
        assert_ne!(not_a_directory, below);
        assert_eq!(tree.record(not_a_directory).unwrap().stat_errno, libc::ENOTDIR);
        assert_eq!(tree.path_of(not_a_directory), Some(tree.path_id(dir.path().join("d/x").as_os_str().as_bytes())));
    }

    #[test]
    fn a_content_that_changed_is_not_delivered() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "one").unwrap();
        let mut tree = HeadTree::default();
        let id = id_of(&mut tree, &file);
        tree.contents.clear();
        fs::write(&file, "two").unwrap();
        assert!(tree.content(id).is_err());
    }

    #[test]
    fn a_new_epoch_forgets_all_ids() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = HeadTree::with_capacity(2);
        id_of(&mut tree, &dir.path().join("a"));
        id_of(&mut tree, &dir.path().join("b"));
        assert_eq!(tree.epoch(), 1);
        assert_eq!(id_of(&mut tree, &dir.path().join("c")), 0);
        assert_eq!(tree.epoch(), 2);
    }

    #[test]
    fn what_appears_in_a_settled_folder_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["written", "replaced", "other", "linked", "relinked", "parent/child", "elsewhere/child"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["other/h.h", "elsewhere/child/h.h"] {
            fs::write(at(name), "").unwrap();
        }
        for (target, name) in [("linked", "link"), ("written", "turned")] {
            std::os::unix::fs::symlink(target, at(name)).unwrap();
        }
        let folders = ["written", "replaced", "link", "turned", "parent/child", "absent", "absent/below"];
        let files = folders.map(|folder| at(folder).join("h.h"));
        std::thread::sleep(RACY + Duration::from_millis(100));

        let mut tree = HeadTree::default();
        let absent = files.each_ref().map(|file| id_of(&mut tree, file));
        let again = files.each_ref().map(|file| id_of(&mut tree, file));
        assert_eq!(again, absent);

        fs::write(at("relinked/h.h"), "").unwrap();
        fs::remove_file(at("turned")).unwrap();
        std::os::unix::fs::symlink("relinked", at("turned")).unwrap();
        fs::write(at("written/h.h"), "").unwrap();
        fs::write(at("linked/h.h"), "").unwrap();
        fs::rename(at("replaced"), at("away")).unwrap();
        fs::rename(at("other"), at("replaced")).unwrap();
        fs::rename(at("parent"), at("gone")).unwrap();
        std::os::unix::fs::symlink("elsewhere", at("parent")).unwrap();
        fs::create_dir_all(at("absent/below")).unwrap();
        for name in ["absent/h.h", "absent/below/h.h"] {
            fs::write(at(name), "").unwrap();
        }
        for (file, absent) in files.iter().zip(absent) {
            let found = id_of(&mut tree, file);
            assert_ne!(found, absent, "{}", file.display());
            assert_eq!(tree.record(found).unwrap().stat_errno, 0, "{}", file.display());
        }
    }

    #[test]
    fn what_appears_within_the_time_stamp_of_its_folder_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = HeadTree::default();
        for number in 0..50 {
            let folder = dir.path().join(number.to_string());
            fs::create_dir(&folder).unwrap();
            let file = folder.join("h.h");
            let absent = id_of(&mut tree, &file);
            assert_eq!(id_of(&mut tree, &file), absent);
            fs::write(&file, "").unwrap();
            assert_ne!(id_of(&mut tree, &file), absent);
        }
    }
}
