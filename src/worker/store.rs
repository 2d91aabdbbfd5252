//! This host's folder for a session: the content-addressed store that all ranks of the host share, and each rank's
//! scratch. In memory (`/dev/shm`), or in TMPDIR where that is missing.
//!
//! ```text
//! /dev/shm/mpicc-proxy-<uid>-<session>/   0700
//!     lock        every rank holds it shared; who gets it exclusively at the end removes the folder
//!     cas/<hex>   contents, complete from the moment the name exists
//!     tc-<hex>/   toolchains that are not the host's own, see `worker::toolchain`
//!     r<rank>/    socket and task folders of one rank
//! ```
//!
//! A folder whose lock nobody holds is left over from a crash and is removed by the next session.

use crate::wire::Digest;
use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const PREFIX: &str = "mpicc-proxy-";

/// A session's folder on this host, as one rank sees it.
pub struct Store {
    root: PathBuf,
    rank_folder: PathBuf,
    lock: Option<Flock<File>>,
    present: HashSet<Digest>,
    arriving: HashMap<Digest, Arriving>,
    temporary: u64,
}

struct Arriving {
    file: File,
    path: PathBuf,
    bytes: u64,
    hash: blake3::Hasher,
}

impl Store {
    /// Opens or makes the folder of `session` and this rank's part of it; removes what crashed sessions left.
    ///
    /// # Errors
    /// No folder can be made, or somebody else owns it.
    pub fn open(session: &str, rank: i32) -> Result<Store> {
        Store::open_in(&base_folder(), session, rank)
    }

    /// The same in a folder of the caller's choice.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_in(base: &Path, session: &str, rank: i32) -> Result<Store> {
        let uid = nix::unistd::getuid().as_raw();
        let mine = format!("{PREFIX}{uid}-");
        remove_stale(base, &mine);
        let root = base.join(format!("{mine}{session}"));
        let lock = enter(&root, uid).with_context(|| format!("cannot use the folder {}", root.display()))?;
        make_private(&root.join("cas"))?;
        let rank_folder = root.join(format!("r{rank}"));
        make_private(&rank_folder)?;
        Ok(Store {
            root,
            rank_folder,
            lock: Some(lock),
            present: HashSet::new(),
            arriving: HashMap::new(),
            temporary: 0,
        })
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

    /// Is the content here, brought by this rank or another?
    pub fn has(&mut self, digest: &Digest) -> bool {
        if self.present.contains(digest) {
            return true;
        }
        let here = self.contents().join(digest.file_name()).exists();
        if here {
            self.present.insert(*digest);
        }
        here
    }

    /// Takes the part of a content that starts at `at`; parts come in order. `true` when the content is complete.
    ///
    /// # Errors
    /// The store is full, or what arrived does not have the digest it should.
    pub fn receive(&mut self, digest: Digest, at: u64, part: &[u8]) -> io::Result<bool> {
        if self.has(&digest) {
            self.arriving.remove(&digest);
            return Ok(true);
        }
        if at == 0 {
            self.temporary += 1;
            let path = self.rank_folder.join(format!("c{}", self.temporary));
            let file = File::options().write(true).create_new(true).mode(0o400).open(&path)?;
            self.arriving.insert(digest, Arriving { file, path, bytes: 0, hash: blake3::Hasher::new() });
        }
        let Some(arriving) = self.arriving.get_mut(&digest) else {
            return Err(io::Error::other("a part of a content came without its beginning"));
        };
        let mut written = arriving.file.write_all(part);
        arriving.bytes += part.len() as u64;
        arriving.hash.update(part);
        let complete = arriving.bytes == digest.bytes;
        if complete && *arriving.hash.finalize().as_bytes() != digest.hash {
            written = Err(io::Error::other("what arrived is not what was promised"));
        }
        if complete || written.is_err() {
            let Some(arriving) = self.arriving.remove(&digest) else { return Ok(false) };
            if let Err(error) =
                written.and_then(|()| fs::rename(&arriving.path, self.contents().join(digest.file_name())))
            {
                let _ = fs::remove_file(&arriving.path);
                return Err(error);
            }
            self.present.insert(digest);
        }
        Ok(complete)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.rank_folder);
        if let Some(shared) = self.lock.take() {
            drop(shared);
            if let Ok(_last) = lock(&self.root, FlockArg::LockExclusiveNonblock) {
                let _ = fs::remove_dir_all(&self.root);
            }
        }
    }
}

/// Makes the folder if need be, and holds its lock.
fn enter(root: &Path, uid: u32) -> Result<Flock<File>> {
    const TRIES: u32 = 10;
    for _ in 0..TRIES {
        make_private(root)?;
        let owner = fs::symlink_metadata(root)?;
        if owner.uid() != uid || !owner.is_dir() {
            bail!("it belongs to somebody else");
        }
        let held = lock(root, FlockArg::LockShared)?;
        // Another session may have taken the folder for a left-over just before we locked it.
        if fs::metadata(root.join("lock")).is_ok_and(|m| held.metadata().is_ok_and(|own| own.ino() == m.ino())) {
            return Ok(held);
        }
    }
    bail!("somebody keeps removing it");
}

fn base_folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() && nix::unistd::access(memory, nix::unistd::AccessFlags::W_OK).is_ok() {
        memory.to_path_buf()
    } else {
        std::env::temp_dir()
    }
}

/// A folder only its owner may enter; one that exists already is fine.
fn make_private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn lock(root: &Path, how: FlockArg) -> io::Result<Flock<File>> {
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(root.join("lock"))?;
    Flock::lock(file, how).map_err(|(_, errno)| errno.into())
}

fn remove_stale(base: &Path, prefix: &str) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(prefix);
        // A folder without a lock file is just being made by another rank.
        if is_ours
            && entry.path().join("lock").exists()
            && let Ok(_unused) = lock(&entry.path(), FlockArg::LockExclusiveNonblock)
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(name: &str) -> String {
        format!("test-{name}-{}", std::process::id())
    }

    #[test]
    fn contents_arrive_in_parts_and_are_shared() {
        let session = session("parts");
        let mut one = Store::open(&session, 1).unwrap();
        let mut two = Store::open(&session, 2).unwrap();
        let digest = Digest::of(b"hello world");
        assert!(!one.has(&digest));
        assert!(!one.receive(digest, 0, b"hello ").unwrap());
        assert!(!two.has(&digest), "half a content has no name");
        assert!(one.receive(digest, 6, b"world").unwrap());
        assert!(two.has(&digest));
        assert!(two.receive(digest, 0, b"hello ").unwrap(), "what is here need not come again");
        assert_eq!(fs::read(two.contents().join(digest.file_name())).unwrap(), b"hello world");
        let empty = Digest::of(b"");
        assert!(one.receive(empty, 0, b"").unwrap());
        let root = one.root.clone();
        drop(one);
        assert!(root.exists(), "another rank still uses it");
        drop(two);
        assert!(!root.exists());
    }

    #[test]
    fn a_crashed_sessions_folder_is_removed_and_a_living_one_is_not() {
        let (dead, alive) = (session("dead"), session("alive"));
        let mut crashed = Store::open(&dead, 1).unwrap();
        let dead_root = crashed.root.clone();
        drop(crashed.lock.take());
        std::mem::forget(crashed);
        let living = Store::open(&alive, 1).unwrap();
        assert!(!dead_root.exists());
        let other = Store::open(&session("other"), 1).unwrap();
        assert!(living.root.exists());
        drop(other);
    }

    #[test]
    fn a_part_without_its_beginning_is_refused() {
        let mut store = Store::open(&session("middle"), 1).unwrap();
        assert!(store.receive(Digest::of(b"abc"), 1, b"bc").is_err());
    }

    #[test]
    fn another_content_than_promised_gets_no_name() {
        let mut store = Store::open(&session("other-content"), 1).unwrap();
        let digest = Digest::of(b"abc");
        assert!(store.receive(digest, 0, b"abd").is_err());
        assert!(!store.has(&digest));
        assert!(store.receive(digest, 0, b"abc").unwrap());
    }
}
