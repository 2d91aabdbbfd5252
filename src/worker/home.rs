//! A session's folder on this host: where it is, who uses it, how it goes. Knows nothing of what lies in it.
//!
//! ```text
//! <base>/mpicc-proxy-<uid>-<session>/   0700
//!     lock        every rank holds it shared; who gets it exclusively at the end removes the folder
//!     keeper      held by the process that sees to that whatever happens to the ranks
//!     cas/        contents, shared by all ranks of the host (`store`)
//!     tc-<hex>/   toolchains that are not the host's own, also shared (`toolchain`)
//!     r<rank>-<process>/    socket and task folders of one rank; `lock` is held as long as it lives
//! ```
//!
//! A rank that is killed removes nothing. A process outside the job, one per host, sees to the folder then
//! ([`crate::keeper`]). Should that be killed, too, as schedulers do, the next session removes folders whose lock nobody
//! holds.
//!
//! Where ranks are started again when they die, the next find the contents: unless rank 0 said that the session is over,
//! the last rank leaves the folder to the keeper, which waits for a while.
//!
//! # Where
//! In memory (`/dev/shm`) if there is room and programs may be mapped from it, else in TMPDIR (`/tmp`); where neither has
//! room the one with more. Containers often have a `/dev/shm` of 64 MiB, read-only or none. A host where
//! no folder can be made at all compiles nothing; rank 0 is told, and no build fails.

use crate::keeper::{self, PREFIX, lock, lock_folder};
use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::cell::Cell;
use std::cmp::Reverse;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A file system with this many bytes free is taken without looking further: room for the headers of a large project
/// and a few objects with debug information.
const ROOMY_BYTES: u64 = 1 << 30;

/// As [`ROOMY_BYTES`], in files: contents, and the scratch of all slots.
const ROOMY_FILES: u64 = 10_000;

/// What a rank knows of its session.
#[derive(Clone, Debug)]
pub struct Session {
    name: String,
    /// Its ranks are started again when they die.
    returns: bool,
    is_over: Rc<Cell<bool>>,
}

impl Session {
    pub fn new(name: impl Into<String>, returns: bool) -> Session {
        Session { name: name.into(), returns, is_over: Rc::default() }
    }

    /// Rank 0 said so: nobody will need its folders.
    pub fn end(&self) {
        self.is_over.set(true);
    }

    fn may_go_on(&self) -> bool {
        self.returns && !self.is_over.get()
    }
}

/// A session's folder on this host, as one rank sees it.
pub struct Home {
    session: Session,
    root: PathBuf,
    rank_folder: PathBuf,
    rank_lock: Option<Flock<File>>,
    lock: Option<Flock<File>>,
}

/// What a file system offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub free_bytes: u64,
    free_files: u64,
    pub executable: bool,
}

impl Room {
    /// Is it taken without looking further, if programs may be mapped from it?
    pub fn is_roomy(&self) -> bool {
        self.free_bytes >= ROOMY_BYTES && self.free_files >= ROOMY_FILES
    }
}

impl Home {
    /// Opens or makes the folder of `session` and this rank's part of it; removes what crashed sessions left.
    ///
    /// # Errors
    /// There is no place for it.
    pub fn open(session: &Session, rank: i32) -> Result<Home> {
        let mut bases = by_preference(bases(), room);
        // Where earlier ranks of it left contents.
        bases.sort_by_key(|base| !base.join(folder_name(&session.name)).exists());
        Home::open_in(&bases, session, rank)
    }

    /// As [`Home::open`], in the first of `bases` that will do.
    ///
    /// # Errors
    /// None will; says why of each.
    pub fn open_in(bases: &[PathBuf], session: &Session, rank: i32) -> Result<Home> {
        let mut refusals = Vec::new();
        for base in bases {
            remove_stale(base, &session.name);
            match Home::enter(&base.join(folder_name(&session.name)), session, rank) {
                Ok(home) => return Ok(home),
                Err(error) => refusals.push(format!("{}: {error:#}", base.display())),
            }
        }
        bail!("{}", refusals.join("; "));
    }

    fn enter(root: &Path, session: &Session, rank: i32) -> Result<Home> {
        let lock = join(root)?;
        keeper::start(root, session.returns);
        let rank_folder = root.join(format!("r{rank}-{}", std::process::id()));
        // From here on, dropping it cleans up.
        let (session, root) = (session.clone(), root.to_path_buf());
        let mut home = Home { session, root, rank_folder, rank_lock: None, lock: Some(lock) };
        make_private(&home.contents())?;
        home.make_rank_folder()?;
        Ok(home)
    }

    /// One rank at a time: no folder is without its lock while others look for those of dead ranks.
    fn make_rank_folder(&mut self) -> io::Result<()> {
        let _office = keeper::lock(&self.root.join("coming"), FlockArg::LockExclusive)?;
        for entry in fs::read_dir(&self.root)?.flatten() {
            let of_a_rank = entry.file_name().as_encoded_bytes().starts_with(b"r");
            if of_a_rank && keeper::lock(&entry.path().join("lock"), FlockArg::LockExclusiveNonblock).is_ok() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        make_private(&self.rank_folder)?;
        self.rank_lock = Some(keeper::lock(&self.rank_folder.join("lock"), FlockArg::LockExclusiveNonblock)?);
        Ok(())
    }

    /// The session's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of the contents.
    pub fn contents(&self) -> PathBuf {
        self.root.join("cas")
    }

    /// This rank's own folder.
    pub fn rank_folder(&self) -> &Path {
        &self.rank_folder
    }

    /// A folder that would now be preferred to the one this was made in.
    pub fn better_base(&self) -> Option<PathBuf> {
        let best = by_preference(bases(), room).into_iter().next()?;
        (Some(best.as_path()) != self.root.parent()).then_some(best)
    }

    /// Bytes this user may still write here; 0 if nobody knows.
    pub fn free_bytes(&self) -> u64 {
        room(&self.root).map_or(0, |room| room.free_bytes)
    }

    /// The exclusive right to do `what` for all ranks of this host, until dropped. `None`: another rank has it.
    pub fn elect(&self, what: &str) -> Option<Flock<File>> {
        lock(&self.root.join(what), FlockArg::LockExclusiveNonblock).ok()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.rank_folder);
        drop(self.rank_lock.take());
        if let Some(shared) = self.lock.take() {
            if self.session.is_over.get() {
                // The keeper may get the lock first.
                let _ = File::create(self.root.join(keeper::OVER));
            }
            drop(shared);
            if !self.session.may_go_on()
                && let Ok(_last) = lock_folder(&self.root, FlockArg::LockExclusiveNonblock)
            {
                let _ = fs::remove_dir_all(&self.root);
            }
        }
    }
}

/// Where the folder may be made.
pub fn bases() -> Vec<PathBuf> {
    vec![PathBuf::from("/dev/shm"), std::env::temp_dir()]
}

/// The folders in the order in which they are to be tried; those that are not there or read-only are left out.
fn by_preference(bases: Vec<PathBuf>, room: impl Fn(&Path) -> Option<Room>) -> Vec<PathBuf> {
    let mut known: Vec<(Room, PathBuf)> = bases.into_iter().filter_map(|base| Some((room(&base)?, base))).collect();
    // Stable: among equals the order given stays.
    known.sort_by_key(|(room, _)| {
        let roomy = room.is_roomy();
        Reverse((roomy, roomy && room.executable, if roomy { 0 } else { room.free_bytes }))
    });
    known.into_iter().map(|(_, base)| base).collect()
}

/// `None`: not there, or nothing can be written.
pub fn room(path: &Path) -> Option<Room> {
    let found = statvfs(path).ok()?;
    if found.flags().contains(FsFlags::ST_RDONLY) {
        return None;
    }
    // Some file systems (btrfs) make inodes as they go, and say 0 of 0.
    let free_files = if found.files() == 0 { u64::MAX } else { found.files_available() };
    Some(Room {
        free_bytes: found.blocks_available() * found.fragment_size(),
        free_files,
        executable: !found.flags().contains(FsFlags::ST_NOEXEC),
    })
}

/// Makes the folder if need be, and holds its lock.
fn join(root: &Path) -> Result<Flock<File>> {
    const TRIES: u32 = 10;
    let uid = nix::unistd::getuid().as_raw();
    for _ in 0..TRIES {
        make_private(root)?;
        let owner = fs::symlink_metadata(root)?;
        if owner.uid() != uid || !owner.is_dir() {
            bail!("{} belongs to somebody else", root.display());
        }
        match lock_folder(root, FlockArg::LockShared) {
            // Another session took the folder for a left-over just before we locked it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result.context("cannot lock it"),
        }
    }
    bail!("somebody keeps removing {}", root.display());
}

/// A folder only its owner may enter; one that exists already is fine.
fn make_private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Name of a session's folder. With an empty name, what those of all sessions of this user begin with.
fn folder_name(session: &str) -> String {
    format!("{PREFIX}{}-{session}", nix::unistd::getuid())
}

/// Removes the folders of other sessions that have neither ranks nor a keeper.
fn remove_stale(base: &Path, session: &str) {
    let (prefix, own) = (folder_name(""), folder_name(session));
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_other = name.to_string_lossy().starts_with(&prefix) && *name != *own;
        let folder = entry.path();
        // A folder without a lock file is just being made by another rank.
        if is_other
            && folder.join("lock").exists()
            && !keeper::has(&folder)
            && let Ok(_unused) = lock_folder(&folder, FlockArg::LockExclusiveNonblock)
        {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(name: &str) -> Session {
        Session::new(name, false)
    }

    #[test]
    fn the_last_rank_removes_the_folder() {
        let base = tempfile::tempdir().unwrap();
        let bases = [base.path().to_path_buf()];
        let one = Home::open_in(&bases, &session("s"), 1).unwrap();
        let two = Home::open_in(&bases, &session("s"), 2).unwrap();
        assert_eq!(one.contents(), two.contents());
        let root = one.root.clone();
        drop(one);
        assert!(root.exists(), "another rank still uses it");
        drop(two);
        assert!(!root.exists());
    }

    #[test]
    fn a_crashed_sessions_folder_is_removed_and_a_living_one_is_not() {
        let base = tempfile::tempdir().unwrap();
        let bases = [base.path().to_path_buf()];
        let mut crashed = Home::open_in(&bases, &session("dead"), 1).unwrap();
        let dead_root = crashed.root.clone();
        drop(crashed.lock.take());
        std::mem::forget(crashed);
        let living = Home::open_in(&bases, &session("alive"), 1).unwrap();
        assert!(!dead_root.exists());
        let other = Home::open_in(&bases, &session("other"), 1).unwrap();
        assert!(living.root.exists());
        drop(other);
    }

    #[test]
    fn the_next_ranks_of_a_session_find_its_contents() {
        let base = tempfile::tempdir().unwrap();
        let bases = [base.path().to_path_buf()];
        let lasting = Session::new("s", true);
        let first = Home::open_in(&bases, &lasting, 1).unwrap();
        fs::write(first.contents().join("x"), "").unwrap();
        // Killed: its folder stays, and nobody holds its locks.
        let mut killed = Home::open_in(&bases, &lasting, 2).unwrap();
        let (left_behind, alive) = (killed.root.join("r2-1"), first.rank_folder().to_path_buf());
        fs::rename(killed.rank_folder(), &left_behind).unwrap();
        drop((killed.lock.take(), killed.rank_lock.take()));
        std::mem::forget(killed);
        let second = Home::open_in(&bases, &lasting, 3).unwrap();
        assert!(!left_behind.exists() && alive.exists());
        drop((first, second));
        let again = Session::new("s", true);
        let third = Home::open_in(&bases, &again, 1).unwrap();
        assert!(third.contents().join("x").exists());
        again.end();
        let root = third.root.clone();
        drop(third);
        assert!(!root.exists());
    }

    #[test]
    fn the_next_place_is_tried_and_all_refusals_are_said() {
        let base = tempfile::tempdir().unwrap();
        let (file, good) = (base.path().join("file"), base.path().join("good"));
        fs::write(&file, "").unwrap();
        fs::create_dir(&good).unwrap();
        let home = Home::open_in(&[file.clone(), good.clone()], &session("s"), 1).unwrap();
        assert!(home.contents().starts_with(&good));
        let absent = base.path().join("absent");
        let error = Home::open_in(&[file.clone(), absent.clone()], &session("s"), 1).err().unwrap().to_string();
        assert!(error.contains(file.to_str().unwrap()) && error.contains(absent.to_str().unwrap()), "{error}");
    }

    #[test]
    fn only_one_rank_is_elected() {
        let base = tempfile::tempdir().unwrap();
        let bases = [base.path().to_path_buf()];
        let (one, two) =
            (Home::open_in(&bases, &session("s"), 1).unwrap(), Home::open_in(&bases, &session("s"), 2).unwrap());
        let office = one.elect("evict");
        assert!(office.is_some() && two.elect("evict").is_none());
        drop(office);
        assert!(two.elect("evict").is_some());
    }

    #[test]
    fn places_by_preference() {
        let large = Room { free_bytes: ROOMY_BYTES, free_files: ROOMY_FILES, executable: true };
        let order = |memory: Option<Room>, disk: Option<Room>| {
            let of = |path: &Path| if path == Path::new("memory") { memory } else { disk };
            by_preference(vec!["memory".into(), "disk".into()], of)
        };
        let (memory_first, disk_first) =
            ([Path::new("memory"), Path::new("disk")], [Path::new("disk"), Path::new("memory")]);
        let small = Room { free_bytes: 64 << 10, ..large };
        let table: [(Room, Room, [&Path; 2]); 6] = [
            (large, large, memory_first),
            (large, Room { free_bytes: u64::MAX, ..large }, memory_first),
            (small, large, disk_first),
            (Room { executable: false, ..large }, large, disk_first),
            (Room { executable: false, ..large }, small, memory_first),
            (Room { free_files: 5, ..large }, large, disk_first),
        ];
        for (memory, disk, expected) in table {
            assert_eq!(order(Some(memory), Some(disk)), expected, "{memory:?} {disk:?}");
        }
        assert_eq!(
            order(Some(small), Some(Room { free_bytes: 65 << 10, ..large })),
            disk_first,
            "the most of too little"
        );
        assert_eq!(order(None, Some(small)), [Path::new("disk")]);
        assert!(room(Path::new("/proc/self/no-such")).is_none());
    }
}
