//! The contents on this host: one folder for all its ranks, content-addressed, bounded. A name appears when its
//! content is complete.
//!
//! # Eviction
//! The folder holds at most `limit` bytes; above it, what was used the longest time ago goes. The time of use is the
//! file's mtime, which a rank sets when a compile may open the content (access times are often switched off); all
//! ranks of the host see it. One rank at a time evicts. No count is shared: a rank looks at the folder again after it
//! added a small part of the limit, so the folder may exceed it by as much for each rank.
//!
//! A content may go while a compile elsewhere on this host is about to open it. The compile asks again then, and so
//! does the rank ([`Store::find`] looks at the folder): eviction costs time and changes nothing. A file that is open
//! stays until it is closed.

use crate::wire::Digest;
use crate::worker::home::Home;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// The limit unless one is given: this part of what is free at the start, and at most [`DEFAULT_BYTES_MAX`]. The rest
/// belongs to outputs, and to others.
const DEFAULT_PART_OF_FREE: u64 = 4;
const DEFAULT_BYTES_MAX: u64 = 8 << 30;

/// A rank looks at the folder after it added this part of the limit.
const LOOK_AFTER_PART: u64 = 32;

/// Eviction frees this part of the limit at once, so that it is rare.
const EVICTED_PART: u64 = 4;

/// Uses of a content closer together than this count as one.
const MARK_INTERVAL: Duration = Duration::from_secs(10);

/// The contents of this host, as one rank sees them.
pub struct Store {
    limit: u64,
    /// Contents that were here when last looked for, and when their use was last marked.
    known: HashMap<Digest, Instant>,
    arriving: HashMap<Digest, Arriving>,
    temporary: u64,
    /// Bytes added since the folder was last looked at.
    added: u64,
    // Last: its folder goes after everything that lies in it.
    home: Home,
}

struct Arriving {
    file: File,
    path: PathBuf,
    bytes: u64,
    hash: blake3::Hasher,
}

impl Store {
    /// The contents in `home`, of at most `limit` bytes.
    pub fn new(home: Home, limit: Option<u64>) -> Store {
        let limit = limit.unwrap_or_else(|| (home.free_bytes() / DEFAULT_PART_OF_FREE).min(DEFAULT_BYTES_MAX));
        Store { limit, known: HashMap::new(), arriving: HashMap::new(), temporary: 0, added: 0, home }
    }

    pub fn home(&self) -> &Home {
        &self.home
    }

    /// All contents that are here. Their names are believed: a content was compared with its name before it got it.
    pub fn list(&self) -> Vec<Digest> {
        let entries = fs::read_dir(self.home.contents()).into_iter().flatten().flatten();
        let digest = |entry: fs::DirEntry| Digest::named(entry.file_name().to_str()?, entry.metadata().ok()?.len());
        entries.filter_map(digest).collect()
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.home.contents().join(digest.file_name())
    }

    /// Is the content here, as far as this rank knows? Marks its use.
    pub fn has(&mut self, digest: &Digest) -> bool {
        match self.known.get(digest) {
            Some(marked) if marked.elapsed() < MARK_INTERVAL => true,
            _ => self.find(digest),
        }
    }

    /// Is the content here, brought by this rank or another? Looks, and marks its use.
    pub fn find(&mut self, digest: &Digest) -> bool {
        let here = mark(&self.path(digest)).is_ok();
        if here {
            self.known.insert(*digest, Instant::now());
        } else {
            self.known.remove(digest);
        }
        here
    }

    /// At most `bytes_max` bytes of a content, from `at` on.
    ///
    /// # Errors
    /// The content is not here, or cannot be read.
    pub fn read(&self, digest: &Digest, at: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut part = vec![0; usize::try_from(digest.bytes.saturating_sub(at)).unwrap_or(bytes_max).min(bytes_max)];
        File::open(self.path(digest))?.read_exact_at(&mut part, at)?;
        Ok(part)
    }

    /// Takes the part of a content that starts at `at`; parts come in order. `true` when the content is complete.
    ///
    /// # Errors
    /// The store is full, a part is missing, or what arrived does not have the digest it should.
    pub fn receive(&mut self, digest: Digest, at: u64, part: &[u8]) -> io::Result<bool> {
        if self.find(&digest) {
            self.forget_arriving(&digest);
            return Ok(true);
        }
        let result = match self.write(digest, at, part) {
            Err(error) if is_full(&error) => {
                // Others may have filled the file system, whatever our limit.
                self.evict(self.limit / 2);
                self.write(digest, at, part)
            }
            result => result,
        };
        if result.is_err() {
            self.forget_arriving(&digest);
        }
        result
    }

    fn write(&mut self, digest: Digest, at: u64, part: &[u8]) -> io::Result<bool> {
        if at == 0 && !self.arriving.contains_key(&digest) {
            self.temporary += 1;
            let path = self.home.rank_folder().join(format!("c{}", self.temporary));
            let file = File::options().write(true).create_new(true).mode(0o400).open(&path)?;
            self.arriving.insert(digest, Arriving { file, path, bytes: 0, hash: blake3::Hasher::new() });
        }
        // A content that was sent twice (asked for by a compile while it was on its way) starts over.
        let arriving = self.arriving.get_mut(&digest).filter(|arriving| at <= arriving.bytes);
        let Some(arriving) = arriving else {
            return Err(io::Error::other("a part of a content came without its beginning"));
        };
        // Of what came before, the first one counts: what is written is what was hashed.
        let fresh = usize::try_from(arriving.bytes - at).ok().and_then(|known| part.get(known..)).unwrap_or_default();
        arriving.file.write_all_at(fresh, arriving.bytes)?;
        arriving.bytes += fresh.len() as u64;
        arriving.hash.update(fresh);
        if arriving.bytes < digest.bytes {
            return Ok(false);
        }
        if arriving.bytes > digest.bytes || *arriving.hash.finalize().as_bytes() != digest.hash {
            return Err(io::Error::other("what arrived is not what was promised"));
        }
        fs::rename(&arriving.path, self.home.contents().join(digest.file_name()))?;
        self.arriving.remove(&digest);
        self.known.insert(digest, Instant::now());
        self.added += digest.bytes;
        if self.added > self.limit / LOOK_AFTER_PART {
            self.evict(self.limit);
        }
        Ok(true)
    }

    fn forget_arriving(&mut self, digest: &Digest) {
        if let Some(arriving) = self.arriving.remove(digest) {
            let _ = fs::remove_file(&arriving.path);
        }
    }

    /// If the contents exceed `limit` bytes, the longest unused go. If another rank is at it, it is left to it.
    fn evict(&mut self, limit: u64) {
        let Some(_office) = self.home.elect("evict") else { return };
        self.added = 0;
        let mut found: Vec<Content> = contents_of(&self.home.contents());
        let target = limit - limit / EVICTED_PART;
        let gone = to_evict(&mut found, limit, target);
        let removed: HashSet<_> = gone.iter().filter_map(|content| content.path.file_name()).collect();
        for content in gone {
            let _ = fs::remove_file(&content.path);
        }
        if !removed.is_empty() {
            self.known.retain(|digest, _| !removed.contains(digest.file_name().as_ref() as &std::ffi::OsStr));
        }
    }
}

struct Content {
    used: SystemTime,
    bytes: u64,
    path: PathBuf,
}

fn contents_of(folder: &Path) -> Vec<Content> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let content = |entry: fs::DirEntry| {
        let metadata = entry.metadata().ok()?;
        // What it takes, not what it holds: tmpfs gives whole pages, and headers are small.
        let bytes = metadata.blocks() * 512;
        Some(Content { used: metadata.modified().ok()?, bytes, path: entry.path() })
    };
    entries.filter_map(content).collect()
}

/// The contents to remove so that those that stay have at most `target` bytes; none unless they exceed `limit`.
fn to_evict(found: &mut [Content], limit: u64, target: u64) -> &[Content] {
    let mut total: u64 = found.iter().map(|content| content.bytes).sum();
    if total <= limit {
        return &[];
    }
    found.sort_by_key(|content| content.used);
    let mut count = 0;
    while total > target && count < found.len() {
        total -= found[count].bytes;
        count += 1;
    }
    &found[..count]
}

/// Marks a content as used now; fails if it is not there.
fn mark(path: &Path) -> nix::Result<()> {
    utimensat(AT_FDCWD, path, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW, UtimensatFlags::NoFollowSymlink)
}

/// Has the file system, or this user's part of it, no room left?
pub fn is_full(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOSPC | Errno::EDQUOT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::home::Session;
    use tempfile::TempDir;

    const LIMIT: u64 = 1 << 20;

    fn store(base: &TempDir, rank: i32, limit: u64) -> Store {
        Store::new(Home::open_in(&[base.path().to_path_buf()], &Session::new("s", false), rank).unwrap(), Some(limit))
    }

    /// A content of 64 KiB that differs from those of other numbers.
    fn content(number: u64) -> (Digest, Vec<u8>) {
        let content = number.to_le_bytes().repeat(8 << 10);
        (Digest::of(&content), content)
    }

    fn add(store: &mut Store, number: u64) -> Digest {
        let (digest, bytes) = content(number);
        assert!(store.receive(digest, 0, &bytes).unwrap());
        digest
    }

    /// As if the content had last been used so long ago.
    fn age(store: &Store, digest: &Digest, seconds: u64) {
        let file = File::open(store.path(digest)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    }

    #[test]
    fn contents_arrive_in_parts_and_are_shared() {
        let base = tempfile::tempdir().unwrap();
        let (mut one, mut two) = (store(&base, 1, LIMIT), store(&base, 2, LIMIT));
        let digest = Digest::of(b"hello world");
        assert!(!one.has(&digest));
        assert!(!one.receive(digest, 0, b"hello ").unwrap());
        assert!(!two.has(&digest), "half a content has no name");
        assert!(one.receive(digest, 6, b"world").unwrap());
        assert!(two.has(&digest));
        assert!(two.receive(digest, 0, b"hello ").unwrap(), "what is here need not come again");
        assert_eq!(fs::read(two.path(&digest)).unwrap(), b"hello world");
        assert_eq!(two.read(&digest, 6, 3).unwrap(), b"wor");
        assert_eq!(two.read(&digest, 6, 30).unwrap(), b"world");
        let empty = Digest::of(b"");
        assert!(one.receive(empty, 0, b"").unwrap());
    }

    #[test]
    fn a_content_sent_twice_at_once_is_whole() {
        let base = tempfile::tempdir().unwrap();
        let mut store = store(&base, 1, LIMIT);
        let digest = Digest::of(b"hello world");
        assert!(!store.receive(digest, 0, b"hello ").unwrap());
        assert!(!store.receive(digest, 0, b"hello ").unwrap());
        assert!(store.receive(digest, 6, b"world").unwrap());
        assert!(store.receive(digest, 6, b"world").unwrap());
        assert_eq!(fs::read(store.path(&digest)).unwrap(), b"hello world");
    }

    #[test]
    fn a_part_without_its_beginning_is_refused() {
        let base = tempfile::tempdir().unwrap();
        assert!(store(&base, 1, LIMIT).receive(Digest::of(b"abc"), 1, b"bc").is_err());
    }

    #[test]
    fn another_content_than_promised_gets_no_name() {
        let base = tempfile::tempdir().unwrap();
        let mut store = store(&base, 1, LIMIT);
        let digest = Digest::of(b"abc");
        for other in [b"abd".as_slice(), b"abcd"] {
            assert!(store.receive(digest, 0, other).is_err());
            assert!(!store.has(&digest));
        }
        assert!(!store.receive(digest, 0, b"ab").unwrap());
        assert!(store.receive(digest, 0, b"xyc").unwrap(), "of a part that came before, the first one counts");
        assert_eq!(fs::read(store.path(&digest)).unwrap(), b"abc");
    }

    #[test]
    fn the_longest_unused_go_first_whoever_used_them() {
        let base = tempfile::tempdir().unwrap();
        let (mut one, mut two) = (store(&base, 1, LIMIT), store(&base, 2, LIMIT));
        let digests: Vec<Digest> = (0..16).map(|number| add(&mut one, number)).collect();
        for (index, digest) in digests.iter().enumerate() {
            assert!(one.find(digest), "exactly the limit is not above it");
            age(&one, digest, 1000 - index as u64);
        }
        assert!(two.has(&digests[0]), "the other rank uses the oldest");
        let newest = add(&mut one, 16);
        assert!(one.find(&digests[0]) && one.find(&newest));
        let gone = digests.iter().filter(|digest| !one.find(digest)).collect::<Vec<_>>();
        assert_eq!(gone, digests[1..=5].iter().collect::<Vec<_>>(), "down to three quarters");
        assert!(two.has(&digests[0]));
    }

    #[test]
    fn what_another_rank_evicted_is_missed_when_looked_for() {
        let base = tempfile::tempdir().unwrap();
        let (mut one, mut two) = (store(&base, 1, LIMIT), store(&base, 2, LIMIT));
        let digest = add(&mut two, 0);
        assert!(one.has(&digest));
        two.evict(0);
        assert!(one.has(&digest), "it was here a moment ago");
        assert!(!one.find(&digest) && !one.has(&digest) && !two.has(&digest));
        assert!(one.receive(digest, 0, &content(0).1).unwrap());
        assert!(two.has(&digest), "it comes again");
    }

    #[test]
    fn a_rank_that_is_at_it_is_not_disturbed() {
        let base = tempfile::tempdir().unwrap();
        let (mut one, two) = (store(&base, 1, LIMIT), store(&base, 2, LIMIT));
        let digest = add(&mut one, 0);
        let office = two.home().elect("evict");
        one.evict(0);
        assert!(one.find(&digest));
        drop(office);
        one.evict(0);
        assert!(!one.find(&digest));
    }

    #[test]
    fn a_full_file_system_is_an_error_and_leaves_nothing() {
        let base = tempfile::tempdir().unwrap();
        let mut store = store(&base, 1, LIMIT);
        let digest = Digest::of(b"hello world");
        assert!(!store.receive(digest, 0, b"hello ").unwrap());
        let arriving = store.arriving.get_mut(&digest).unwrap();
        arriving.file = File::options().write(true).open("/dev/full").unwrap();
        assert!(is_full(&store.receive(digest, 6, b"world").unwrap_err()));
        assert_eq!(fs::read_dir(store.home().rank_folder()).unwrap().count(), 1, "the lock");
        assert!(store.receive(digest, 0, b"hello world").unwrap(), "the next attempt starts over");
    }
}
