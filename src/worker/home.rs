//! A session's folder on this host: where it is, who uses it, how it goes. Knows nothing of what lies in it.
//!
//! ```text
//! <base>/mpicc-proxy-<uid>-<session>/   0700
//!     lock        every rank holds it shared; who gets it exclusively at the end removes the folder
//!     keeper      held by the process that sees to that whatever happens to the ranks
//!     cas/        contents, shared by all ranks of the host (`store`)
//!     tc-<hex>/   toolchains that are not the host's own, also shared (`toolchain`)
//!     r<rank>/    socket and task folders of one rank
//! ```
//!
//! A rank that is killed removes nothing. A process outside the job, one per host, sees to the folder then
//! ([`crate::keeper`]). Should that be killed, too, as schedulers do, the next session removes folders whose lock nobody
//! holds.
//!
//! # Where
//! In memory (`/dev/shm`) if there is room and programs may be mapped from it, else in TMPDIR (`/tmp`); where neither has
//! room the one with more. Containers often have a `/dev/shm` of 64 MiB, read-only or none. A host where
//! no folder can be made at all compiles nothing; rank 0 is told, and no build fails.

use crate::keeper::{self, PREFIX, lock, lock_folder};
use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::cmp::Reverse;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A file system with this many bytes free is taken without looking further: room for the headers of a large project
/// and a few objects with debug information.
const ROOMY_BYTES: u64 = 1 << 30;

/// As [`ROOMY_BYTES`], in files: contents, and the scratch of all slots.
const ROOMY_FILES: u64 = 10_000;

/// A session's folder on this host, as one rank sees it.
pub struct Home {
    root: PathBuf,
    rank_folder: PathBuf,
    lock: Option<Flock<File>>,
}

/// What a file system offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    free_bytes: u64,
    free_files: u64,
    executable: bool,
}

impl Home {
    /// Opens or makes the folder of `session` and this rank's part of it; removes what crashed sessions left.
    ///
    /// # Errors
    /// There is no place for it.
    pub fn open(session: &str, rank: i32) -> Result<Home> {
        Home::open_in(&by_preference(bases(), room), session, rank)
    }

    /// As [`Home::open`], in the first of `bases` that will do.
    ///
    /// # Errors
    /// None will; says why of each.
    pub fn open_in(bases: &[PathBuf], session: &str, rank: i32) -> Result<Home> {
        let uid = nix::unistd::getuid().as_raw();
        let mine = format!("{PREFIX}{uid}-");
        let mut refusals = Vec::new();
        for base in bases {
            remove_stale(base, &mine);
            match Home::enter(&base.join(format!("{mine}{session}")), uid, rank) {
                Ok(home) => return Ok(home),
                Err(error) => refusals.push(format!("{}: {error:#}", base.display())),
            }
        }
        bail!("{}", refusals.join("; "));
    }

    fn enter(root: &Path, uid: u32, rank: i32) -> Result<Home> {
        let lock = join(root, uid)?;
        keeper::start(root);
        let rank_folder = root.join(format!("r{rank}"));
        // From here on, dropping it cleans up.
        let home = Home { root: root.to_path_buf(), rank_folder, lock: Some(lock) };
        make_private(&home.contents())?;
        make_private(&home.rank_folder)?;
        Ok(home)
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
        if let Some(shared) = self.lock.take() {
            drop(shared);
            if let Ok(_last) = lock_folder(&self.root, FlockArg::LockExclusiveNonblock) {
                let _ = fs::remove_dir_all(&self.root);
            }
        }
    }
}

fn bases() -> Vec<PathBuf> {
    vec![PathBuf::from("/dev/shm"), std::env::temp_dir()]
}

/// The folders in the order in which they are to be tried; those that are not there or read-only are left out.
fn by_preference(bases: Vec<PathBuf>, room: impl Fn(&Path) -> Option<Room>) -> Vec<PathBuf> {
    let mut known: Vec<(Room, PathBuf)> = bases.into_iter().filter_map(|base| Some((room(&base)?, base))).collect();
    // Stable: among equals the order given stays.
    known.sort_by_key(|(room, _)| {
        let roomy = room.free_bytes >= ROOMY_BYTES && room.free_files >= ROOMY_FILES;
        Reverse((roomy, roomy && room.executable, if roomy { 0 } else { room.free_bytes }))
    });
    known.into_iter().map(|(_, base)| base).collect()
}

/// `None`: not there, or nothing can be written.
fn room(path: &Path) -> Option<Room> {
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
fn join(root: &Path, uid: u32) -> Result<Flock<File>> {
    const TRIES: u32 = 10;
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

fn remove_stale(base: &Path, prefix: &str) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(prefix);
        let folder = entry.path();
        // A folder without a lock file is just being made by another rank.
        if is_ours
            && folder.join("lock").exists()
            && let Ok(_unused) = lock_folder(&folder, FlockArg::LockExclusiveNonblock)
        {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rank_removes_the_folder() {
        let base = tempfile::tempdir().unwrap();
        let bases = [base.path().to_path_buf()];
        let one = Home::open_in(&bases, "s", 1).unwrap();
        let two = Home::open_in(&bases, "s", 2).unwrap();
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
        let mut crashed = Home::open_in(&bases, "dead", 1).unwrap();
        let dead_root = crashed.root.clone();
        drop(crashed.lock.take());
        std::mem::forget(crashed);
        let living = Home::open_in(&bases, "alive", 1).unwrap();
        assert!(!dead_root.exists());
        let other = Home::open_in(&bases, "other", 1).unwrap();
        assert!(living.root.exists());
        drop(other);
    }

    #[test]
    fn the_next_place_is_tried_and_all_refusals_are_said() {
        let base = tempfile::tempdir().unwrap();
        let (file, good) = (base.path().join("file"), base.path().join("good"));
        fs::write(&file, "").unwrap();
        fs::create_dir(&good).unwrap();
        let home = Home::open_in(&[file.clone(), good.clone()], "s", 1).unwrap();
        assert!(home.contents().starts_with(&good));
        let absent = base.path().join("absent");
        let error = Home::open_in(&[file.clone(), absent.clone()], "s", 1).err().unwrap().to_string();
        assert!(error.contains(file.to_str().unwrap()) && error.contains(absent.to_str().unwrap()), "{error}");
    }

    #[test]
    fn only_one_rank_is_elected() {
        let base = tempfile::tempdir().unwrap();
        let bases = [base.path().to_path_buf()];
        let (one, two) = (Home::open_in(&bases, "s", 1).unwrap(), Home::open_in(&bases, "s", 2).unwrap());
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
